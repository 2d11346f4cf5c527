"""BYOL (Grill et al. 2020): predict the teacher's projection of the other view.

docs/methods.md lists what differs from the paper.
"""

from dataclasses import dataclass

from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.cosine import both_ways
from edge_export.objectives.heads import BATCH, Head, HeadOptions, crop_views
from edge_export.vit import ENCODER
from edge_runtime.package.manifest import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class BYOLOptions(HeadOptions):
    """Options in `[method]`; without batch norm, projections of all pictures become alike."""

    head_norm: str = BATCH


class BYOL(Objective):
    """Two views, predictor, EMA teacher, no negatives."""

    name = "byol"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.99)
    options = BYOLOptions

    def __init__(self, model: ModelFacts, options: BYOLOptions) -> None:
        hidden, out = options.projector_width, options.projector_out
        # Last layers without bias: from the authors' code. The projector is MoCo v3's
        self._projector = Head(
            name="projector",
            widths=(model.width, hidden, hidden, out),
            norm=options.head_norm,
            output_norm=True,
            output_bias=False,
        )
        self._predictor = Head(
            name="predictor",
            widths=(out, hidden, out),
            norm=options.head_norm,
            output_bias=False,
        )
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=True)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=(*self._projector.parameters, *self._predictor.parameters),
            teacher=(ENCODER, "projector."),
            micro_batch_refusal=options.micro_batch_refusal,
            zero_gradient=options.zero_gradient,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """Squared distance of normalised vectors, 2 - 2 cos, summed over both directions."""
        student, teacher = step.student["global"].features, step.teacher["global"].features
        projected = self._projector(step.weights, student)
        predicted = self._predictor(step.weights, projected)  # (2, B, P)
        targets = self._projector(step.teacher_weights, teacher)
        return LossResult(loss=4 + 2 * both_ways(predicted, targets))
