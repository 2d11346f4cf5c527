"""Losses of BYOL, SimSiam, VICReg and Barlow Twins against slow definitions.

Everything is float64. The definitions are written from the papers' equations with plain
loops; where the authors' code has another convention, the definition says so.
"""

import math
from dataclasses import dataclass
from statistics import mean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="losses are torch functions")

from losses import (  # noqa: E402
    DIFFERENCES,
    HIDDEN,
    MODEL,
    OUT,
    ZA,
    ZB,
    columns_normalised,
    cosine,
    differences,
    gradient_of,
    head_slowly,
    objective_loss,
    random_values,
    view_features,
)

from edge_export.objectives.barlowtwins import BarlowTwins, barlow_twins  # noqa: E402
from edge_export.objectives.byol import BYOL  # noqa: E402
from edge_export.objectives.cosine import negative_cosine  # noqa: E402
from edge_export.objectives.simsiam import SimSiam  # noqa: E402
from edge_export.objectives.vicreg import VICReg, vicreg_terms  # noqa: E402
from edge_export.vit import ENCODER  # noqa: E402

NORMS = ["layer", "batch"]
LAMBDA = 0.005
WEIGHTS = (25.0, 25.0, 1.0)
SMALL = {"projector_width": HIDDEN, "projector_out": OUT}


# Slow definitions. Never optimise these.


def negative_cosine_slowly(predicted, targets):
    """SimSiam, equation 1, mean over the batch."""
    return -mean(cosine(p, z) for p, z in zip(predicted, targets, strict=True))


def byol_distance_slowly(predicted, targets):
    """BYOL, equation 2: squared distance of the normalised vectors, mean over the batch."""

    def unit(row):
        length = math.sqrt(sum(x * x for x in row))
        return [x / length for x in row]

    return mean(
        sum((x - y) ** 2 for x, y in zip(unit(p), unit(z), strict=True))
        for p, z in zip(predicted, targets, strict=True)
    )


def vicreg_terms_slowly(first, second):
    """VICReg, equations 1 to 6; means over dimensions and views as in the authors' code."""

    def hinge(rows):
        columns = zip(*rows, strict=True)
        return mean(max(0.0, 1 - math.sqrt(variance(column) + 1e-4)) for column in columns)

    def redundancy(rows):
        columns = [[x - mean(column) for x in column] for column in zip(*rows, strict=True)]
        total = 0.0
        for i, a in enumerate(columns):
            for j, b in enumerate(columns):
                if i != j:
                    dot = sum(x * y for x, y in zip(a, b, strict=True))
                    total += (dot / (len(rows) - 1)) ** 2
        return total / len(columns)

    invariance = mean(
        (x - y) ** 2
        for a, b in zip(first, second, strict=True)
        for x, y in zip(a, b, strict=True)
    )
    return (
        invariance,
        mean([hinge(first), hinge(second)]),
        redundancy(first) + redundancy(second),
    )


def vicreg_slowly(first, second):
    terms = vicreg_terms_slowly(first, second)
    return sum(weight * term for weight, term in zip(WEIGHTS, terms, strict=True))


def barlow_twins_slowly(first, second, redundancy_weight=LAMBDA):
    """Barlow Twins, equations 1 and 2; normalised as by `BatchNorm1d` of the authors' code."""
    a, b = (list(zip(*columns_normalised(rows), strict=True)) for rows in (first, second))
    total = 0.0
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            c = mean(x * y for x, y in zip(left, right, strict=True))
            total += (1 - c) ** 2 if i == j else redundancy_weight * c**2
    return total


# Inputs.


@dataclass(frozen=True)
class Case:
    """Two views (B, P) float64."""

    first: torch.Tensor
    second: torch.Tensor

    @property
    def lists(self):
        return self.first.tolist(), self.second.tolist()


@st.composite
def cases(draw):
    """2 to 6 pictures in up to 5 dimensions; views of one picture may be alike or not."""
    count, width = draw(st.integers(2, 6)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    first, noise = torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))  # deviations on both sides of the hinge
    mixed = draw(st.sampled_from([0.1, 1.0, 10.0])) * noise + first
    return Case(first * scale, mixed * scale)


