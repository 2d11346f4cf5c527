"""A method whose loss is a mean over pictures, so that micro-batches are exact. For tests.

BYOL's loss: the student predicts the teacher's projection of the same picture's other view.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import normalize

from edge_export.objectives import OBJECTIVES
from edge_export.objectives.base import (
    ContrastiveOptions,
    Defaults,
    crop_views,
    mlp,
    mlp_parameters,
)


class Paired:
    """Two views, predictor, EMA teacher; no picture sees another."""

    name = "paired"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.9)
    teacher_parts = ("encoder.", "projector.")
    micro_batch_refusal = None
    options = ContrastiveOptions

    def views(self, image_size_px):
        return crop_views(image_size_px, min_area=0.2, asymmetric=False)

    def heads(self, width, options):
        hidden, out = options.projector_width, options.projector_out
        return (
            *mlp_parameters("projector", (width, hidden, out)),
            *mlp_parameters("predictor", (out, hidden, out)),
        )

    def loss(self, weights, teacher, student_features, teacher_features, options):
        views = student_features.shape[:2]
        projected = mlp(weights, "projector", student_features.flatten(0, 1))
        predicted = normalize(mlp(weights, "predictor", projected), dim=1)
        wanted = normalize(mlp(teacher, "projector", teacher_features.flatten(0, 1)), dim=1)
        predicted, wanted = predicted.reshape(*views, -1), wanted.reshape(*views, -1)
        others = torch.cat([wanted[1:], wanted[:1]])
        return 2 - 2 * (predicted * others).sum(dim=2).mean()


@contextmanager
def paired_method(refusal: str | None = None) -> Iterator[None]:
    """Recipes know it for a while; with a refusal, it says that it needs its batch whole."""
    method = Paired()
    method.micro_batch_refusal = refusal
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, method.name, method)
        yield
