"""Projectors and predictors, their options, and the usual two views.

Letters: R rows (pictures, or views x pictures), D encoder width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import gelu

from edge_export.parameters import Parameter, linear, norm
from edge_export.vit import ENCODER, Weights, affine, layer_norm
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import AugmentationSpec, Width
from edge_runtime.schema import Range

HEAD_NORM_EPS = 1e-5
LAYER, BATCH = "layer", "batch"  # norms of a head


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """Options in `[method]` of methods with a projector.

    Raises:
        ConfigError: the norm is unknown.
    """

    projector_width: Width = 512
    projector_out: Width = 128
    head_norm: str = LAYER

    def __post_init__(self) -> None:
        if self.head_norm not in (LAYER, BATCH):
            raise ConfigError(
                f"method.head_norm: unknown {self.head_norm!r}; known are {LAYER}, {BATCH}."
            )

    @property
    def micro_batch_refusal(self) -> str | None:
        """Why the heads need the whole batch; `None`: they see each picture alone."""
        if self.head_norm == LAYER:
            return None
        return "batch norm in the heads (method.head_norm) takes statistics of the batch"

    @property
    def zero_gradient(self) -> tuple[str, ...]:
        """Names of encoder parameters that batch norm cancels: they shift all features."""
        return (f"{ENCODER}norm.bias",) if self.head_norm == BATCH else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveOptions(HeadOptions):
    """Options in `[method]` of methods with negatives."""

    temperature: Annotated[float, Range(ge=0.001, le=1000)] = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A projector or predictor: linear layers with a norm and GELU in between.

    The norm is a LayerNorm, or batch norm as in the papers, with the statistics of the step;
    running statistics would serve evaluation, and heads are not evaluated. LayerNorm is the
    default of most methods: a batch on a small board is too small for its statistics, and
    batch norm couples the pictures of a batch and rules out micro-batches. GELU instead of the
    papers' ReLU in both: at a ReLU's kink two correct runtimes compute different gradients, in
    about one of ten batches, which would make comparisons between them unreliable.

    A layer that batch norm follows has no bias, which the norm would cancel.
    """

    name: str  # prefix of its parameters
    widths: tuple[int, ...]  # input first
    norm: str = LAYER
    # With batch norm, one without scale and shift after the last layer
    output_norm: bool = False
    output_bias: bool = True  # a bias in the last layer

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Weights, biases and norms of the layers, in order."""
        parameters: list[Parameter] = []
        for index, (inputs, outputs) in enumerate(pairwise(self.widths)):
            weight, bias = linear(f"{self.name}.{index}", inputs, outputs)
            parameters += [weight, bias] if self._has_bias(index) else [weight]
            if index < self._last:
                parameters += norm(f"{self.name}.{index}.norm", outputs)
        return tuple(parameters)

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        """(..., R, in) -> (..., R, out), of x's dtype; batch norm is over each R rows."""
        dtype = x.dtype
        for index in range(self._last + 1):
            layer = f"{self.name}.{index}"
            x = (
                affine(weights, layer, x)
                if self._has_bias(index)
                else _product(weights, layer, x)
            )
            if index < self._last:
                x = gelu(self._normalised(weights, f"{layer}.norm", x))
        x = x.to(dtype)
        return batch_norm(x) if self._ends_in_norm else x

    @property
    def _last(self) -> int:
        return len(self.widths) - 2

    @property
    def _ends_in_norm(self) -> bool:
        return self.output_norm and self.norm == BATCH

    def _has_bias(self, index: int) -> bool:
        if index < self._last:
            return self.norm != BATCH
        return self.output_bias and not self._ends_in_norm

    def _normalised(self, weights: Weights, name: str, x: Tensor) -> Tensor:
        if self.norm == LAYER:
            return layer_norm(weights, name, x, HEAD_NORM_EPS)
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return batch_norm(x.to(scale.dtype)) * scale + shift


def batch_norm(x: Tensor) -> Tensor:
    """Columns of mean 0 and deviation 1 over the rows: (..., R, D), of x's dtype.

    With the biased variance and eps, as PyTorch's `BatchNorm1d` while it trains.
    """
    centred = x - x.mean(dim=-2, keepdim=True)
    variance = (centred * centred).mean(dim=-2, keepdim=True)
    return centred / torch.sqrt(variance + HEAD_NORM_EPS)


def _product(weights: Weights, name: str, x: Tensor) -> Tensor:
    """`x @ weight` over the last axis, as one product of the weight's dtype."""
    weight = weights[f"{name}.weight"]
    y = x.to(weight.dtype).reshape(-1, x.shape[-1]) @ weight
    return y.reshape(*x.shape[:-1], weight.shape[1])


def crop_views(
    image_size_px: int, *, asymmetric: bool, min_area: float | None = None
) -> tuple[AugmentationSpec, ...]:
    """The usual two views of a picture.

    Blur and solarisation destroy pictures of CIFAR's size, and published recipes leave them
    out for such pictures: below 64 px both are off.

    Args:
        image_size_px: of a view.
        asymmetric: BYOL's pair (always blur one; rarely blur, sometimes solarise the other)
            instead of SimCLR's equal views. Small pictures get SimCLR's.
        min_area: least area of a crop; `None`: 8 % of the picture, and 20 % of a small one.
    """
    small = image_size_px < 64
    if min_area is None:
        min_area = 0.2 if small else 0.08
    if small or not asymmetric:
        view = AugmentationSpec(min_area=min_area, blur=0.0 if small else 0.5)
        return view, view
    colour = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    return (
        AugmentationSpec(min_area=min_area, blur=1.0, **colour),
        AugmentationSpec(min_area=min_area, blur=0.1, solarize=0.2, **colour),
    )
