"""The term of distillation against its slow definition, in float64."""

from statistics import mean

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the term is a torch function")

from losses import DIFFERENCES, cosine, differences, random_values  # noqa: E402

from edge_export.context import Encoding, StepContext  # noqa: E402
from edge_export.models import model_facts  # noqa: E402
from edge_export.objectives import Distillation  # noqa: E402

TERM, WEIGHT = "distillation", 0.7
STUDENT_WIDTH, FROZEN_WIDTH, BATCH = 5, 4, 3


def part():
    sizes = {"image_size_px": 8, "patch_size_px": 4, "heads": 1, "depth": 1}
    student = model_facts("vit_tiny", width=STUDENT_WIDTH, **sizes)
    return Distillation(student, model_facts("vit_tiny", width=FROZEN_WIDTH, **sizes), WEIGHT)


def rows_of(views, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, BATCH, width, generator=generator, dtype=torch.float64)


def term_of(distillation, weights, features, targets):
    """The term for features and targets by view group."""
    student = {
        name: Encoding(
            features=values,
            kept=torch.zeros(*values.shape[:2], 0, dtype=torch.int64),
            tokens=None,
        )
        for name, values in features.items()
    }
    return distillation.loss(
        StepContext(
            weights=weights,
            teacher_weights={},
            student=student,
            teacher={},
            patches={},
            targets=targets,
            draws={},
            hyper={},
            buffers={},
            recorded={},
        )
    )


def term_slowly(weights, features, targets):
    """Mean of 1 - cos over the views and pictures of the groups with targets."""
    matrix, bias = (weights[f"{TERM}.0.{name}"].tolist() for name in ("weight", "bias"))
    distances = []
    for name, views in targets.items():
        for view, wanted in zip(features[name].tolist(), views.tolist(), strict=True):
            for row, target in zip(view, wanted, strict=True):
                predicted = [
                    sum(x * matrix[i][j] for i, x in enumerate(row)) + bias[j]
                    for j in range(FROZEN_WIDTH)
                ]
                distances.append(1 - cosine(predicted, target))
    return mean(distances)


@pytest.mark.parametrize("views", [{"global": 1}, {"global": 2, "other": 1}], ids=str)
def test_the_term_is_its_definition(views):
    """A view group without targets, such as local views, has no part in it."""
    distillation = part()
    weights = random_values(distillation.declaration.parameters, 1)
    features = {name: rows_of(count, STUDENT_WIDTH, 2) for name, count in views.items()}
    features["local"] = rows_of(3, STUDENT_WIDTH, 3)
    targets = {name: rows_of(count, FROZEN_WIDTH, 4) for name, count in views.items()}
    result = term_of(distillation, weights, features, targets)
    wanted = term_slowly(weights, features, targets)
    assert result.metrics.keys() == {TERM}
    assert result.metrics[TERM].item() == pytest.approx(wanted, rel=1e-10)
    assert result.loss.item() == pytest.approx(WEIGHT * wanted, rel=1e-10)


def test_its_gradient_is_that_of_the_definition():
    distillation = part()
    weights = random_values(distillation.declaration.parameters, 1)
    features = rows_of(1, STUDENT_WIDTH, 2).requires_grad_()
    targets = {"global": rows_of(1, FROZEN_WIDTH, 3)}
    loss = term_of(distillation, weights, {"global": features}, targets).loss
    (actual,) = torch.autograd.grad(loss, features)

    def slow(values):
        moved = {"global": torch.tensor(values, dtype=torch.float64)}
        return WEIGHT * term_slowly(weights, moved, targets)

    wanted = differences(slow, features.detach().numpy())
    np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


def test_half_the_squared_distance_of_normalised_features():
    """A head that is the identity: predictions are the targets, or their opposite."""
    distillation = part()
    weights = {
        f"{TERM}.0.weight": torch.eye(STUDENT_WIDTH, FROZEN_WIDTH, dtype=torch.float64),
        f"{TERM}.0.bias": torch.zeros(FROZEN_WIDTH, dtype=torch.float64),
    }
    features = rows_of(1, STUDENT_WIDTH, 2)
    for sign, wanted in ((3.0, 0), (-2.0, 2)):
        targets = {"global": sign * features[..., :FROZEN_WIDTH]}
        result = term_of(distillation, weights, {"global": features}, targets)
        assert result.metrics[TERM].item() == pytest.approx(wanted, abs=1e-12)
