"""Rungs that train biases, or low-rank factors: the graph beside slow definitions.

Where PyTorch computes both sides, everything is float64: only rounding differs, 1e-10 of the
largest number of a tensor.
"""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

import onnx  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402
from torch.nn.functional import gelu, layer_norm  # noqa: E402

from edge_export.analysis.shapes import tensor_shapes  # noqa: E402
from edge_export.ort_training import artifacts  # noqa: E402
from edge_export.package import verify  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.graphs import step_inputs  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import (  # noqa: E402
    create_engine,
    create_forward_engine,
    encoder_weights,
)
from edge_runtime.package.names import BUFFER, EMA, EXP_AVG, EXP_AVG_SQ, PARAM  # noqa: E402

RANK, ALPHA = 2, 16
CLOSE = 1e-10
DEPTH, WIDTH, HEADS = 2, 12, 2
SETS = ("all", "last-1", "biases", f"lora-{RANK}")
TABLE = {
    "model": {
        "image_size": 16,
        "patch_size": 8,
        "depth": DEPTH,
        "width": WIDTH,
        "heads": HEADS,
    },
    "method": {"name": "byol", "projector_width": 16, "projector_out": 8},
    "tokens": {"name": "none"},
    "trained": list(SETS),
    "batch_size": 4,
}
LAYERS = {  # name -> inputs, outputs
    "attn.qkv": (WIDTH, 3 * WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.fc1": (WIDTH, 4 * WIDTH),
    "mlp.fc2": (4 * WIDTH, WIDTH),
}
ADAPTED = [f"encoder.blocks.{block}.{layer}" for block in range(DEPTH) for layer in LAYERS]
FACTORS = {f"{layer}.lora_{factor}" for layer in ADAPTED for factor in "ab"}


def recipe_of(**changes):
    return make_recipe({**TABLE, **changes}, where="test")


@pytest.fixture(scope="module")
def program():
    return Program(recipe_of())


def rung_of(program, trained):
    return program.bind(next(each for each in program.settings if each.trained == trained))


def inputs_of(program):
    """Those of a step, float64; every factor and the teacher's differ from all others."""
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + torch.randn(value.shape, generator=generator) / 10
        if name.startswith((PARAM, EMA))
        else value
        for name, value in program.initial_state().items()
    }
    tensors = step_inputs(rung_of(program, "all"), state).tensors
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def merged_by_hand(values, prefix=PARAM):
    """W + alpha / R A B for every adapted layer, factors left out."""
    merged = {
        name: value
        for name, value in values.items()
        if not (name.startswith(prefix) and ".lora_" in name)
    }
    for layer in ADAPTED:
        a, b = (values[f"{prefix}{layer}.lora_{factor}"] for factor in "ab")
        merged[f"{prefix}{layer}.weight"] = (
            values[f"{prefix}{layer}.weight"] + ALPHA / RANK * a @ b
        )
    return merged


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= CLOSE * value.abs().max(), name


def test_every_set_has_its_parameters(program):
    names = set(program.parameters)
    outside = {name for name in names if not name.startswith("encoder.")}
    assert outside
    vectors = {
        name
        for name in names
        if re.search(r"\.bias$|\.norm[12]\.weight$|^encoder\.norm\.weight$", name)
    }
    last = {name for name in names if name.startswith(("encoder.blocks.1.", "encoder.norm."))}
    wanted = {
        "all": names - FACTORS,
        "last-1": outside | (last - FACTORS),
        "biases": outside | vectors,
        f"lora-{RANK}": outside | FACTORS,
    }
    assert {trained: set(program.trained_names(trained)) for trained in SETS} == wanted


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


def low_rank_layer(values, layer, x):
    """x W + b + alpha / R x A B, one row at a time."""
    weight, bias, a, b = (
        values[f"{layer}.{name}"] for name in ("weight", "bias", "lora_a", "lora_b")
    )
    rows = [row @ weight + bias + ALPHA / RANK * ((row @ a) @ b) for row in x.flatten(0, -2)]
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


