"""A method and a parametrization that declare everything possible. For tests.

The method `centred` counts its steps in int32, updates a centre, reports a metric, and has a
parameter that its loss does not depend on. The parametrization `masked` multiplies a weight
with a mask of bools, which a periodic graph computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from edge_export.declaration import (
    Declaration,
    LossResult,
    ObjectiveDeclaration,
    PeriodicUpdate,
    ViewGroup,
)
from edge_export.objectives import OBJECTIVES
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import crop_views
from edge_export.parameters import Buffer, Parameter
from edge_export.parametrizations import PARAMETRIZATIONS, Parametrization
from edge_runtime.package.curves import Curve

MASKED = "encoder.blocks.0.mlp.fc1.weight"
WITHOUT_GRADIENT = "offset"
EVERY_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    """Neither of the two has options."""


class Centred(Objective):
    """Pulls features of both views together, and away from their centre."""

    name = "centred"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = NoOptions

    def __init__(self, model, options):
        views = crop_views(model.image_size_px, min_area=0.2, asymmetric=False)
        offset = Parameter(
            name=WITHOUT_GRADIENT, shape=(model.width,), init="zeros", zero_gradient=True
        )
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=model.image_size_px, views=views),),
            parameters=(offset,),
            buffers=(
                Buffer(name="centre", initial=torch.full((model.width,), 0.1)),
                Buffer(name="count", initial=torch.tensor(7, dtype=torch.int32)),
            ),
            hyper_parameters={"inertia": Curve(shape="linear", first=0.9, final=0.5)},
        )

    def loss(self, step):
        features = step.student["global"].features
        first, second = features[0], features[1]  # (B, D) each
        centre, inertia = step.buffers["centre"], step.hyper["inertia"]
        mean = (first + second).mean(dim=0) / 2
        apart, away = first - second, first - centre  # (B, D) each
        spread = (away * away).mean()
        return LossResult(
            loss=(apart * apart).mean() - 0.1 * spread,
            metrics={"spread": spread},
            buffers={
                "centre": centre * inertia + mean.detach() * (1 - inertia),
                "count": step.buffers["count"] + 1,
            },
        )


class Masked(Parametrization):
    """Weights below the mean size of their column are off until the next update."""

    name = "masked"

    @property
    def declaration(self):
        shape = next(p.shape for p in self.setting.parameters if p.name == MASKED)
        mask = (torch.arange(shape[0] * shape[1]) % 3 > 0).reshape(shape)
        return Declaration(
            buffers=(Buffer(name="mask", initial=mask),),
            periodic=(PeriodicUpdate(name="mask", every_steps=EVERY_STEPS, update=new_mask),),
        )

    def weights(self, parameters, branch, buffers):
        weight = parameters[MASKED]
        return {**parameters, MASKED: weight * buffers["mask"].to(weight.dtype)}


def new_mask(state):
    size = state[f"param.{MASKED}"].abs()
    return {"mask": size > size.mean(dim=0, keepdim=True)}


@contextmanager
def declaring_parts() -> Iterator[None]:
    """Register both during the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, Centred.name, Centred)
        patch.setitem(PARAMETRIZATIONS, Masked.name, Masked)
        yield
