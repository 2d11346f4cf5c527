"""SimSiam (Chen, He 2020): BYOL without a teacher; its targets are the student's, detached.

docs/methods.md lists what differs from the paper.
"""

from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.cosine import both_ways
from edge_export.objectives.heads import Head, HeadOptions, crop_views
from edge_runtime.package.manifest import ModelFacts


class SimSiam(Objective):
    """Two views, shared encoder, predictor, stop-gradient."""

    name = "simsiam"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = HeadOptions

    def __init__(self, model: ModelFacts, options: HeadOptions) -> None:
        hidden, out = options.projector_width, options.projector_out
        self._projector = Head(
            name="projector",
            widths=(model.width, hidden, hidden, out),
            norm=options.head_norm,
            output_norm=True,
        )
        self._predictor = Head(
            name="predictor", widths=(out, _bottleneck(out), out), norm=options.head_norm
        )
        size_px = model.image_size_px
        views = crop_views(size_px, asymmetric=False, min_area=0.2)
        self.declaration = ObjectiveDeclaration(
            views=(ViewGroup(name="global", size_px=size_px, views=views),),
            parameters=(*self._projector.parameters, *self._predictor.parameters),
            micro_batch_refusal=options.micro_batch_refusal,
            zero_gradient=options.zero_gradient,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """Negative cosine, mean of both directions (algorithm 1)."""
        projected = self._projector(step.weights, step.student["global"].features)
        predicted = self._predictor(step.weights, projected)  # (2, B, P)
        return LossResult(loss=both_ways(predicted, projected.detach()) / 2)


def _bottleneck(width: int) -> int:
    """Hidden width of a predictor with this output: a quarter, as 512 of 2048 in the paper.

    LayerNorm of very few numbers would keep little but their signs: at least 8.
    """
    return max(8, width // 4)
