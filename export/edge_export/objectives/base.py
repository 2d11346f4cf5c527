"""What a self-supervised method declares, and the parts that methods share.

Letters: V views, B pictures, D encoder width, P projected width.
"""

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor
from torch.nn.functional import gelu
from torch.nn.functional import layer_norm as layer_normalise

from edge_export.parameters import Parameter, linear
from edge_export.vit import Weights, affine
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import AugmentationSpec

HEAD_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the method's authors train with; a recipe may say otherwise.

    `lr_at_256` is for batches of 256 pictures and goes with the square root of the batch size,
    as Adam's step does with the gradient's noise. Higher than the papers', whose models are
    larger and see a hundred times as many pictures.
    """

    lr_at_256: float
    weight_decay: float
    warmup_epochs: float
    ema_momentum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveOptions:
    """What `[method]` may set where projections are compared."""

    temperature: float = 0.2
    projector_width: int = 512
    projector_out: int = 128

    def __post_init__(self) -> None:
        require_positive(self)


class Objective(Protocol):
    """One method: its views, heads and teacher, and its loss as a pure function."""

    @property
    def name(self) -> str:
        """As recipes call it."""

    @property
    def defaults(self) -> Defaults:
        """Hyper-parameters where a recipe gives none."""

    @property
    def teacher_parts(self) -> tuple[str, ...]:
        """Prefixes of the parameters that the EMA teacher copies; none: no teacher."""

    @property
    def micro_batch_refusal(self) -> str | None:
        """Why a batch must stay whole; `None`: the loss is a mean over its pictures."""

    @property
    def options(self) -> type[Any]:
        """A frozen dataclass of what `[method]` may set."""

    def views(self, image_size_px: int) -> tuple[AugmentationSpec, ...]:
        """How each view is made."""

    def heads(self, width: int, options: Any) -> tuple[Parameter, ...]:
        """Parameters beside the encoder's."""

    def loss(
        self,
        weights: Weights,
        teacher: Weights | None,
        student_features: Tensor,
        teacher_features: Tensor | None,
        options: Any,
    ) -> Tensor:
        """Scalar loss of one batch.

        Args:
            weights: the heads', by parameter name.
            teacher: the teacher's copies of those it has.
            student_features: (V, B, D).
            teacher_features: (V, B, D), without gradient.
            options: of this method.
        """


def require_positive(options: Any) -> None:
    """Refuse a method's options unless all of them are above zero.

    Raises:
        ConfigError: names those that are not.
    """
    given = {item.name: getattr(options, item.name) for item in fields(options)}
    wrong = [
        f"{key}: want a number > 0, got {value:g}"
        for key, value in given.items()
        if not 0 < value < math.inf
    ]
    if wrong:
        raise ConfigError("; ".join(wrong))


def mlp_parameters(name: str, widths: tuple[int, ...]) -> tuple[Parameter, ...]:
    """Parameters of `mlp` with these widths, input first."""
    made: list[Parameter] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        made += linear(f"{name}.{index}", inputs, outputs)
        if index < len(widths) - 2:
            made += [
                Parameter(name=f"{name}.{index}.norm.weight", shape=(outputs,), init="ones"),
                Parameter(name=f"{name}.{index}.norm.bias", shape=(outputs,), init="zeros"),
            ]
    return tuple(made)


def mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Linear layers with LayerNorm and GELU in between: (R, in) -> (R, out).

    LayerNorm where the papers have batch norm: a batch on a small board is too small for its
    statistics, and it would tie the pictures of a batch together and rule out micro-batches.
    GELU where they have ReLU: at a ReLU's kink two correct runtimes take different gradients,
    once in some ten batches, and no comparison between them could be trusted.
    """
    index = 0
    while f"{name}.{index}.weight" in weights:
        if index:
            x = gelu(x)
        layer = f"{name}.{index}"
        x = affine(weights, layer, x)
        if f"{layer}.norm.weight" in weights:
            scale, shift = weights[f"{layer}.norm.weight"], weights[f"{layer}.norm.bias"]
            x = layer_normalise(x, x.shape[-1:], scale, shift, HEAD_NORM_EPS)
        index += 1
    return x


def crop_views(
    image_size_px: int, *, min_area: float, asymmetric: bool
) -> tuple[AugmentationSpec, ...]:
    """The usual two views of a picture.

    Blur and solarisation destroy pictures of CIFAR's size, and every published recipe leaves
    them out there: below 64 px both are off.

    Args:
        image_size_px: of a view.
        min_area: least area of a crop.
        asymmetric: BYOL's pair (always blur one; rarely blur, sometimes solarise the other)
            instead of SimCLR's equal views.
    """
    small = image_size_px < 64
    if small or not asymmetric:
        view = AugmentationSpec(min_area=min_area, blur=0.0 if small else 0.5)
        return view, view
    colour = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    return (
        AugmentationSpec(min_area=min_area, blur=1.0, **colour),
        AugmentationSpec(min_area=min_area, blur=0.1, solarize=0.2, **colour),
    )
