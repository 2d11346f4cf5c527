"""Projectors and predictors, and the views and options of contrastive methods.

Letters: R rows (views x images), D encoder width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import Tensor
from torch.nn.functional import gelu

from edge_export.parameters import Parameter, linear, norm
from edge_export.vit import Weights, affine, layer_norm
from edge_runtime.package.manifest import AugmentationSpec, Width
from edge_runtime.schema import Range

HEAD_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveOptions:
    """Options in `[method]` of methods that compare projections."""

    temperature: Annotated[float, Range(ge=0.001, le=1000)] = 0.2
    projector_width: Width = 512
    projector_out: Width = 128


def mlp_parameters(name: str, widths: tuple[int, ...]) -> tuple[Parameter, ...]:
    """Parameters of `mlp` with these widths, input first."""
    parameters: list[Parameter] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        parameters += linear(f"{name}.{index}", inputs, outputs)
        if index < len(widths) - 2:
            parameters += norm(f"{name}.{index}.norm", outputs)
    return tuple(parameters)


def mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Linear layers with LayerNorm and GELU in between: (R, in) -> (R, out), of x's dtype.

    LayerNorm instead of the papers' batch norm: a batch on a small board is too small for its
    statistics, and batch norm would couple the images of a batch and rule out micro-batches.
    GELU instead of ReLU: at a ReLU's kink two correct runtimes compute different gradients, in
    about one of ten batches, which would make comparisons between them unreliable.
    """
    index, dtype = 0, x.dtype
    while f"{name}.{index}.weight" in weights:
        if index:
            x = gelu(x)
        layer = f"{name}.{index}"
        x = affine(weights, layer, x)
        if f"{layer}.norm.weight" in weights:
            x = layer_norm(weights, f"{layer}.norm", x, HEAD_NORM_EPS)
        index += 1
    return x.to(dtype)


def crop_views(
    image_size_px: int, *, min_area: float, asymmetric: bool
) -> tuple[AugmentationSpec, ...]:
    """The usual two views of a picture.

    Blur and solarisation destroy pictures of CIFAR's size, and published recipes leave them
    out for such pictures: below 64 px both are off.

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
