"""DINO against slow definitions in float64, its views, its centre, and micro-batches."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="losses are torch functions")

from losses import (  # noqa: E402
    DIFFERENCES,
    ZA,
    ZB,
    differences,
    gradient_of,
    head_slowly,
    sines,
)
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.context import Encoding, StepContext  # noqa: E402
from edge_export.models import model_facts  # noqa: E402
from edge_export.objectives.dino import (  # noqa: E402
    DINO,
    DINOOptions,
    cross_entropy,
)
from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.curves import Curve  # noqa: E402

RELATIVE = 1e-12
WIDTH, BATCH, PROTOTYPES = 6, 3, 7
OPTIONS = DINOOptions(
    projector_width=5, projector_out=4, prototypes=PROTOTYPES, centre_momentum=0.8
)
MODEL = model_facts(
    "vit_tiny", image_size_px=8, patch_size_px=4, width=WIDTH, heads=1, depth=1
)


# Slow definitions. Never optimise these.


def softmax_slowly(logits):
    exponentials = [math.exp(x) for x in logits]
    return [x / sum(exponentials) for x in exponentials]


def cross_entropy_slowly(teachers, students):
    """`DINOLoss.forward` of the authors' code: every pair (teacher's view, student's view).

    Pairs of equal indices are left out: the global views are the first of both lists.
    """
    losses = []
    for i, teacher in enumerate(teachers):
        for v, student in enumerate(students):
            if v == i:
                continue
            for target, logits in zip(teacher, student, strict=True):
                p, q = softmax_slowly(target), softmax_slowly(logits)
                losses.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    return sum(losses) / len(losses)


def scores_slowly(weights, row):
    """`DINOHead.forward`: MLP, l2 norm, and a last layer with weight_norm and gain 1."""
    (row,) = head_slowly(weights, "projector", 3, [row])
    length = math.sqrt(sum(x * x for x in row))
    row = [x / length for x in row]
    scores = []
    for prototype in weights["prototypes.weight"].T.tolist():
        size = math.sqrt(sum(x * x for x in prototype))
        scores.append(sum(x * y / size for x, y in zip(row, prototype, strict=True)))
    return scores


# The loss.


@st.composite
def logits(draw):
    """Teachers (2, B, K) and students (V, B, K) float64."""
    views, count, width = (draw(st.integers(low, 5)) for low in (2, 1, 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 1.0, 20.0]))
    both = torch.randn(2 + views, count, width, generator=generator, dtype=torch.float64)
    return scale * both[:2], scale * both[2:]


def same(value):
    return pytest.approx(value, rel=RELATIVE, abs=1e-12)


@given(logits())
@settings(deadline=None)
def test_the_loss_is_its_definition(given_logits):
    teachers, students = given_logits
    wanted = cross_entropy_slowly(teachers.tolist(), students.tolist())
    assert cross_entropy(teachers, students).item() == same(wanted)


def test_the_loss_has_the_value_of_other_implementations():
    """Two teachers and four students: the pairs 0-1, 0-2, 0-3, 1-0, 1-2 and 1-3.

    That value was computed with a teacher's temperature of float32, as a step's
    hyper-parameters are here, too; with 0.04 in float64 it is 7.032445998303566.
    """
    students = torch.stack([ZA / 2, ZB / 2, sines(3, 2, 5), sines(4, 1, 3)]) / 0.1
    for temperature, value in (
        (torch.tensor(0.04), 7.032445988799651),
        (0.04, 7.032445998303566),
    ):
        loss = cross_entropy(torch.stack([ZA, ZB]) / temperature, students)
        assert loss.item() == pytest.approx(value, rel=1e-14)


def test_the_gradient_of_the_loss_is_that_of_its_definition():
    teachers = torch.stack([ZA, ZB])[:, :2]
    students = torch.stack([ZA, ZB, sines(3, 2, 5)])[:, :2]
    actual = gradient_of(lambda x: cross_entropy(teachers, x), students)
    wanted = differences(
        lambda x: cross_entropy_slowly(teachers.tolist(), x), students.numpy()
    )
    np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


@given(logits(), st.floats(-50, 50))
@settings(deadline=None)
def test_the_loss_does_not_depend_on_a_constant_in_all_logits(given_logits, constant):
    teachers, students = given_logits
    moved = cross_entropy(teachers + constant, students - constant)
    # A constant of 50 costs float64 two digits
    assert moved.item() == pytest.approx(
        cross_entropy(teachers, students).item(), rel=1e-10, abs=1e-10
    )


@given(logits())
@settings(deadline=None)
def test_the_loss_is_at_least_the_teachers_entropy(given_logits):
    """And it is that entropy if the student's distribution is the teacher's."""
    teachers, students = given_logits
    targets = teachers.softmax(dim=2)
    entropy = -(targets * targets.log()).sum(dim=2).mean().item()
    assert cross_entropy(teachers, students).item() >= entropy - 1e-12
    alike = teachers[:1].expand(2, -1, -1)
    targets = alike.softmax(dim=2)
    entropy = -(targets * targets.log()).sum(dim=2).mean().item()
    assert cross_entropy(alike, alike).item() == same(entropy)


@given(logits())
@settings(deadline=None)
def test_a_view_is_not_compared_with_itself(given_logits):
    """With two views, swapping both branches' views changes nothing; the pairs do."""
    teachers, students = given_logits
    pair = students[:2]
    swapped = cross_entropy(teachers.flip(0), pair.flip(0)).item()
    assert swapped == same(cross_entropy(teachers, pair).item())
    others = zip(teachers, pair.flip(0), strict=True)
    crossed = [cross_entropy_slowly([teacher], [[], other]) for teacher, other in others]
    assert swapped == same(sum(crossed) / 2)