def vicreg(first, second):
    return sum(w * term for w, term in zip(WEIGHTS, vicreg_terms(first, second), strict=True))


LOSSES = {
    "negative cosine": (negative_cosine, negative_cosine_slowly),
    "vicreg": (vicreg, vicreg_slowly),
    "barlowtwins": (lambda a, b: barlow_twins(a, b, LAMBDA), barlow_twins_slowly),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def close(value):
    # Sums that cancel, such as covariances of pictures that hardly differ
    return pytest.approx(value, rel=1e-11, abs=1e-11)


@every_loss
@given(cases())
@settings(deadline=None)
def test_a_loss_is_its_definition(name, case):
    loss, slow = LOSSES[name]
    assert loss(case.first, case.second).item() == close(slow(*case.lists))


@given(cases())
@settings(deadline=None)
def test_each_term_of_vicreg_is_its_definition(case):
    for term, wanted in zip(
        vicreg_terms(case.first, case.second), vicreg_terms_slowly(*case.lists), strict=True
    ):
        assert term.item() == close(wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("negative cosine", 0.029269726178199625),
        ("vicreg", 33.957583518315644),
        ("barlowtwins", 6.288278056169923),
    ],
)
def test_a_loss_has_the_value_of_other_implementations(name, value):
    assert LOSSES[name][0](ZA, ZB).item() == pytest.approx(value, rel=1e-14)


@every_loss
def test_a_gradient_is_that_of_the_definition(name):
    loss, slow = LOSSES[name]
    for place in (0, 1):

        def at(z, function, other, place=place):
            return function(z, other) if place == 0 else function(other, z)

        other = (ZB, ZA)[place]
        actual = gradient_of(lambda z, o=other: at(z, loss, o), (ZA, ZB)[place])
        wanted = differences(
            lambda z, o=other: at(z, slow, o.tolist()), (ZA, ZB)[place].numpy()
        )
        np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


@every_loss
def test_single_precision_is_close_to_double(name):
    loss, _ = LOSSES[name]
    assert loss(ZA.float(), ZB.float()).item() == pytest.approx(loss(ZA, ZB).item(), rel=1e-5)


# Properties.


@every_loss
@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_losses_do_not_depend_on_the_order_of_pictures(name, case, random):
    loss, _ = LOSSES[name]
    order = list(range(len(case.first)))
    random.shuffle(order)
    assert loss(case.first[order], case.second[order]).item() == close(
        loss(case.first, case.second).item()
    )


@every_loss
@given(cases())
@settings(deadline=None)
def test_losses_are_symmetric_in_the_views(name, case):
    loss, _ = LOSSES[name]
    assert loss(case.second, case.first).item() == close(loss(case.first, case.second).item())


@given(cases(), st.floats(0.01, 100))
@settings(deadline=None)
def test_the_negative_cosine_depends_on_directions_only_and_lies_in_its_bounds(case, scale):
    value = negative_cosine(case.first, case.second).item()
    assert -1 - 1e-12 <= value <= 1 + 1e-12
    assert negative_cosine(case.first * scale, case.second).item() == close(value)
    assert negative_cosine(case.first, case.first).item() == close(-1)


@given(cases(), st.floats(-10, 10))
@settings(deadline=None)
def test_a_shift_of_both_views_changes_no_term_of_vicreg(case, shift):
    shifted = vicreg_terms(case.first + shift, case.second + shift)
    for term, wanted in zip(shifted, vicreg_terms(case.first, case.second), strict=True):
        assert term.item() == pytest.approx(wanted.item(), rel=1e-9, abs=1e-9)


def test_collapse_is_the_worst_of_vicregs_variances_and_barlows_correlations():
    alike = torch.ones(4, 3, dtype=torch.float64)
    invariance, variance_term, covariance = vicreg_terms(alike, alike)
    assert (invariance.item(), covariance.item()) == (0, 0)
    assert variance_term.item() == close(1 - 0.01)  # the root of eps is left
    assert barlow_twins(alike, alike, LAMBDA).item() == 3  # nothing correlates


