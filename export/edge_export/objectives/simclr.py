"""SimCLR (Chen et al. 2020): every other picture of the batch is a negative.

docs/methods.md lists what differs from the paper.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import ContrastiveOptions, Head, crop_views
from edge_runtime.package.manifest import ModelFacts


class SimCLR(Objective):
    """Two views, shared encoder, NT-Xent."""

    name = "simclr"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = ContrastiveOptions

    def __init__(self, model: ModelFacts, options: ContrastiveOptions) -> None:
        self._temperature = options.temperature
        self._projector = Head(
            name="projector",
            widths=(model.width, options.projector_width, options.projector_out),
            norm=options.head_norm,
            output_norm=True,
        )
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=False)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=self._projector.parameters,
            micro_batch_refusal="the other pictures of the batch are the negatives",
            zero_gradient=options.zero_gradient,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """NT-Xent of the projected views; both views are one batch of the projector."""
        features = step.student["global"].features.flatten(0, 1)  # (2B, D)
        projected = self._projector(step.weights, features)  # (2B, P)
        return LossResult(loss=nt_xent(projected, self._temperature))


def nt_xent(projected: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR, equation 1), mean over all views.

    Args:
        projected: (2B, P); row i and row i + B are views of one picture.
        temperature: of the softmax.
    """
    count = projected.shape[0]
    z = normalize(projected, dim=1)  # (2B, P)
    itself = torch.eye(count, dtype=torch.bool)
    scores = (z @ z.t() / temperature).masked_fill(itself, -1e9)  # (2B, 2B)
    partner = torch.cat([z[count // 2 :], z[: count // 2]])
    positive = (z * partner).sum(dim=1) / temperature  # (2B,)
    return (scores.logsumexp(dim=1) - positive).mean()
