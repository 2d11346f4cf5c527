"""Images into patches and patches into tokens, at the model's sizes or at others.

Letters as in `edge_export.vit`. The state holds one patch kernel and one grid of positions.
For patches or views of another size both are resized inside the graph by constant matrices,
so that gradients reach the tensors of the state.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edge_export.vit import ENCODER, Weights, affine, cut_patches, normalise
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import ModelFacts

KERNEL = f"{ENCODER}patch_embed.proj"
POSITIONS = f"{ENCODER}pos_embed"

Matrix = list[list[float]]


class PatchGrid:
    """Conversion of square images of one size into tokens, with patches of one size."""

    def __init__(self, model: ModelFacts, *, size_px: int, patch_size_px: int) -> None:
        """Prepare the constant matrices, which must not be traced.

        Args:
            model: the encoder, with the sizes of its kernel and its positions.
            size_px: of the images, a multiple of the patch size.
            patch_size_px: of the patches.

        Raises:
            ConfigError: the patch size does not divide the images.
        """
        if size_px % patch_size_px:
            raise ConfigError(
                f"patches of {patch_size_px} px do not divide images of {size_px} px."
            )
        self._model, self.patch_size_px = model, patch_size_px
        side, base = size_px // patch_size_px, math.isqrt(model.tokens - 1)
        self.patches = side * side  # N
        self._positions = None if side == base else resize_matrix(base, side, "bicubic")
        self._kernel: Matrix | None = None
        if patch_size_px != model.patch_size_px:
            resize = resize_matrix(model.patch_size_px, patch_size_px, "bilinear")
            self._kernel = torch.linalg.pinv(torch.tensor(resize)).T.tolist()

    def cut(self, images: Tensor) -> Tensor:
        """(S, size, size, 3) uint8 -> (S, N, P) float32; GPU providers cannot move uint8."""
        return cut_patches(images.to(torch.float32), self.patch_size_px)

    def positions(self, weights: Weights) -> Tensor:
        """Position embedding of every patch: (1, N, D)."""
        positions = weights[POSITIONS][:, 1:]
        if self._positions is None:
            return positions
        return _constant(self._positions, positions) @ positions

    def embed(self, weights: Weights, patches: Tensor, positions: Tensor) -> Tensor:
        """Tokens of patches.

        Args:
            weights: by parameter name.
            patches: (S, K, P) pixels in [0, 255], all patches or some.
            positions: (1 or S, K, D), the position embedding of each of these.

        Returns:
            (S, 1 + K, D), class token first.
        """
        pixels = normalise(self._model, patches, positions.dtype)
        projection = {
            f"{KERNEL}.weight": self.kernel(weights),
            f"{KERNEL}.bias": weights[f"{KERNEL}.bias"],
        }
        projected = affine(projection, KERNEL, pixels)  # (S, K, D)
        tokens = projected.to(positions.dtype) + positions
        class_token = weights[f"{ENCODER}cls_token"] + weights[POSITIONS][:, :1]  # (1, 1, D)
        return torch.cat([class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def kernel(self, weights: Weights) -> Tensor:
        """The patch kernel (P, D) for patches of this size.

        FlexiViT's pseudo-inverse resize (Beyer et al. 2023, section 3.4): with B the bilinear
        resize of a patch, the kernel whose products with resized patches are nearest to those
        of the base kernel with the patches themselves is pinv(B)^T w.
        """
        kernel = weights[f"{KERNEL}.weight"]
        if self._kernel is None:
            return kernel
        resize = _constant(self._kernel, kernel)  # (pixels of a patch, those of the base)
        by_pixel = kernel.reshape(resize.shape[1], -1)  # one row per pixel: channels x D
        return (resize @ by_pixel).reshape(3 * resize.shape[0], -1)


def _constant(matrix: Matrix, like: Tensor) -> Tensor:
    return torch.tensor(matrix, dtype=like.dtype)


def resize_matrix(old: int, new: int, mode: str) -> Matrix:
    """The resize of a square grid, with antialiasing, as a matrix (new * new, old * old)."""
    basis = torch.eye(old * old).reshape(old * old, 1, old, old)
    resized = interpolate(basis, size=(new, new), mode=mode, antialias=True)
    rows: Any = resized.reshape(old * old, new * new).T.tolist()
    return rows  # type: ignore[no-any-return]