def test_uncorrelated_dimensions_of_deviation_one_are_the_best():
    """Columns of a Hadamard matrix: mean 0, deviation 1, orthogonal."""
    rows = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert [term.item() for term in vicreg_terms(rows, rows)] == [0, 0, 0]
    assert barlow_twins(rows, rows, LAMBDA).item() == pytest.approx(0, abs=1e-9)  # but eps


# Whole objectives: which rows are compared with which, through which heads.


def bound(kind, norm, **changes):
    objective = kind(MODEL, kind.options(**SMALL, head_norm=norm, **changes))
    declared = objective.declaration.parameters
    return objective, random_values(declared, 1), random_values(declared, 2)


@pytest.mark.parametrize("norm", NORMS)
def test_byol_compares_predictions_with_the_teachers_projections_of_the_other_view(norm):
    """Equation 2 both ways, added; batch norm also follows the projector's last layer."""
    byol, weights, teacher = bound(BYOL, norm)
    assert byol.declaration.teacher == (ENCODER, "projector.")
    teacher = {k: v for k, v in teacher.items() if k.startswith("projector.")}
    student, taught = view_features(5), view_features(6)
    actual = objective_loss(byol, weights, teacher, student, taught)

    def projection(values, rows):
        last = norm == "batch"
        return head_slowly(values, "projector", 3, rows, norm=norm, output_norm=last)

    q1, q2 = (
        head_slowly(weights, "predictor", 2, projection(weights, view), norm=norm)
        for view in student.tolist()
    )
    z1, z2 = (projection(teacher, view) for view in taught.tolist())
    wanted = byol_distance_slowly(q1, z2) + byol_distance_slowly(q2, z1)
    assert actual.item() == pytest.approx(wanted, rel=1e-10)


def simsiam_parts(weights, norm, view):
    """Projection and prediction of the pictures of a view."""
    last = norm == "batch"
    z = head_slowly(weights, "projector", 3, view, norm=norm, output_norm=last)
    return z, head_slowly(weights, "predictor", 2, z, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_simsiam_compares_predictions_with_projections_of_the_other_view(norm):
    """Algorithm 1; batch norm also follows the projector's last layer."""
    simsiam, weights, _ = bound(SimSiam, norm)
    assert simsiam.declaration.teacher == ()
    features = view_features(5)
    actual = objective_loss(simsiam, weights, None, features, None)
    (z1, p1), (z2, p2) = (simsiam_parts(weights, norm, view) for view in features.tolist())
    wanted = negative_cosine_slowly(p1, z2) / 2 + negative_cosine_slowly(p2, z1) / 2
    assert actual.item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_goes_through_the_targets_of_simsiam(norm):
    """Central differences of the features, with the targets held where they are."""
    simsiam, weights, _ = bound(SimSiam, norm)
    features = view_features(5)
    targets = [simsiam_parts(weights, norm, view)[0] for view in features.tolist()]

    def slow(views):
        p1, p2 = (simsiam_parts(weights, norm, view)[1] for view in views)
        return (
            negative_cosine_slowly(p1, targets[1]) + negative_cosine_slowly(p2, targets[0])
        ) / 2

    actual = gradient_of(lambda x: objective_loss(simsiam, weights, None, x, None), features)
    np.testing.assert_allclose(actual, differences(slow, features.numpy()), **DIFFERENCES)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (VICReg, {}),
        (VICReg, {"invariance_weight": 3, "variance_weight": 5, "covariance_weight": 7}),
        (BarlowTwins, {}),
        (BarlowTwins, {"redundancy_weight": 0.3}),
    ],
)
def test_vicreg_and_barlow_twins_compare_the_projections_of_both_views(kind, changes, norm):
    objective, weights, _ = bound(kind, norm, **changes)
    assert objective.declaration.teacher == ()
    features = view_features(5)
    actual = objective_loss(objective, weights, None, features, None)
    views = [head_slowly(weights, "projector", 3, v, norm=norm) for v in features.tolist()]
    if kind is BarlowTwins:
        wanted = barlow_twins_slowly(*views, *changes.values())
    else:
        terms = vicreg_terms_slowly(*views)
        wanted = sum(w * t for w, t in zip(changes.values() or WEIGHTS, terms, strict=True))
    assert actual.item() == pytest.approx(wanted, rel=1e-9)
