"""Self-distillation across depths: the term, where its gradients go, that it is optional."""

from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the term is a torch function")

from losses import DIFFERENCES, cosine, differences, head_slowly, random_values  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.context import Encoding, StepContext  # noqa: E402
from edge_export.models import model_facts  # noqa: E402
from edge_export.objectives import SelfDistillation  # noqa: E402
from edge_export.ort_training.artifacts import refusal  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.policies import POLICIES  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.example import example_draws, example_images  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_export.vit import ENCODER  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.names import LOSS, PARAM  # noqa: E402

WIDTH, WEIGHT = 5, 0.3
TERM = "self_distillation"


def part(depth, weight=WEIGHT):
    model = model_facts(
        "vit_tiny", image_size_px=8, patch_size_px=4, width=WIDTH, heads=1, depth=depth
    )
    return SelfDistillation(model, weight)


@pytest.mark.parametrize(
    ("depth", "taps"),
    [
        (12, (4, 8)),
        (24, (8, 16)),
        (6, (2, 4)),
        (5, (2, 3)),
        (4, (1, 3)),
        (3, (1, 2)),
        (2, (1,)),
    ],
)
def test_taps_are_after_a_third_and_two_thirds_of_the_blocks(depth, taps):
    assert part(depth).taps == taps


# The term.


