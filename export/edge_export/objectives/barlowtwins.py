"""Barlow Twins (Zbontar et al. 2021): the cross-correlation of two views becomes the identity.

docs/methods.md lists what differs from the paper.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import Head, HeadOptions, batch_norm, crop_views
from edge_runtime.package.manifest import ModelFacts, Width
from edge_runtime.schema import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class BarlowTwinsOptions(HeadOptions):
    """Options in `[method]`."""

    projector_out: Width = 512
    redundancy_weight: Annotated[float, Range(ge=0, le=10_000)] = 0.005


class BarlowTwins(Objective):
    """Two views, shared encoder; no negatives, no teacher."""

    name = "barlowtwins"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = BarlowTwinsOptions

    def __init__(self, model: ModelFacts, options: BarlowTwinsOptions) -> None:
        self._redundancy_weight = options.redundancy_weight
        hidden = options.projector_width
        self._projector = Head(
            name="projector",
            widths=(model.width, hidden, hidden, options.projector_out),
            norm=options.head_norm,
            output_bias=False,  # the loss does not depend on it
        )
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=True)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=self._projector.parameters,
            micro_batch_refusal="the cross-correlation is that of the batch",
            zero_gradient=options.zero_gradient,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """Distance of the cross-correlation from the identity."""
        first, second = self._projector(step.weights, step.student["global"].features)
        return LossResult(loss=barlow_twins(first, second, self._redundancy_weight))


def barlow_twins(first: Tensor, second: Tensor, redundancy_weight: float) -> Tensor:
    """Invariance plus weighted redundancy (Barlow Twins, equations 1 and 2), sums over P.

    Deviations are biased, with eps under the root: from the authors' code.

    Args:
        first: (B, P), of one view; B at least 2.
        second: (B, P), of the other view of the same pictures.
        redundancy_weight: lambda of the paper.
    """
    a, b = batch_norm(first), batch_norm(second)
    correlation = a.t() @ b / len(a)  # (P, P)
    diagonal = (a * b).mean(dim=0)  # (P,)
    off_diagonal = (correlation * correlation).sum() - (diagonal * diagonal).sum()
    return ((1 - diagonal) * (1 - diagonal)).sum() + redundancy_weight * off_diagonal
