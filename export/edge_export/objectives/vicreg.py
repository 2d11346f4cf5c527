"""VICReg (Bardes, Ponce, LeCun 2022): invariance, variance and covariance of two views.

docs/methods.md lists what differs from the paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective, TermWeight
from edge_export.objectives.heads import Head, HeadOptions, crop_views
from edge_runtime.package.manifest import ModelFacts, Width

LEAST_STD = 1.0  # of the hinge
VARIANCE_EPS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class VICRegOptions(HeadOptions):
    """Options in `[method]`."""

    projector_out: Width = 512
    invariance_weight: TermWeight = 25.0
    variance_weight: TermWeight = 25.0
    covariance_weight: TermWeight = 1.0


class VICReg(Objective):
    """Two views, shared encoder; no negatives, no teacher."""

    name = "vicreg"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = VICRegOptions

    def __init__(self, model: ModelFacts, options: VICRegOptions) -> None:
        self._weights = (
            options.invariance_weight,
            options.variance_weight,
            options.covariance_weight,
        )
        hidden = options.projector_width
        self._projector = Head(
            name="projector",
            widths=(model.width, hidden, hidden, options.projector_out),
            norm=options.head_norm,
            output_bias=False,  # no term depends on it
        )
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=True)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=self._projector.parameters,
            micro_batch_refusal="variances and covariances are those of the batch",
            zero_gradient=options.zero_gradient,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """The weighted sum of the three terms."""
        first, second = self._projector(step.weights, step.student["global"].features)
        terms = vicreg_terms(first, second)
        weighted = [w * term for w, term in zip(self._weights, terms, strict=True)]
        return LossResult(loss=weighted[0] + weighted[1] + weighted[2])


def vicreg_terms(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance term (VICReg, equations 1 to 5), without weights.

    From the authors' code where it differs from the paper: the invariance term is a mean over
    the P dimensions, not a sum, and the variance term a mean over both views, not a sum.

    Args:
        first: (B, P), of one view; B at least 2.
        second: (B, P), of the other view of the same pictures.
    """
    centred = [z - z.mean(dim=0) for z in (first, second)]
    variance = (_hinge(centred[0]) + _hinge(centred[1])) / 2
    covariance = _redundancy(centred[0]) + _redundancy(centred[1])
    return mse_loss(first, second), variance, covariance


def _hinge(centred: Tensor) -> Tensor:
    """Mean shortfall of the deviations of (B, P), unbiased: equations 1 and 2."""
    variance = (centred * centred).sum(dim=0) / (len(centred) - 1)  # (P,)
    return torch.relu(LEAST_STD - torch.sqrt(variance + VARIANCE_EPS)).mean()


def _redundancy(centred: Tensor) -> Tensor:
    """Squared covariances of different dimensions of (B, P), over P: equations 3 and 4."""
    covariance = centred.t() @ centred / (len(centred) - 1)  # (P, P)
    variance = (centred * centred).sum(dim=0) / (len(centred) - 1)  # its diagonal
    off_diagonal = (covariance * covariance).sum() - (variance * variance).sum()
    return off_diagonal / len(covariance)
