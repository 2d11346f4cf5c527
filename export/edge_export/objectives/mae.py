"""MAE (He et al. 2022): the pixels of hidden patches, from the visible ones.

Letters: B images, N patches, K visible ones, D encoder width, E decoder width, P = patch
pixels * 3.

Source: the paper, sections 3 and 4.1; positions and target normalisation are those of the
authors' code (`models_mae.py` of facebookresearch/mae). docs/methods.md lists every deviation.
The token policy hides the patches: the keep-ratio is the visible share, 0.25 in the paper.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from edge_export.context import Encoding, StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration, ViewGroup
from edge_export.objectives.base import Defaults, Objective
from edge_export.parameters import Parameter, linear, norm
from edge_export.vit import Weights, affine, block, block_parameters, layer_norm
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import AugmentationSpec, ModelFacts, Width
from edge_runtime.schema import Range

DECODER = "decoder."
HEAD_WIDTH = 32  # the paper's decoder: 16 heads in 512
VARIANCE_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class MaeOptions:
    """Options in `[method]`."""

    decoder_width: Width = 96
    decoder_depth: Annotated[int, Range(ge=1, le=100)] = 2


class MAE(Objective):
    """One view, no teacher; a decoder sees the visible tokens, and mask tokens elsewhere."""

    name = "mae"
    defaults = Defaults(
        lr_at_256=1e-3, weight_decay=0.05, warmup_epochs=2, keep_ratios=(0.25, 0.15)
    )
    options = MaeOptions

    def __init__(self, model: ModelFacts, options: MaeOptions) -> None:
        """Declare what the method needs for this model.

        Raises:
            ConfigError: the decoder's width is not a multiple of four.
        """
        width, self._depth = options.decoder_width, options.decoder_depth
        if width % 4:
            nearest = max(4, 4 * round(width / 4))
            raise ConfigError(
                f"method.decoder_width: {width} is not a multiple of 4, as positions need; "
                f"the nearest is {nearest}"
            )
        self._positions = _positions(model, width)
        self._heads = next(n for n in range(width // HEAD_WIDTH or 1, 0, -1) if width % n == 0)
        # No colour, as in the paper: hiding patches is the augmentation
        view = AugmentationSpec(min_area=0.2, jitter=0.0, grayscale=0.0)
        self.declaration = ObjectiveDeclaration(
            views=(
                ViewGroup(
                    name="global",
                    size_px=model.image_size_px,
                    views=(view,),
                    patch_tokens=True,
                ),
            ),
            parameters=_decoder_parameters(model, options),
            predicts_hidden=True,
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        """Mean squared error over the hidden patches."""
        encoding, patches = step.student["global"], step.patches["global"][0]  # (B, N, P)
        placement = placed(encoding.kept[0], patches.shape[1], patches.dtype)
        predicted = self._decoded(step.weights, encoding, placement)
        return LossResult(loss=hidden_error(predicted, patches, placement))

    def _decoded(self, weights: Weights, encoding: Encoding, placement: Tensor) -> Tensor:
        """Predicted pixels of every patch: (B, N, P), of the tokens' dtype."""
        dtype = placement.dtype
        class_token, visible = (
            affine(weights, f"{DECODER}embed", tokens[0]).to(dtype)
            for tokens in (encoding.class_token[:, :, None], encoding.patch_tokens)
        )  # (B, 1, E), (B, K, E)
        hidden = 1 - placement.sum(dim=2, keepdim=True)  # (B, N, 1)
        tokens = placement @ visible + hidden * weights[f"{DECODER}mask_token"]
        tokens = tokens + torch.tensor(self._positions, dtype=dtype)  # (B, N, E)
        x = torch.cat([class_token, tokens], dim=1)  # the class token's position is zero
        for index in range(self._depth):
            x = block(weights, f"{DECODER}blocks.{index}", self._heads, x)
        x = layer_norm(weights, f"{DECODER}norm", x)
        return affine(weights, f"{DECODER}pred", x[:, 1:]).to(dtype)


def placed(kept: Tensor, patches: int, dtype: torch.dtype) -> Tensor:
    """A matrix of zeros and ones that puts visible tokens in their places.

    Args:
        kept: (B, K) int64, the patch of each visible token.
        patches: N.
        dtype: of the result.

    Returns:
        (B, N, K), 1 where token k is patch n. Its sums over K are 0 for hidden patches.
    """
    return (kept[:, None, :] == torch.arange(patches)[:, None]).to(dtype)


def normalised_targets(patches: Tensor) -> Tensor:
    """Pixels less their patch's mean, over its deviation (`norm_pix_loss`): (B, N, P) both.

    The variance is unbiased, with 1e-6 added, as in the authors' code.
    """
    centred = patches - patches.mean(dim=2, keepdim=True)
    variance = (centred * centred).sum(dim=2, keepdim=True) / (patches.shape[2] - 1)
    return centred / (variance + VARIANCE_EPS).sqrt()


def hidden_error(predicted: Tensor, patches: Tensor, placement: Tensor) -> Tensor:
    """Mean squared error of normalised pixels over the hidden patches of all images.

    Args:
        predicted: (B, N, P).
        patches: (B, N, P), pixels.
        placement: (B, N, K), see `placed`; K < N.
    """
    error = predicted - normalised_targets(patches)
    by_patch = (error * error).mean(dim=2)  # (B, N)
    hidden = 1 - placement.sum(dim=2)
    count, patches_of_one, visible = placement.shape
    return (by_patch * hidden).sum() / (count * (patches_of_one - visible))


def _decoder_parameters(model: ModelFacts, options: MaeOptions) -> tuple[Parameter, ...]:
    """Parameters of `MAE._decoded`."""
    width, pixels = options.decoder_width, model.patch_size_px**2 * 3
    parameters = [
        *linear(f"{DECODER}embed", model.width, width),
        Parameter(name=f"{DECODER}mask_token", shape=(1, 1, width), init="truncated_normal"),
    ]
    for index in range(options.decoder_depth):
        parameters += block_parameters(f"{DECODER}blocks.{index}", width)
    return (
        *parameters,
        *norm(f"{DECODER}norm", width),
        *linear(f"{DECODER}pred", width, pixels),
    )


def _positions(model: ModelFacts, width: int) -> list[list[float]]:
    """Fixed sine and cosine positions of the patches, row by row: N x E.

    The first half of the width is for the column, the second for the row, as in the authors'
    `get_2d_sincos_pos_embed`. A list, since a trace must not compute it.
    """
    side = model.image_size_px // model.patch_size_px
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates  # (side, E / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, E / 2)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    positions: list[list[float]] = torch.cat([columns, rows], dim=1).tolist()
    return positions
