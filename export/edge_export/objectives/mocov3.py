"""MoCo v3 (Chen, Xie, He 2021): queries of one view against the teacher's keys of the other.

Our deviations: LayerNorm in the heads (see `mlp`), the sizes of a small board, and the teacher
moves after the optimizer instead of before the next forward.
"""

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


class MoCoV3:
    """Two views, predictor, EMA teacher, symmetric InfoNCE."""

    name = "mocov3"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.99)
    teacher_parts = ("encoder.", "projector.")
    micro_batch_refusal = "the keys of the batch's other pictures are the negatives"
    options = ContrastiveOptions

    def views(self, image_size_px: int) -> tuple[AugmentationSpec, ...]:
        """BYOL's pair of views; small pictures get SimCLR's."""
        area = 0.2 if image_size_px < 64 else 0.08
        return crop_views(image_size_px, min_area=area, asymmetric=True)

    def heads(self, width: int, options: ContrastiveOptions) -> tuple[Parameter, ...]:
        """A projector of three layers and a predictor of two."""
        hidden, out = options.projector_width, options.projector_out
        return (
            *mlp_parameters("projector", (width, hidden, hidden, out)),
            *mlp_parameters("predictor", (out, hidden, out)),
        )

    def loss(
        self,
        weights: Weights,
        teacher: Weights | None,
        student_features: Tensor,
        teacher_features: Tensor | None,
        options: ContrastiveOptions,
    ) -> Tensor:
        """InfoNCE both ways."""
        if teacher is None or teacher_features is None:
            raise ValueError("mocov3 has a teacher")
        views = student_features.shape[:2]
        projected = mlp(weights, "projector", student_features.flatten(0, 1))
        queries = mlp(weights, "predictor", projected).reshape(*views, -1)  # (2, B, P)
        keys = mlp(teacher, "projector", teacher_features.flatten(0, 1)).reshape(*views, -1)
        return info_nce(queries[0], keys[1], options.temperature) + info_nce(
            queries[1], keys[0], options.temperature
        )


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """2T times the mean cross-entropy of each query among the keys (MoCo v3, algorithm 1).

    Args:
        queries: (B, P), with gradient.
        keys: (B, P); row i is the positive of query i.
        temperature: T of the softmax.
    """
    q, k = normalize(queries, dim=1), normalize(keys, dim=1)
    positive = (q * k).sum(dim=1) / temperature  # (B,)
    return 2 * temperature * ((q @ k.t() / temperature).logsumexp(dim=1) - positive).mean()
