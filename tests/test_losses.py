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

from edge_export.context import Encoding, StepContext  # noqa: E402
from edge_export.models import model_facts  # noqa: E402
from edge_export.objectives.heads import ContrastiveOptions, mlp, mlp_parameters  # noqa: E402
from edge_export.objectives.mocov3 import MoCoV3, info_nce  # noqa: E402
from edge_export.objectives.simclr import SimCLR, nt_xent  # noqa: E402
from edge_export.vit import ENCODER  # noqa: E402

RELATIVE = 1e-12
WIDTH, HIDDEN, OUT, BATCH = 5, 4, 3, 3  # of the heads in the tests of whole objectives
OPTIONS = ContrastiveOptions(temperature=0.3, projector_width=HIDDEN, projector_out=OUT)


MODEL = model_facts(
    "vit_tiny", image_size_px=8, patch_size_px=4, width=WIDTH, heads=1, depth=1
)


def bound(kind):
    """An objective with `OPTIONS` for an encoder of `WIDTH`."""
    return kind(MODEL, OPTIONS)


def objective_loss(objective, weights, teacher, student_features, teacher_features):
    """The loss of features (views, pictures, width): the one place that calls an objective."""

    def encoded(features):
        kept = torch.zeros(*features.shape[:2], 0, dtype=torch.int64)
        return {"global": Encoding(features=features, kept=kept, tokens=None)}

    step = StepContext(
        weights=weights,
        teacher_weights=teacher or {},
        student=encoded(student_features),
        teacher={} if teacher_features is None else encoded(teacher_features),
        patches={},
        draws={},
        hyper={},
        buffers={},
        recorded={},
    )
    result = objective.loss(step)
    assert (result.metrics, result.buffers) == ({}, {})
    return result.loss


# Slow definitions. Never optimise these.


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


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


def mlp_slowly(weights, name, layers, row):
    """Linear layers with LayerNorm and GELU in between, one row."""
    for layer in range(layers):
        if layer:
            row = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row]
        matrix, bias = (
            weights[f"{name}.{layer}.{part}"].tolist() for part in ("weight", "bias")
        )
        row = [
            sum(x * matrix[i][j] for i, x in enumerate(row)) + bias[j]
            for j in range(len(bias))
        ]
        if layer < layers - 1:
            scale = weights[f"{name}.{layer}.norm.weight"].tolist()
            shift = weights[f"{name}.{layer}.norm.bias"].tolist()
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-5)
            row = [
                (x - mean) / deviation * a + b
                for x, a, b in zip(row, scale, shift, strict=True)
            ]
    return row


# Inputs.


def sines(offset, row_factor, column_factor):
    """(8, 6) float64: sin(offset + row_factor * row + column_factor * column)."""
    rows = torch.arange(8, dtype=torch.float64)[:, None]
    columns = torch.arange(6, dtype=torch.float64)[None]
    return torch.sin(offset + row_factor * rows + column_factor * columns)


ZA, ZB = sines(1, 3, 7), sines(2, 5, 11)


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


def same(value):
    # A loss near zero is a small difference of scores as large as 1/T.
    return pytest.approx(value, rel=RELATIVE, abs=1e-12)


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


def differences(loss, x, width=1e-5):
    """Gradient of a slow loss by central differences, one number of `x` at a time."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[place] += width
        down[place] -= width
        gradient[place] = (loss(up.tolist()) - loss(down.tolist())) / (2 * width)
    return gradient


def gradient_of(loss, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0].numpy()


# Central differences are off by about width^2 f'''/6 + 1e-16 f/width, some 1e-9 here.
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_gradient_of_nt_xent_is_that_of_its_definition(temperature):
    found = gradient_of(lambda z: nt_xent(z, temperature), torch.cat([ZA[:4], ZB[:4]]))
    wanted = differences(
        lambda z: nt_xent_slowly(z[:4], z[4:], temperature), np.concatenate([ZA[:4], ZB[:4]])
    )
    np.testing.assert_allclose(found, wanted, **DIFFERENCES)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_gradient_of_info_nce_is_that_of_its_definition(temperature):
    found = gradient_of(lambda q: info_nce(q, ZB, temperature), ZA)
    wanted = differences(lambda q: info_nce_slowly(q, ZB.tolist(), temperature), ZA.numpy())
    np.testing.assert_allclose(found, wanted, **DIFFERENCES)


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


def random_values(parameters, seed):
    """Values of declared parameters by name, float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        parameter.name: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for parameter in parameters
    }


def view_features(seed):
    """(2, BATCH, WIDTH) float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, BATCH, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_head_is_its_definition(layers):
    widths = (WIDTH, HIDDEN, HIDDEN, OUT)[: layers + 1]
    weights = random_values(mlp_parameters("head", widths), seed=1)
    rows = view_features(7)[0]
    wanted = [mlp_slowly(weights, "head", layers, row) for row in rows.tolist()]
    np.testing.assert_allclose(mlp(weights, "head", rows), wanted, rtol=1e-11, atol=1e-11)


def test_simclr_compares_the_projections_of_both_views():
    simclr = bound(SimCLR)
    weights = random_values(simclr.declaration.parameters, seed=1)
    assert simclr.declaration.teacher == ()
    features = view_features(2)
    found = objective_loss(simclr, weights, None, features, None)
    first, second = (
        [mlp_slowly(weights, "projector", 2, row) for row in view]
        for view in features.tolist()
    )
    wanted = nt_xent_slowly(first, second, OPTIONS.temperature)
    assert found.item() == pytest.approx(wanted, rel=1e-10)


def test_mocov3_compares_queries_with_the_teachers_keys_of_the_other_view():
    """ctr(q1, k2) + ctr(q2, k1); queries pass projector and predictor, keys the projector."""
    mocov3 = bound(MoCoV3)
    declared = mocov3.declaration.parameters
    weights, teacher = random_values(declared, 3), random_values(declared, 4)
    # The teacher copies what its keys pass through, and no predictor.
    assert mocov3.declaration.teacher == (ENCODER, "projector.")
    teacher = {k: v for k, v in teacher.items() if k.startswith("projector.")}
    student_features, teacher_features = view_features(5), view_features(6)
    found = objective_loss(mocov3, weights, teacher, student_features, teacher_features)

    def query(row):
        return mlp_slowly(weights, "predictor", 2, mlp_slowly(weights, "projector", 3, row))

    q1, q2 = ([query(row) for row in view] for view in student_features.tolist())
    k1, k2 = (
        [mlp_slowly(teacher, "projector", 3, row) for row in view]
        for view in teacher_features.tolist()
    )
    t = OPTIONS.temperature
    wanted = info_nce_slowly(q1, k2, t) + info_nce_slowly(q2, k1, t)
    assert found.item() == pytest.approx(wanted, rel=1e-10)
