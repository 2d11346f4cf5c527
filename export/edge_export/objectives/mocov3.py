"""MoCo v3 (Chen, Xie, He 2021): queries of one view against the teacher's keys of the other.

docs/methods.md lists what differs from the paper.
"""

from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import ContrastiveOptions, Head, crop_views
from edge_export.vit import ENCODER
from edge_runtime.package.manifest import ModelFacts


class MoCoV3(Objective):
    """Two views, predictor, EMA teacher, symmetric InfoNCE."""

    name = "mocov3"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.99)
    options = ContrastiveOptions

    def __init__(self, model: ModelFacts, options: ContrastiveOptions) -> None:
        self._temperature = options.temperature
        hidden, out = options.projector_width, options.projector_out
        self._projector = Head(
            name="projector",
            widths=(model.width, hidden, hidden, out),
            norm=options.head_norm,
            output_norm=True,
        )
        self._predictor = Head(
            name="predictor",
            widths=(out, hidden, out),
            norm=options.head_norm,
            output_norm=True,
        )
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=True)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=(*self._projector.parameters, *self._predictor.parameters),
            teacher=(ENCODER, "projector."),
            micro_batch_refusal="the keys of the batch's other pictures are the negatives",
            zero_gradient=options.zero_gradient,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """InfoNCE both ways."""
        student, teacher = step.student["global"].features, step.teacher["global"].features
        projected = self._projector(step.weights, student)
        queries = self._predictor(step.weights, projected)  # (2, B, P)
        keys = self._projector(step.teacher_weights, teacher)
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
