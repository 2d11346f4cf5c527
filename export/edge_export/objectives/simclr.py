"""SimCLR (Chen et al. 2020): every other picture of the batch is a negative.

Our deviations: LayerNorm in the projector (see `mlp`), and the sizes of a small board.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from edge_export.objectives.base import (
    ContrastiveOptions,
    Defaults,
    crop_views,
    mlp,
    mlp_parameters,
)
from edge_export.parameters import Parameter
from edge_export.vit import Weights
from edge_runtime.package.manifest import AugmentationSpec


class SimCLR:
    """Two views, shared encoder, NT-Xent."""

    name = "simclr"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    teacher_parts: tuple[str, ...] = ()
    micro_batch_refusal = "the other pictures of the batch are the negatives"
    options = ContrastiveOptions

    def views(self, image_size_px: int) -> tuple[AugmentationSpec, ...]:
        """Equal views; crops of at least 8 % of the picture, 20 % of a small one."""
        area = 0.2 if image_size_px < 64 else 0.08
        return crop_views(image_size_px, min_area=area, asymmetric=False)

    def heads(self, width: int, options: ContrastiveOptions) -> tuple[Parameter, ...]:
        """A projector of two layers."""
        return mlp_parameters(
            "projector", (width, options.projector_width, options.projector_out)
        )

    def loss(
        self,
        weights: Weights,
        teacher: Weights | None,
        student_features: Tensor,
        teacher_features: Tensor | None,
        options: ContrastiveOptions,
    ) -> Tensor:
        """NT-Xent of the projected views."""
        projected = mlp(weights, "projector", student_features.flatten(0, 1))  # (2B, P)
        return nt_xent(projected, options.temperature)


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
