"""A method whose loss is a mean over pictures, so that micro-batches are exact. For tests.

BYOL's loss: the student predicts the teacher's projection of the same picture's other view.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import normalize

from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives import OBJECTIVES
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import (
    ContrastiveOptions,
    crop_views,
    mlp,
    mlp_parameters,
)


class Paired(Objective):
    """Two views, predictor, EMA teacher; no picture sees another."""

    name = "paired"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.9)
    options = ContrastiveOptions
    refusal: str | None = None

    def __init__(self, model, options):
        hidden, out = options.projector_width, options.projector_out
        size_px = model.image_size_px
        views = crop_views(size_px, min_area=0.2, asymmetric=False)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=(
                *mlp_parameters("projector", (model.width, hidden, out)),
                *mlp_parameters("predictor", (out, hidden, out)),
            ),
            teacher=("encoder.", "projector."),
            micro_batch_refusal=self.refusal,
        )

    def loss(self, step):
        student, teacher = step.student["global"].features, step.teacher["global"].features
        views = student.shape[:2]
        projected = mlp(step.weights, "projector", student.flatten(0, 1))
        predicted = normalize(mlp(step.weights, "predictor", projected), dim=1)
        targets = mlp(step.teacher_weights, "projector", teacher.flatten(0, 1))
        targets = normalize(targets, dim=1).reshape(*views, -1)
        others = torch.cat([targets[1:], targets[:1]])
        predicted = predicted.reshape(*views, -1)
        return LossResult(loss=2 - 2 * (predicted * others).sum(dim=2).mean())


@contextmanager
def paired_method(refusal: str | None = None) -> Iterator[None]:
    """Register it during the block; with a refusal, it needs the whole batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Paired, "refusal", refusal)
        patch.setitem(OBJECTIVES, Paired.name, Paired)
        yield