# The whole objective.


def random_weights(objective, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        p.name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for p in objective.declaration.parameters
    }


def features(seed, views):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, BATCH, WIDTH, generator=generator, dtype=torch.float64)


def encoding(values):
    kept = torch.zeros(*values.shape[:2], 0, dtype=torch.int64)
    return Encoding(features=values, kept=kept, tokens=None)


def test_the_head_is_its_definition():
    dino = DINO(MODEL, OPTIONS)
    weights, rows = random_weights(dino, 1), features(2, 2)
    actual = dino._scores(weights, rows)
    wanted = [[scores_slowly(weights, row) for row in view] for view in rows.tolist()]
    np.testing.assert_allclose(actual, wanted, rtol=1e-11, atol=1e-11)
    assert actual.abs().max() <= 1


@pytest.mark.parametrize("local_views", [0, 3])
def test_dino_is_its_definition(local_views):
    """Which views meet which, through which weights, and the next centre."""
    dino = DINO(MODEL, dataclasses.replace(OPTIONS, local_views=local_views))
    weights, teacher_weights = random_weights(dino, 1), random_weights(dino, 2)
    whole, local, teacher = features(3, 2), features(4, local_views), features(5, 2)
    centre = torch.linspace(-1, 1, PROTOTYPES, dtype=torch.float64)
    groups = {"global": encoding(whole)}
    if local_views:
        groups["local"] = encoding(local)
    result = dino.loss(
        StepContext(
            weights=weights,
            teacher_weights=teacher_weights,
            student=groups,
            teacher={"global": encoding(teacher)},
            patches={},
            draws={},
            hyper={"teacher_temperature": torch.tensor(0.05, dtype=torch.float64)},
            buffers={"centre": centre},
            recorded={},
        )
    )

    def scores(values, own):
        return [[scores_slowly(own, row) for row in view] for view in values.tolist()]

    students = [
        [[x / 0.1 for x in row] for row in view]
        for view in scores(torch.cat([whole, local]), weights)
    ]
    taught = scores(teacher, teacher_weights)
    teachers = [
        [[(x - c) / 0.05 for x, c in zip(row, centre.tolist(), strict=True)] for row in view]
        for view in taught
    ]
    assert result.loss.item() == pytest.approx(
        cross_entropy_slowly(teachers, students), rel=1e-10
    )
    rows = [row for view in taught for row in view]
    means = [sum(row[k] for row in rows) / len(rows) for k in range(PROTOTYPES)]
    wanted = [0.8 * c + 0.2 * m for c, m in zip(centre.tolist(), means, strict=True)]
    np.testing.assert_allclose(result.buffers["centre"], wanted, rtol=1e-12)
    assert (result.buffers.keys(), result.metrics) == ({"centre"}, {})


# Declarations.


def declared(**options):
    sizes = {k: options.pop(k) for k in ("image_size_px", "patch_size_px") if k in options}
    model = model_facts("vit_tiny", **{"image_size_px": 224, "patch_size_px": 16, **sizes})
    return DINO(model, DINOOptions(**options)).declaration


def test_without_local_views_there_is_one_group():
    (group,) = declared().views
    assert (group.name, group.size_px, len(group.views)) == ("global", 224, 2)
    assert (group.pruned, group.student, group.teacher) == (True, True, True)
    assert [(v.min_area, v.blur, v.solarize) for v in group.views] == [
        (0.14, 1.0, 0.0),
        (0.14, 0.1, 0.2),
    ]


def test_local_views_are_those_of_the_authors_code():
    whole, local = declared(local_views=8).views
    assert [view.min_area for view in whole.views] == [0.4, 0.4]
    assert (local.name, local.size_px, len(local.views)) == ("local", 96, 8)
    assert (local.pruned, local.student, local.teacher) == (False, True, False)
    assert {(v.min_area, v.max_area, v.blur, v.solarize) for v in local.views} == {
        (0.05, 0.4, 0.5, 0.0)
    }


