"""Low-rank factors: the step beside the definition of LoRA.

Everything is float64: only rounding differs, 1e-10 of the largest number of a tensor.
"""

import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from trained_sets import (  # noqa: E402
    ADAPTED,
    ALPHA,
    CLOSE,
    FACTORS,
    LAYERS,
    RANK,
    SETS,
    assert_close,
    inputs_of,
    merged_by_hand,
    recipe_of,
    rung_of,
    slow_features,
)

from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.package.names import EMA, PARAM  # noqa: E402


@pytest.fixture(scope="module")
def program():
    return Program(recipe_of(trained=SETS[::-1]))  # merged whatever the first rung trains


def test_the_factors_begin_as_nothing_and_leave_the_other_values(program):
    state, plain = program.initial_state(), Program(recipe_of(trained=["all", "last-1"]))
    for name in FACTORS:
        assert state[PARAM + name].any() == name.endswith("lora_a")
    for layer, (inputs, outputs) in LAYERS.items():
        assert state[f"{PARAM}encoder.blocks.0.{layer}.lora_a"].shape == (inputs, RANK)
        assert state[f"{PARAM}encoder.blocks.0.{layer}.lora_b"].shape == (RANK, outputs)
    for name, value in plain.initial_state().items():
        if name.startswith(PARAM):
            assert torch.equal(state[name], value), name


def test_features_are_those_of_the_definition_before_and_after_the_merge(program):
    inputs = inputs_of(program)
    parameters = {n.removeprefix(PARAM): v for n, v in inputs.items() if n.startswith(PARAM)}
    images = torch.randint(0, 256, (3, 16, 16, 3), generator=torch.Generator().manual_seed(2))
    wanted = slow_features(parameters, images)
    rung = rung_of(program, f"lora-{RANK}")
    factored = rung.parametrization.weights(parameters, "student", {})
    assert factored.keys() >= FACTORS
    merged = program.merge(inputs)
    assert_close(
        merged, {name: merged_by_hand(inputs)[PARAM + name] for name in program.encoder_names}
    )
    for weights in (factored, merged):
        found = program.embed(weights, images.to(torch.uint8))
        assert (found - wanted).abs().max() <= 1e-6  # pixels are normalised in float32
    plain = {n: v for n, v in parameters.items() if n not in FACTORS}
    for wrong in (plain, parameters):  # without factors, and without their scale
        assert (program.embed(wrong, images.to(torch.uint8)) - wanted).abs().max() > 1e-3


def test_all_rungs_compute_the_same_loss(program):
    inputs = inputs_of(program)
    parameters = {n: inputs[PARAM + n] for n in program.parameters}
    losses = {t: rung_of(program, t).loss(parameters, inputs)[0] for t in SETS}
    hand = merged_by_hand(merged_by_hand(inputs), EMA)
    plain = Program(recipe_of(trained=["all"]))
    wanted = rung_of(plain, "all").loss({n: hand[PARAM + n] for n in plain.parameters}, hand)[
        0
    ]
    for trained, loss in losses.items():
        assert float(loss) == pytest.approx(float(wanted), rel=CLOSE), trained


def test_gradients_of_the_factors_follow_from_that_of_the_weight(program):
    """G = dL/dW of the merged weight: dL/dA = s G B^T, dL/dB = s A^T G."""
    inputs = inputs_of(program)
    whole, _ = rung_of(program, "all").gradient(inputs)
    factors, _ = rung_of(program, f"lora-{RANK}").gradient(inputs)
    wanted = {name: whole[name] for name in factors if name not in FACTORS}
    for layer in ADAPTED:
        a, b = (inputs[f"{PARAM}{layer}.lora_{factor}"] for factor in "ab")
        gradient = ALPHA / RANK * whole[f"{layer}.weight"]
        wanted |= {f"{layer}.lora_a": gradient @ b.T, f"{layer}.lora_b": a.T @ gradient}
    assert_close(factors, wanted)


def test_the_teacher_averages_the_factors(program):
    inputs = inputs_of(program)
    rung = rung_of(program, f"lora-{RANK}")
    new = rung.step(inputs).tensors
    momentum = inputs["ema_momentum"]
    for name in FACTORS:
        average = momentum * inputs[EMA + name] + (1 - momentum) * new[f"next.{PARAM}{name}"]
        assert torch.allclose(new[f"next.{EMA}{name}"], average, rtol=CLOSE, atol=0)
    frozen = {EMA + name for name in program.encoder_names}
    assert not {f"next.{name}" for name in frozen} & new.keys()
    weights = rung._teacher(inputs, {})
    hand = merged_by_hand(inputs, EMA)
    assert_close(weights, {n: hand[EMA + n] for n in weights})


def test_the_parametrization_follows_from_the_rungs():
    recipe = recipe_of(trained=["all", "lora-3"])
    assert recipe.parametrization.name == "lora"
    assert recipe.parametrization.options == {"rank": 3}
    assert make_recipe(recipe.table(), where="again") == recipe
    assert recipe_of(trained=["all", "biases"]).parametrization.name == "none"
    given = recipe_of(trained=["lora-3"], parametrization={"name": "lora", "rank": 3})
    assert given.parametrization == recipe.parametrization