def slow_block(values, block, x):
    """A pre-norm block of x (S, T, D) after the definition, one head at a time."""
    name = f"encoder.blocks.{block}"

    def norm(number, x):
        scale, shift = (values[f"{name}.norm{number}.{k}"] for k in ("weight", "bias"))
        return layer_norm(x, (WIDTH,), scale, shift, 1e-6)

    qkv = low_rank_layer(values, f"{name}.attn.qkv", norm(1, x))
    size, mixed = WIDTH // HEADS, []
    for head in range(HEADS):
        first = head * size
        q, k, v = (qkv[..., at + first : at + first + size] for at in (0, WIDTH, 2 * WIDTH))
        mixed.append((q @ k.transpose(1, 2) / size**0.5).softmax(dim=-1) @ v)
    x = x + low_rank_layer(values, f"{name}.attn.proj", torch.cat(mixed, dim=-1))
    hidden = gelu(low_rank_layer(values, f"{name}.mlp.fc1", norm(2, x)))
    return x + low_rank_layer(values, f"{name}.mlp.fc2", hidden)


def slow_features(values, images):
    """Features of images (S, 16, 16, 3) in [0, 255]: normalised with mean and std 0.5."""
    pixels = (images.double() / 255 - 0.5) / 0.5
    patches = [
        pixels[:, row : row + 8, column : column + 8].flatten(1)
        for row in (0, 8)
        for column in (0, 8)
    ]
    kernel, bias = (values[f"encoder.patch_embed.proj.{k}"] for k in ("weight", "bias"))
    tokens = torch.stack(patches, dim=1) @ kernel + bias
    x = torch.cat([values["encoder.cls_token"].expand(len(images), 1, -1), tokens], dim=1)
    x = x + values["encoder.pos_embed"]
    for block in range(DEPTH):
        x = slow_block(values, block, x)
    scale, shift = values["encoder.norm.weight"], values["encoder.norm.bias"]
    return layer_norm(x[:, 0], (WIDTH,), scale, shift, 1e-6)


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


def test_a_part_has_the_gradients_of_the_whole(program):
    inputs = inputs_of(program)
    whole, _ = rung_of(program, "all").gradient(inputs)
    for trained in ("biases", "last-1"):
        part, _ = rung_of(program, trained).gradient(inputs)
        assert_close(part, {name: whole[name] for name in program.trained_names(trained)})


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


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Exported, with artifacts of the official API if they were possible."""
    folder = tmp_path_factory.mktemp("sets") / "package"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "is_available", lambda: True)
        yield export_package(recipe_of(), folder, init=None, report=lambda *_: None)


@pytest.mark.parametrize("trained", SETS)
def test_a_step_on_the_engine_is_pytorchs(package, program, trained):
    """The export compares initial states, in which B is zero and so is the gradient of A."""
    generator, state = np.random.default_rng(3), dict(package.initial_state())
    for name in (name for name in state if name.endswith("lora_b")):
        if name.startswith((PARAM, EMA)):
            state[name] = generator.normal(0, 0.1, state[name].shape).astype(np.float32)
    rung = rung_of(program, trained)
    verify._verify_rung(package, rung, package.rung(rung.settings.id), "ort", state)


def trained_on(package, rungs):
    """The state before the first and after every step, on these rungs."""
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        yield package.initial_state()
        for step, rung in enumerate(rungs, start=1):
            engine.step(rung, noise_batch(package, "k100", step), hyper_of(package, step))
            yield engine.snapshot()


def test_the_official_api_is_refused(package):
    reason = "parametrization 'lora' is not supported by it"
    assert package.manifest.ort_training.refused == reason
    biases = Program(recipe_of(trained=["biases"]))
    assert artifacts.refusal(biases) == (
        "trained: the ort-training optimizer updates every parameter"
    )


def test_a_step_changes_its_set_alone_whatever_was_trained_before(package, program):
    ids = {f"k100-{name}" if name != "all" else "k100": name for name in SETS}
    turns = ["k100", "k100-lora-2", "k100-biases", "k100-last-1", "k100-lora-2", "k100"]
    before, *states = trained_on(package, turns)
    for rung, after in zip(turns, states, strict=True):
        names = set(program.trained_names(ids[rung]))
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        for prefix in (PARAM, EXP_AVG, EXP_AVG_SQ):
            moved = {n.removeprefix(prefix) for n in changed if n.startswith(prefix)}
            # While B is zero, so is the gradient of A: weight decay alone changes it.
            still = {n for n in names if n.endswith("lora_a") and prefix != PARAM}
            still = still if not before[f"{PARAM}{ADAPTED[0]}.lora_b"].any() else set()
            assert moved == names - still, (rung, prefix)
        copied = {n.removeprefix(EMA) for n in changed if n.startswith(EMA)}
        assert copied == names & set(program.teacher_names), rung
        assert not any(name.startswith(BUFFER) for name in changed)
        before = after


def test_the_exported_weights_are_merged(package):
    *_, state = trained_on(package, ["k100-lora-2"] * 3 + ["k100"])
    assert all(state[PARAM + name].any() for name in FACTORS)
    found = encoder_weights(package, state)
    wanted = merged_by_hand({n: torch.from_numpy(v) for n, v in state.items()})
    for name, value in found.items():  # float32: the merge graph's product and PyTorch's
        np.testing.assert_allclose(value, wanted[PARAM + name], rtol=1e-6, atol=1e-7)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with create_forward_engine(threads=1) as engine:
        engine.open(package, package.manifest.embed, found)
        features = engine.run(images)
    values = {
        n.removeprefix(PARAM): torch.from_numpy(v).double()
        for n, v in state.items()
        if n.startswith(PARAM)
    }
    expected = slow_features(values, torch.from_numpy(images))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def products(package, rung_id):
    """Sizes of the results of the rung's matrix products."""
    model = onnx.load(package.file(package.rung(rung_id).graphs["step"]))
    shapes = tensor_shapes(model)
    kinds = ("MatMul", "Gemm")
    return [shapes[n.output[0]].sizes for n in model.graph.node if n.op_type in kinds]


