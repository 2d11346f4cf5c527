"""Slow definitions, inputs and calls of losses, for the tests of all methods.

Everything is float64, so only the order of additions differs from the code: `RELATIVE`. Slow
definitions are written from the papers' equations with plain loops. Never optimise them.
"""

import math

import numpy as np
import pytest
import torch

from edge_export.context import Encoding, StepContext
from edge_export.models import model_facts

RELATIVE = 1e-12
WIDTH, HIDDEN, OUT, BATCH = 5, 4, 3, 3  # of the heads in the tests of whole objectives

MODEL = model_facts(
    "vit_tiny", image_size_px=8, patch_size_px=4, width=WIDTH, heads=1, depth=1
)


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


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def normalised(numbers, eps):
    """Mean 0 and deviation 1, biased, with eps under the root."""
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in numbers) / len(numbers) + eps)
    return [(x - mean) / deviation for x in numbers]


def columns_normalised(rows, eps=1e-5):
    """Batch norm without scale and shift: over the pictures, one dimension at a time."""
    columns = [normalised(column, eps) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def head_slowly(weights, name, layers, rows, *, norm="layer", output_norm=False):
    """Linear layers with a norm and GELU in between; `rows` are one batch of batch norm."""
    for layer in range(layers):
        matrix = weights[f"{name}.{layer}.weight"].tolist()
        bias = weights.get(f"{name}.{layer}.bias", torch.zeros(len(matrix[0]))).tolist()
        rows = [
            [
                sum(x * matrix[i][j] for i, x in enumerate(row)) + bias[j]
                for j in range(len(bias))
            ]
            for row in rows
        ]
        if layer == layers - 1:
            return columns_normalised(rows) if output_norm else rows
        scale = weights[f"{name}.{layer}.norm.weight"].tolist()
        shift = weights[f"{name}.{layer}.norm.bias"].tolist()
        if norm == "batch":
            rows = columns_normalised(rows)
        else:
            rows = [normalised(row, 1e-5) for row in rows]
        rows = [[x * a + b for x, a, b in zip(row, scale, shift, strict=True)] for row in rows]
        rows = [[x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row] for row in rows]
    raise ValueError("a head has layers")


def sines(offset, row_factor, column_factor):
    """(8, 6) float64: sin(offset + row_factor * row + column_factor * column)."""
    rows = torch.arange(8, dtype=torch.float64)[:, None]
    columns = torch.arange(6, dtype=torch.float64)[None]
    return torch.sin(offset + row_factor * rows + column_factor * columns)


ZA, ZB = sines(1, 3, 7), sines(2, 5, 11)


def same(value):
    # A loss near zero is a small difference of scores of the order of 1/T.
    return pytest.approx(value, rel=RELATIVE, abs=1e-12)


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
