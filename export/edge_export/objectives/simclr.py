"""SimCLR (Chen et al. 2020): every other picture of the batch is a negative.

Deviations from the paper: LayerNorm in the projector (see `mlp`), and sizes for small boards.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import ContrastiveOptions, crop_views, mlp, mlp_parameters
from edge_runtime.package.manifest import ModelFacts


class SimCLR(Objective):
    """Two views, shared encoder, NT-Xent."""

    name = "simclr"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = ContrastiveOptions

    def __init__(self, model: ModelFacts, options: ContrastiveOptions) -> None:
        self._temperature = options.temperature
        size_px = model.image_size_px
        # Equal views; crops of at least 8 % of the picture, 20 % of a small one
        area = 0.2 if size_px < 64 else 0.08
        views = crop_views(size_px, min_area=area, asymmetric=False)
        widths = (model.width, options.projector_width, options.projector_out)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=mlp_parameters("projector", widths),
            micro_batch_refusal="the other pictures of the batch are the negatives",
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """NT-Xent of the projected views."""
        features = step.student["global"].features.flatten(0, 1)  # (2B, D)
        projected = mlp(step.weights, "projector", features)  # (2B, P)
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
