"""Distillation: the student's features predict those of a frozen encoder from a file.

One linear layer maps the student's features of a view to the width of the frozen encoder. That
sees the same view, and all of its patches. The loss is the mean of 1 - cos, half the squared
distance of the normalised features. `Distillation` is this term, beside the loss of any
method; method `distillation` trains with it alone.

Source: the squared distance of features through a learned layer is that of FitNets (Romero et
al. 2015, arXiv 1412.6550); the last features instead of inner ones, and the normalisation, are
ours.

Letters: V views, B images, D encoder width, E width of the frozen encoder.
"""

from dataclasses import dataclass

import torch
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import (
    Declaration,
    LossResult,
    NoOptions,
    ObjectiveDeclaration,
    ViewGroup,
)
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.cosine import cosine_distance
from edge_export.objectives.heads import Head, crop_views
from edge_runtime.package.manifest import ModelFacts

NAME = "distillation"  # the method, prefix of the head, and the metric


@dataclass(frozen=True, slots=True)
class Distillation:
    """A term of the loss; without a frozen encoder there is none, and no head."""

    model: ModelFacts
    frozen: ModelFacts | None
    weight: float

    @property
    def declaration(self) -> Declaration:
        """The parameters of the head."""
        return Declaration(parameters=() if self.frozen is None else self._head.parameters)

    @property
    def _head(self) -> Head:
        assert self.frozen is not None
        return Head(name=NAME, widths=(self.model.width, self.frozen.width))

    def loss(self, step: StepContext) -> LossResult | None:
        """The weighted term, and the term itself as a metric."""
        if self.frozen is None:
            return None
        targets = torch.cat(list(step.targets.values()))  # (V, B, E)
        features = torch.cat([step.student[name].features for name in step.targets])
        predicted = self._head(step.weights, features)  # (V, B, E)
        distance = cosine_distance(predicted, targets)
        return LossResult(loss=distance * self.weight, metrics={NAME: distance})


class DistillationAlone(Objective):
    """One view and no loss of its own: the term `Distillation` is all of it."""

    name = NAME
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = NoOptions

    def __init__(self, model: ModelFacts, options: NoOptions) -> None:
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=False)[:1]
        group = ViewGroup(name="global", size_px=size_px, views=views, teacher=False)
        self.declaration = ObjectiveDeclaration(views=(group,))

    @override
    def loss(self, step: StepContext) -> LossResult:
        """Nothing."""
        return LossResult(loss=torch.zeros(()))