@pytest.mark.parametrize(
    ("image", "patch", "side"),
    [(224, 16, 96), (32, 4, 12), (16, 4, 8), (8, 8, 8), (64, 16, 32), (16, 8, 8)],
)
def test_local_views_have_whole_patches(image, patch, side):
    sizes = {"image_size_px": image, "patch_size_px": patch}
    assert declared(local_views=1, **sizes).views[1].size_px == side
    assert declared(local_views=1, local_size=side, **sizes).views[1].size_px == side


@pytest.mark.parametrize(("given_px", "nearest"), [(13, 12), (15, 16), (1, 4), (64, 32)])
def test_local_views_of_other_sizes_are_refused(given_px, nearest):
    table = {
        "model": {"image_size": 32, "patch_size": 4},
        "method": {"name": "dino", "local_views": 2, "local_size": given_px},
    }
    message = (
        f"1 problem.*\n  method.local_size: {given_px} px is not a multiple of the patches' 4 "
        f"px up to the image's 32 px; the nearest is {nearest}"
    )
    with pytest.raises(ConfigError, match=message):
        make_recipe(table, where="test")


def test_a_size_of_local_views_that_are_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"method\.local_size: there are no local views"):
        make_recipe({"method": {"name": "dino", "local_size": 96}}, where="test")


def test_the_teachers_temperature_warms_up():
    curve = declared(teacher_warmup_epochs=2, teacher_warmup_from=0.02).hyper_parameters
    temperature = curve["teacher_temperature"]
    values = [temperature.at(n, steps_per_epoch=2, total_steps=8) for n in range(1, 7)]
    assert values == pytest.approx([0.025, 0.03, 0.035, 0.04, 0.04, 0.04])
    constant = declared().hyper_parameters["teacher_temperature"]
    assert constant == Curve(shape="constant", first=0.04, final=0.04, warmup_from=0.04)
    assert constant.is_constant


# Training.

TINY = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2},
    "method": {
        "name": "dino",
        "projector_width": 16,
        "projector_out": 8,
        "prototypes": 32,
        "local_views": 2,
        "teacher_warmup_epochs": 1,
        "teacher_warmup_from": 0.06,
    },
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Local views, keep-ratio 0.5; the whole batch, and parts of two and of one."""
    table = {**TINY, "keep_ratios": [0.5], "micro_batches": [2, 1]}
    folder = tmp_path_factory.mktemp("dino") / "package"
    recipe = make_recipe(table, where="test")
    return export_package(recipe, folder, init=None, report=lambda *_: None, verify_all=True)


def after(package, rung_id, steps):
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        whole = package.manifest.rungs[0].id
        losses = [
            engine.step(rung_id, noise_batch(package, whole, step), hyper_of(package, step))
            for step in range(1, steps + 1)
        ]
        return [each.metrics["loss"] for each in losses], engine.snapshot()


def test_micro_batches_are_the_step_of_the_whole_batch(package):
    """Every part sees the centre before the step; the next one is the mean over the parts."""
    whole, *others = package.manifest.rungs
    (loss,), state = after(package, whole.id, 1)
    assert np.abs(state["buffer.centre"]).max() > 1e-3
    for rung in others:
        (part_loss,), part_state = after(package, rung.id, 1)
        assert part_loss == pytest.approx(loss, rel=1e-5)
        for name in state:
            if name.startswith(("exp_avg", "buffer.")):
                error = np.linalg.norm(part_state[name] - state[name])
                assert error <= 1e-5 * np.linalg.norm(state[name]) + 1e-8, name


def test_the_policy_shortens_the_students_global_views_alone(package):
    (rung, *_) = package.manifest.rungs
    assert rung.tokens_per_block == {"global": (9, 9), "local": (5, 5)}


def test_a_step_moves_the_centre_and_the_teacher_follows(package):
    initial = package.initial_state()
    assert not initial["buffer.centre"].any()
    losses, state = after(package, package.manifest.rungs[0].id, 3)
    assert all(np.isfinite(losses))
    for name in ("prototypes.weight", "projector.1.weight", "encoder.blocks.0.mlp.fc1.weight"):
        taught = state[f"ema.{name}"] - initial[f"ema.{name}"]
        learned = state[f"param.{name}"] - initial[f"param.{name}"]
        assert 0 < np.linalg.norm(taught) < np.linalg.norm(learned)


def test_prototypes_start_long_so_that_adamw_turns_them_slowly():
    prototypes = Program(make_recipe(TINY, where="test")).initial_state()
    assert prototypes["param.prototypes.weight"].std() == pytest.approx(1, rel=0.15)


def test_the_teacher_is_evaluated():
    program = Program(make_recipe(TINY, where="test"))
    assert program.encoder_prefix == "ema."