def test_frozen_matrices_cost_no_gradient(package):
    """No product of a set's graph has the size of a weight that it leaves out.

    But for the merge, which multiplies factors of rank R: one product per adapted matrix and
    branch that is merged.
    """
    sizes = {tuple(sorted(shape)) for shape in LAYERS.values()}
    count = {
        rung: sum(tuple(sorted(size)) in sizes for size in products(package, rung))
        for rung in ("k100", "k100-last-1", "k100-biases", "k100-lora-2")
    }
    student, teacher, gradients = len(ADAPTED), len(ADAPTED), len(ADAPTED)
    assert count == {
        "k100": student + teacher + gradients,
        "k100-last-1": student + teacher + gradients // DEPTH,
        "k100-biases": student + teacher,
        "k100-lora-2": teacher,
    }


def test_a_smaller_set_needs_fewer_flops_and_less_memory(package):
    rungs = {rung.id: rung for rung in package.manifest.rungs}
    whole = rungs["k100"]
    for name in ("last-1", "biases", "lora-2"):
        assert rungs[f"k100-{name}"].flops < whole.flops, name
    for name in ("last-1", "biases"):  # factors need the inputs of their layers, as weights do
        smaller = rungs[f"k100-{name}"].peak_activation_bytes
        assert smaller < whole.peak_activation_bytes, name


def test_half_precision_with_micro_batches_is_exported(tmp_path):
    """Verified in float32 with the same graphs; the factors are float16 in their products."""
    recipe = recipe_of(trained=["lora-2"], precision="fp16", micro_batches=[2])
    package = export_package(recipe, tmp_path / "package", init=None, report=lambda *_: None)
    _, parts = package.manifest.rungs
    model = onnx.load(package.file(parts.graphs["accumulate"]))
    cast = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    assert {PARAM + name for name in FACTORS if name.endswith("lora_a")} <= cast


def test_an_update_of_the_factors_is_counted_apart(program):
    groups = program.update_groups
    assert groups["encoder.blocks.0.mlp.fc1.lora_a"] == "lora-2"
    assert groups["encoder.blocks.0.mlp.fc1.weight"] == "all"
    assert groups["encoder.blocks.0.mlp.fc1.bias"] == "all+biases"
    assert groups["projector.0.weight"] == "all+last-1+biases+lora-2"


def test_the_parametrization_follows_from_the_rungs():
    recipe = recipe_of(trained=["all", "lora-3"])
    assert recipe.parametrization.name == "lora"
    assert recipe.parametrization.options == {"rank": 3}
    assert make_recipe(recipe.table(), where="again") == recipe
    assert recipe_of(trained=["all", "biases"]).parametrization.name == "none"
    same = {**TABLE, "trained": ["lora-3"], "parametrization": {"name": "lora", "rank": 3}}
    assert make_recipe(same, where="given").parametrization == recipe.parametrization
