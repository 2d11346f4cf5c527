"""Losses against slow definitions, written from the papers' equations with plain loops.

Everything is float64, so only the order of additions differs: 1e-12 relative, unless a test
says otherwise. A definition written here could misread the paper in the same way as the code;
the values of other implementations guard against that.
"""

import math
from dataclasses import dataclass

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
    cosine,
    differences,
    gradient_of,
    head_slowly,
    objective_loss,
    random_values,
    same,
    view_features,
)

from edge_export.objectives.heads import ContrastiveOptions  # noqa: E402
from edge_export.objectives.mocov3 import MoCoV3, info_nce  # noqa: E402
from edge_export.objectives.simclr import SimCLR, nt_xent  # noqa: E402
from edge_export.vit import ENCODER  # noqa: E402

NORMS = ["layer", "batch"]


def options(norm):
    return ContrastiveOptions(
        temperature=0.3, projector_width=HIDDEN, projector_out=OUT, head_norm=norm
    )


# Slow definitions. Never optimise these.


def nt_xent_slowly(first, second, temperature):
    """SimCLR, equation 1 and the sum of algorithm 1, over both views of every picture.

    The authors' TensorFlow code adds the means of the two views: twice this value.
    """
    z = [*first, *second]
    count = len(first)
    losses = []
    for i in range(2 * count):
        j = (i + count) % (2 * count)  # the other view of the same picture
        others = [k for k in range(2 * count) if k != i]
        denominator = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in others)
        losses.append(-math.log(math.exp(cosine(z[i], z[j]) / temperature) / denominator))
    return sum(losses) / len(losses)


def info_nce_slowly(queries, keys, temperature):
    """MoCo v3, `ctr` of algorithm 1: mean cross-entropy over the batch, times 2T."""
    losses = []
    for i, query in enumerate(queries):
        exponentials = [math.exp(cosine(query, key) / temperature) for key in keys]
        losses.append(-math.log(exponentials[i] / sum(exponentials)))
    return 2 * temperature * sum(losses) / len(losses)


# Inputs.


@dataclass(frozen=True)
class Case:
    """Two views (B, P) float64 and a temperature."""

    first: torch.Tensor
    second: torch.Tensor
    temperature: float

    @property
    def both(self):
        return torch.cat([self.first, self.second])


@st.composite
def cases(draw):
    """Up to 6 pictures in up to 5 dimensions; views of one picture may be alike or not."""
    count, width = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    first, noise = torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    mixed = draw(st.sampled_from([0.1, 1.0, 10.0])) * noise + first
    return Case(first, mixed, draw(st.floats(0.02, 5)))


def nt_xent_of(case):
    return nt_xent(case.both, case.temperature).item()


def info_nce_of(case):
    return info_nce(case.first, case.second, case.temperature).item()


# Against the definitions, and against other implementations.


@given(cases())
@settings(deadline=None)
def test_nt_xent_is_its_definition(case):
    wanted = nt_xent_slowly(case.first.tolist(), case.second.tolist(), case.temperature)
    assert nt_xent_of(case) == same(wanted)


@given(cases())
@settings(deadline=None)
def test_info_nce_is_its_definition(case):
    wanted = info_nce_slowly(case.first.tolist(), case.second.tolist(), case.temperature)
    assert info_nce_of(case) == same(wanted)


@pytest.mark.parametrize(
    ("temperature", "value"), [(0.1, 9.690516003994887), (0.5, 3.2086361089332547)]
)
def test_nt_xent_has_the_value_of_other_implementations(temperature, value):
    """The mean over the 2B views, not the sum of two means."""
    assert nt_xent(torch.cat([ZA, ZB]), temperature).item() == pytest.approx(value, rel=1e-14)


def test_info_nce_both_ways_has_the_value_of_the_authors_code():
    """Queries of one view, keys of the other, each direction times 2T, and their sum.

    Here a view's keys are its queries: q1 = k1 = ZA, q2 = k2 = ZB.
    """
    loss = info_nce(ZA, ZB, 0.2) + info_nce(ZB, ZA, 0.2)
    assert loss.item() == pytest.approx(2.1091326748683503, rel=1e-14)


# Gradients.


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_gradient_of_nt_xent_is_that_of_its_definition(temperature):
    actual = gradient_of(lambda z: nt_xent(z, temperature), torch.cat([ZA[:4], ZB[:4]]))
    wanted = differences(
        lambda z: nt_xent_slowly(z[:4], z[4:], temperature), np.concatenate([ZA[:4], ZB[:4]])
    )
    np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_gradient_of_info_nce_is_that_of_its_definition(temperature):
    actual = gradient_of(lambda q: info_nce(q, ZB, temperature), ZA)
    wanted = differences(lambda q: info_nce_slowly(q, ZB.tolist(), temperature), ZA.numpy())
    np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


# Properties of both.