def views_of(count, taps, seed):
    """An encoding of three pictures in `count` views, random in float64."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1 + len(taps), count, 3, WIDTH, generator=generator).double()
    kept = torch.zeros(count, 3, 0, dtype=torch.int64)
    inner = dict(zip(taps, values[1:], strict=True))
    return Encoding(features=values[0], kept=kept, tokens=None, taps=inner)


def term_of(distillation, weights, student):
    return distillation.loss(
        StepContext(
            weights=weights,
            teacher_weights={},
            student=student,
            teacher={},
            patches={},
            draws={},
            hyper={},
            buffers={},
            recorded={},
        )
    )


def term_slowly(distillation, weights, student, finals):
    """Mean over taps, views and pictures of 1 - cos; `finals`: features by view group."""
    distances = []
    for blocks in distillation.taps:
        for name, encoding in student.items():
            for inner, final in zip(encoding.taps[blocks].tolist(), finals[name], strict=True):
                head = head_slowly(weights, f"{TERM}.{blocks}", 2, inner)
                distances += [1 - cosine(p, z) for p, z in zip(head, final, strict=True)]
    return mean(distances)


def finals_of(student):
    return {name: each.features.tolist() for name, each in student.items()}


@pytest.mark.parametrize("depth", [2, 12], ids=["one tap", "two taps"])
@pytest.mark.parametrize("views", [{"global": 2}, {"global": 2, "local": 3}], ids=str)
def test_the_term_is_its_definition(depth, views):
    distillation = part(depth)
    weights = random_values(distillation.declaration.parameters, 1)
    student = {n: views_of(v, distillation.taps, v) for n, v in views.items()}
    result = term_of(distillation, weights, student)
    wanted = term_slowly(distillation, weights, student, finals_of(student))
    assert result.metrics.keys() == {TERM}
    assert result.metrics[TERM].item() == pytest.approx(wanted, rel=1e-10)
    assert result.loss.item() == pytest.approx(WEIGHT * wanted, rel=1e-10)
    assert not result.buffers


def test_its_gradient_is_that_of_the_definition_with_the_targets_held():
    distillation = part(2)
    weights = random_values(distillation.declaration.parameters, 1)
    encoding = views_of(1, distillation.taps, 2)
    inner, final = encoding.taps[1].requires_grad_(), encoding.features.requires_grad_()
    finals = {"global": final.tolist()}

    def slow(values):
        moved = replace(encoding, taps={1: torch.tensor(values, dtype=torch.float64)})
        return WEIGHT * term_slowly(distillation, weights, {"global": moved}, finals)

    loss = term_of(distillation, weights, {"global": encoding}).loss
    actual, through = torch.autograd.grad(loss, [inner, final], allow_unused=True)
    assert through is None
    wanted = differences(slow, inner.detach().numpy())
    np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(deadline=None)
def test_only_directions_of_the_final_features_count_and_the_term_has_bounds(seed, scale):
    distillation = part(2)
    weights = random_values(distillation.declaration.parameters, seed)
    encoding = views_of(2, distillation.taps, seed + 1)
    longer = replace(encoding, features=encoding.features * scale)
    value = term_of(distillation, weights, {"global": encoding}).metrics[TERM].item()
    other = term_of(distillation, weights, {"global": longer}).metrics[TERM].item()
    assert 0 <= value <= 2
    assert other == pytest.approx(value, rel=1e-9)


# In a step.


def program(method="simclr", policy="none", weight=WEIGHT, features="class-token", **changes):
    table = {
        "model": {
            "image_size": 16,
            "patch_size": 4,
            "depth": 6,
            "width": 24,
            "heads": 2,
            "features": features,
        },
        "batch_size": 4,
        "method": {"name": method},
        "tokens": {"name": policy},
        "keep_ratios": [1.0 if policy == "none" else 0.5],
        "self_distillation": {"weight": weight},
    }
    return Program(make_recipe({**table, **changes}, where="test"))


def inputs_of(bound):
    """State, batch and hyper-parameters of a step, in float64 where the state is."""
    rung = bound.bind(bound.settings[0])
    state = {
        name: value.double() if value.is_floating_point() else value
        for name, value in bound.initial_state().items()
    }
    hyper = {
        name: torch.tensor(curve.at(1, steps_per_epoch=1, total_steps=1)).double()
        for name, curve in bound.hyper_parameters.items()
    }
    return {**state, **hyper, **example_images(rung), **example_draws(rung)}


def parameters_of(bound, inputs):
    return {name: inputs[PARAM + name] for name in bound.parameters}


def is_deep(name, last_tap=4):
    """Whether a parameter of the encoder acts only after the last tap."""
    block = name.removeprefix(f"{ENCODER}blocks.").partition(".")[0]
    after = block.isdigit() and int(block) >= last_tap
    return after or name.startswith(f"{ENCODER}norm.")


@pytest.mark.parametrize("features", ["class-token", "mean-patches"])
@pytest.mark.parametrize(
    ("method", "policy"),
    [("simclr", "none"), ("byol", "random"), ("dino", "evit"), ("mae", "random")],
)
def test_deep_blocks_and_the_final_norm_get_no_gradient(method, policy, features):
    """Exactly zero; every parameter before the last tap, and every head, gets one."""
    bound = program(method, policy, features=features)
    inputs = inputs_of(bound)
    weights = {k: v.requires_grad_() for k, v in parameters_of(bound, inputs).items()}
    _, outputs = bound.bind(bound.settings[0]).loss(weights, inputs)
    gradients = dict(
        zip(
            weights,
            torch.autograd.grad(
                outputs.metrics[TERM], list(weights.values()), allow_unused=True
            ),
            strict=True,
        )
    )
    reached = {name for name, gradient in gradients.items() if gradient is not None}
    own = {name for name in weights if name.startswith(TERM)}
    shallow = {name for name in weights if name.startswith(ENCODER) and not is_deep(name)}
    assert len(own) == 12  # two heads of two layers and a norm
    assert reached == own | shallow
    assert all(gradients[name].abs().max() > 0 for name in reached)


@pytest.mark.parametrize("method", ["simclr", "mocov3"])
def test_the_weight_changes_nothing_else_of_a_step(method):
    """Same loss plus the term; gradients of all that the term does not reach are bit-equal."""
    plain, distilled = program(method, "random", weight=0), program(method, "random")
    inputs = inputs_of(distilled)
    wanted, outputs = plain.bind(plain.settings[0]).gradient(inputs)
    actual, more = distilled.bind(distilled.settings[0]).gradient(inputs)
    term = more.metrics.pop(TERM)
    assert outputs.metrics.keys() == more.metrics.keys()
    assert more.metrics[LOSS].item() == pytest.approx(
        (outputs.metrics[LOSS] + WEIGHT * term).item(), rel=1e-12
    )
    reached = {n for n in wanted if n.startswith(ENCODER) and not is_deep(n)}
    for name, gradient in wanted.items():
        assert torch.equal(actual[name], gradient) == (name not in reached), name
    assert {n.partition(".")[0] for n in actual.keys() - wanted.keys()} == {TERM}


def test_without_a_weight_there_is_no_head_and_no_tap():
    """That graphs are the same bytes as without the feature, the self-test package shows."""
    plain = program(weight=0)
    rung = plain.bind(plain.settings[0])
    inputs = inputs_of(plain)
    assert not [name for name in plain.initial_state() if TERM in name]
    _, outputs = rung.loss(parameters_of(plain, inputs), inputs)
    assert outputs.metrics.keys() == {LOSS}
    (encoder,) = rung._encoders.values()
    assert encoder.encode(parameters_of(plain, inputs), {}, inputs).student.taps == {}


def test_heads_change_no_other_initial_value_and_have_no_teacher():
    plain, distilled = program("mocov3", weight=0), program("mocov3")
    wanted, actual = plain.initial_state(), distilled.initial_state()
    assert all(torch.equal(actual[name], value) for name, value in wanted.items())
    own = {name.partition(".")[0] for name in actual.keys() - wanted.keys()}
    assert own == {"param", "exp_avg", "exp_avg_sq"}
    assert distilled.encoder_names == plain.encoder_names


@pytest.mark.parametrize("features", ["class-token", "mean-patches"])
@pytest.mark.parametrize("policy", ["none", "random", "evit", "tome", "simprune"])
def test_taps_pool_the_tokens_that_are_present(monkeypatch, policy, features):
    seen = {}

    class Seeing(POLICIES[policy]):
        def before_block(self, block, branches):
            student = branches.student
            seen[block] = student.x, student.sizes  # as the block before left them
            super().before_block(block, branches)

    monkeypatch.setitem(POLICIES, policy, Seeing)
    bound = program(policy=policy, features=features)
    rung, inputs = bound.bind(bound.settings[0]), inputs_of(bound)
    weights = parameters_of(bound, inputs)
    (encoder,) = rung._encoders.values()
    taps = encoder.encode(weights, {}, inputs).student.taps
    assert taps.keys() == {2, 4}
    shortened = policy != "none"
    assert (seen[4][0].shape[1] < 17) == shortened
    for block, tap in taps.items():
        x, sizes = seen[block]
        if features == "class-token":
            wanted = x[:, 0]
        else:
            counts = torch.ones(x.shape[:2]) if sizes is None else sizes
            rows = zip(x[:, 1:], counts[:, 1:].tolist(), strict=True)
            wanted = torch.stack(
                [
                    sum(n * token for token, n in zip(tokens, each, strict=True)) / sum(each)
                    for tokens, each in rows
                ]
            )
        np.testing.assert_allclose(tap.flatten(0, 1), wanted, rtol=1e-12, atol=1e-14)


# Packages.


def export(folder, **changes):
    table = {
        "model": {"image_size": 16, "patch_size": 4, "depth": 3, "width": 16, "heads": 2},
        "method": {
            "name": "byol",
            "projector_width": 16,
            "projector_out": 8,
            "head_norm": "layer",
        },
        "batch_size": 4,
        "keep_ratios": [0.5],
        "self_distillation": {"weight": WEIGHT},
        **changes,
    }
    recipe = make_recipe(table, where="test")
    return export_package(
        recipe, folder / "package", init=None, report=lambda *_: None, verify_all=True
    )


def after_a_step(package, rung_id):
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        whole = package.manifest.rungs[0].id
        result = engine.step(rung_id, noise_batch(package, whole, 1), hyper_of(package, 1))
        return result.metrics, engine.snapshot()


def test_micro_batches_are_exact_and_the_export_has_no_heads(tmp_path):
    """The export itself compares loss, metric and every gradient with PyTorch's."""
    package = export(tmp_path, micro_batches=[2])
    manifest = package.manifest
    assert manifest.ort_training.refused == (
        "self_distillation.weight: the official training API cannot stop a gradient"
    )
    assert not [each.name for each in manifest.encoder if TERM in each.name]
    assert not [
        each.name for each in manifest.graphs[manifest.embed].inputs if TERM in each.name
    ]
    whole, parts = manifest.rungs
    metrics, state = after_a_step(package, whole.id)
    assert 0 < metrics[TERM] < 2
    part_metrics, part_state = after_a_step(package, parts.id)
    assert part_metrics == pytest.approx(metrics, rel=1e-5)
    for name in (name for name in state if name.startswith("exp_avg.")):
        error = np.linalg.norm(part_state[name] - state[name])
        assert error <= 1e-5 * np.linalg.norm(state[name]) + 1e-8, name


