"""MoCo v3 (Chen, Xie, He 2021): queries of one view against the teacher's keys of the other.

Deviations from the paper: LayerNorm in the heads (see `mlp`); sizes for small boards; learned
instead of fixed sine positions, and a trained instead of a frozen patch projection; the
teacher is updated after the optimizer instead of before the next forward.
"""

from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import ContrastiveOptions, crop_views, mlp, mlp_parameters
from edge_export.vit import ENCODER
from edge_runtime.package.manifest import ModelFacts


class MoCoV3(Objective):
    """Two views, predictor, EMA teacher, symmetric InfoNCE."""

    name = "mocov3"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.99)
    options = ContrastiveOptions

    def __init__(self, model: ModelFacts, options: ContrastiveOptions) -> None:
        self._temperature = options.temperature
        size_px, out = model.image_size_px, options.projector_out
        hidden = options.projector_width
        # BYOL's pair of views; small pictures get SimCLR's
        area = 0.2 if size_px < 64 else 0.08
        views = crop_views(size_px, min_area=area, asymmetric=True)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=(
                *mlp_parameters("projector", (model.width, hidden, hidden, out)),
                *mlp_parameters("predictor", (out, hidden, out)),
            ),
            teacher=(ENCODER, "projector."),
            micro_batch_refusal="the keys of the batch's other pictures are the negatives",
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """InfoNCE both ways."""
        student, teacher = step.student["global"].features, step.teacher["global"].features
        views = student.shape[:2]
        projected = mlp(step.weights, "projector", student.flatten(0, 1))
        queries = mlp(step.weights, "predictor", projected).reshape(*views, -1)  # (2, B, P)
        keys = mlp(step.teacher_weights, "projector", teacher.flatten(0, 1))
        keys = keys.reshape(*views, -1)
        return LossResult(
            loss=info_nce(queries[0], keys[1], self._temperature)
            + info_nce(queries[1], keys[0], self._temperature)
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