@given(cases(), st.lists(st.floats(0.01, 100), min_size=12, max_size=12))
@settings(deadline=None)
def test_losses_depend_on_directions_only(case, scales):
    factors = torch.tensor(scales, dtype=torch.float64)[:, None]
    count = len(case.first)
    scaled = Case(
        case.first * factors[:count], case.second * factors[-count:], case.temperature
    )
    assert nt_xent_of(scaled) == same(nt_xent_of(case))
    assert info_nce_of(scaled) == same(info_nce_of(case))


@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_losses_do_not_depend_on_the_order_of_pictures(case, random):
    order = list(range(len(case.first)))
    random.shuffle(order)
    shuffled = Case(case.first[order], case.second[order], case.temperature)
    assert nt_xent_of(shuffled) == same(nt_xent_of(case))
    assert info_nce_of(shuffled) == same(info_nce_of(case))


@given(cases())
@settings(deadline=None)
def test_nt_xent_is_symmetric_in_the_views(case):
    swapped = Case(case.second, case.first, case.temperature)
    assert nt_xent_of(swapped) == same(nt_xent_of(case))


@given(cases())
@settings(deadline=None)
def test_losses_lie_between_their_bounds(case):
    """Cosines lie between -1 and 1: with n negatives, log(1 + n exp(-2/T)) to (2/T).

    Without negatives both bounds are zero.
    """
    count, t = len(case.first), case.temperature

    def bounds(negatives):
        return math.log1p(negatives * math.exp(-2 / t)), math.log1p(
            negatives * math.exp(2 / t)
        )

    least, most = bounds(2 * count - 2)
    assert least - 1e-12 <= nt_xent_of(case) <= most + 1e-12
    least, most = bounds(count - 1)
    assert least - 1e-12 <= info_nce_of(case) / (2 * t) <= most + 1e-12


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_identical_features_give_the_loss_of_guessing(temperature):
    alike = torch.ones(4, 3, dtype=torch.float64)
    case = Case(alike, alike, temperature)
    assert nt_xent_of(case) == same(math.log(7))  # 1 of the 7 others
    assert info_nce_of(case) == same(2 * temperature * math.log(4))  # 1 of 4 keys


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_equal_views_of_orthogonal_pictures(temperature):
    """A positive of cosine 1 beside negatives of cosine 0."""
    axes = torch.eye(4, dtype=torch.float64)
    case = Case(axes, axes, temperature)
    assert nt_xent_of(case) == same(math.log1p(6 * math.exp(-1 / temperature)))
    assert info_nce_of(case) == same(
        2 * temperature * math.log1p(3 * math.exp(-1 / temperature))
    )


def test_single_precision_is_close_to_double():
    """At the lowest temperatures in use; scores of 1/T = 20 keep six digits."""
    case = Case(ZA, ZB, 0.05)
    single = Case(ZA.float(), ZB.float(), 0.05)
    assert nt_xent_of(single) == pytest.approx(nt_xent_of(case), rel=1e-5)
    assert info_nce_of(single) == pytest.approx(info_nce_of(case), rel=1e-5)


# Whole objectives: which rows are compared with which, through which heads.


@pytest.mark.parametrize("norm", NORMS)
def test_simclr_compares_the_projections_of_both_views(norm):
    """Both views are one batch of batch norm, which also follows the last layer."""
    simclr = SimCLR(MODEL, options(norm))
    weights = random_values(simclr.declaration.parameters, seed=1)
    assert simclr.declaration.teacher == ()
    features = view_features(2)
    actual = objective_loss(simclr, weights, None, features, None)
    rows = [row for view in features.tolist() for row in view]
    last = norm == "batch"
    projected = head_slowly(weights, "projector", 2, rows, norm=norm, output_norm=last)
    count = len(projected) // 2
    wanted = nt_xent_slowly(projected[:count], projected[count:], 0.3)
    assert actual.item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_mocov3_compares_queries_with_the_teachers_keys_of_the_other_view(norm):
    """ctr(q1, k2) + ctr(q2, k1); queries pass projector and predictor, keys the projector.

    Each view is a batch of batch norm, which also follows both last layers.
    """
    mocov3 = MoCoV3(MODEL, options(norm))
    declared = mocov3.declaration.parameters
    weights, teacher = random_values(declared, 3), random_values(declared, 4)
    # The teacher copies what its keys pass through, and no predictor.
    assert mocov3.declaration.teacher == (ENCODER, "projector.")
    teacher = {k: v for k, v in teacher.items() if k.startswith("projector.")}
    student_features, teacher_features = view_features(5), view_features(6)
    actual = objective_loss(mocov3, weights, teacher, student_features, teacher_features)

    def head(values, name, layers, rows):
        last = norm == "batch"
        return head_slowly(values, name, layers, rows, norm=norm, output_norm=last)

    q1, q2 = (
        head(weights, "predictor", 2, head(weights, "projector", 3, view))
        for view in student_features.tolist()
    )
    k1, k2 = (head(teacher, "projector", 3, view) for view in teacher_features.tolist())
    wanted = info_nce_slowly(q1, k2, 0.3) + info_nce_slowly(q2, k1, 0.3)
    assert actual.item() == pytest.approx(wanted, rel=1e-10)