def test_half_precision(tmp_path):
    """The export compares its graphs, in float32; PyTorch's own float16 is near float64."""
    package = export(tmp_path, precision="fp16")
    halves = Program(make_recipe(package.manifest.recipe, where="manifest"))
    inputs = {
        name: value.float() if value.dtype == torch.float64 else value
        for name, value in inputs_of(halves).items()
    }
    gradients, outputs = halves.bind(halves.settings[0]).gradient(inputs)
    table = {**package.manifest.recipe, "precision": "fp32"}
    exact = Program(make_recipe(table, where="manifest"))
    wanted, others = exact.bind(exact.settings[0]).gradient(inputs_of(exact))
    assert outputs.metrics[TERM].item() == pytest.approx(others.metrics[TERM].item(), rel=1e-3)
    for name in (name for name in wanted if name.startswith(TERM)):
        error = (gradients[name] - wanted[name]).norm()
        assert error <= 1e-2 * wanted[name].norm(), name


def test_the_official_api_is_refused_before_anything_is_generated():
    assert refusal(program()).startswith("self_distillation.weight: ")
    assert "self_distillation" not in (refusal(program(weight=0)) or "")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"weight": 0.1},
            r"self_distillation.weight: a model of one block has no features before its last",
        ),
        ({"weight": -1.0}, r"self_distillation.weight: expected a number in \[0, 10000\]"),
        ({"weight": float("nan")}, "self_distillation.weight: expected"),
        ({"weights": 1.0}, "self_distillation: unknown key weights; known are weight"),
    ],
)
def test_what_cannot_work_is_refused(table, message):
    model = {"image_size": 16, "patch_size": 4, "depth": 1}
    with pytest.raises(ConfigError, match=message):
        make_recipe({"model": model, "self_distillation": table}, where="test")
