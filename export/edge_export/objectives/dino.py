"""DINO (Caron et al. 2021): the student predicts the teacher's distribution over prototypes.

Letters: V views of the student, T = 2 views of the teacher, B images, D encoder width, P
bottleneck, K prototypes.

Source: the paper, sections 3.1 and 3.2; the normalised last layer, the pairs of views and the
centre are those of the authors' code (`DINOHead` and `DINOLoss` of facebookresearch/dino).
docs/methods.md lists every deviation. The token policy acts on the global views alone: local
views are small already, and have no counterpart in the teacher.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import TEACHER, LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import Head, crop_views
from edge_export.parameters import Buffer, Parameter
from edge_export.vit import ENCODER, Weights
from edge_runtime.errors import ConfigError
from edge_runtime.package.curves import Curve, Epochs
from edge_runtime.package.manifest import ModelFacts, Pixels, Width
from edge_runtime.schema import Probability, Range

GLOBAL, LOCAL = "global", "local"  # view groups
CENTRE = "centre"
TEACHER_TEMPERATURE = "teacher_temperature"
PROJECTOR, PROTOTYPES = "projector", "prototypes"
LOCAL_SHARE = 3 / 7  # of the image size: the paper's 96 px of 224

Temperature = Annotated[float, Range(ge=0.001, le=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DINOOptions:
    """Options in `[method]`."""

    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.04
    teacher_warmup_epochs: Epochs = 0.0
    teacher_warmup_from: Temperature = 0.04
    centre_momentum: Probability = 0.9
    projector_width: Width = 512
    projector_out: Width = 128
    prototypes: Width = 2048
    local_views: Annotated[int, Range(ge=0, le=16)] = 0
    local_size: Pixels | None = None


class DINO(Objective):
    """Two global views, local views of the student alone, EMA teacher with a centre."""

    name = "dino"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.04, warmup_epochs=2, ema_momentum=0.99)
    options = DINOOptions

    def __init__(self, model: ModelFacts, options: DINOOptions) -> None:
        """Declare what the method needs for this model.

        Raises:
            ConfigError: the patches do not divide local views, or these are too large.
        """
        self._options = options
        hidden, out = options.projector_width, options.projector_out
        self._projector = Head(name=PROJECTOR, widths=(model.width, hidden, hidden, out))
        temperature = options.teacher_temperature
        self.declaration = ObjectiveDeclaration(
            views=_view_groups(model, options),
            parameters=(*self._projector.parameters, _prototypes(options)),
            teacher=(ENCODER, f"{PROJECTOR}.", f"{PROTOTYPES}."),
            buffers=(Buffer(name=CENTRE, initial=torch.zeros(options.prototypes)),),
            hyper_parameters={
                TEACHER_TEMPERATURE: Curve(
                    shape="constant",
                    first=temperature,
                    final=temperature,
                    warmup_epochs=options.teacher_warmup_epochs,
                    warmup_from=options.teacher_warmup_from,
                )
            },
            evaluated=TEACHER,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """Cross-entropy with the teacher before the step, and the centre after it."""
        options, centre = self._options, step.buffers[CENTRE]
        features = [step.student[group.name].features for group in self.declaration.views]
        students = self._scores(step.weights, torch.cat(features))  # (V, B, K)
        teachers = self._scores(step.teacher_weights, step.teacher[GLOBAL].features)
        loss = cross_entropy(
            (teachers - centre) / step.hyper[TEACHER_TEMPERATURE],
            students / options.student_temperature,
        )
        momentum = options.centre_momentum
        moved = centre * momentum + teachers.mean(dim=(0, 1)) * (1 - momentum)
        return LossResult(loss=loss, buffers={CENTRE: moved})

    def _scores(self, weights: Weights, features: Tensor) -> Tensor:
        """Cosines of projected features with the prototypes: (V, B, D) -> (V, B, K).

        The authors' last layer is weight-normalised with a fixed gain of 1, after an
        l2-normalised bottleneck: the product of two unit vectors.
        """
        rows = normalize(self._projector(weights, features).flatten(0, 1), dim=1)  # (V * B, P)
        weight = weights[f"{PROTOTYPES}.weight"]  # (P, K)
        unit = normalize(weight.to(rows.dtype), dim=0).to(weight.dtype)
        scores = (rows.to(weight.dtype) @ unit).to(rows.dtype)
        return scores.reshape(*features.shape[:2], -1)


def cross_entropy(teachers: Tensor, students: Tensor) -> Tensor:
    """Mean over images and pairs of different views of the cross-entropy (`DINOLoss.forward`).

    A pair is a view of the teacher and one of the student. The student's first T views are the
    teacher's, and a view is not paired with itself: T (V - 1) pairs, all with equal weight.

    Args:
        teachers: (T, B, K) logits, without gradient.
        students: (V, B, K) logits, V >= 2.
    """
    targets = teachers.softmax(dim=2).chunk(len(teachers))  # (1, B, K) each
    predicted = students.log_softmax(dim=2).chunk(len(students))
    pairs = [
        -(target * other).sum(dim=2).mean()
        for i, target in enumerate(targets)
        for v, other in enumerate(predicted)
        if v != i
    ]
    return torch.stack(pairs).mean()


def _prototypes(options: DINOOptions) -> Parameter:
    """Only the direction of a prototype matters, and AdamW turns a longer one less per step.

    From xavier's size, prototypes turn away from all images within some epochs, and scores
    hardly differ any more. The authors freeze their last layer in the first epoch.
    """
    return Parameter(
        name=f"{PROTOTYPES}.weight",
        shape=(options.projector_out, options.prototypes),
        init="normal",
        is_matrix=True,
    )


def _view_groups(model: ModelFacts, options: DINOOptions) -> tuple[ViewGroup, ...]:
    """Two global views; local ones if the options ask for them."""
    size_px = model.image_size_px
    is_small = size_px < 64
    # The authors' areas: without local views, global ones cover a wider range of scales
    alone = 0.2 if is_small else 0.14
    area = 0.4 if options.local_views else alone
    pair = crop_views(size_px, min_area=area, asymmetric=True)
    whole = ViewGroup(name=GLOBAL, size_px=size_px, views=pair)
    if not options.local_views:
        if options.local_size is not None:
            raise ConfigError("method.local_size: there are no local views; leave it out")
        return (whole,)
    blur = 0.0 if is_small else 0.5
    crop = replace(pair[0], min_area=0.05, max_area=0.4, blur=blur)
    local = ViewGroup(
        name=LOCAL,
        size_px=_local_size_px(model, options.local_size),
        views=(crop,) * options.local_views,
        pruned=False,
        teacher=False,
    )
    return whole, local


def _local_size_px(model: ModelFacts, given: int | None) -> int:
    """The side of a local view: whole patches, at most an image."""
    patch_px, size_px = model.patch_size_px, model.image_size_px
    wanted = size_px * LOCAL_SHARE if given is None else given
    nearest = min(max(round(wanted / patch_px), 1) * patch_px, size_px)
    if given not in (None, nearest):
        raise ConfigError(
            f"method.local_size: {given} px is not a multiple of the patches' {patch_px} px "
            f"up to the image's {size_px} px; the nearest is {nearest}"
        )
    return nearest
