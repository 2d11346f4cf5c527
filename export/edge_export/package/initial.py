"""Start from a timm checkpoint instead of fresh weights."""

import math
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate

from edge_export.parameters import Parameter
from edge_runtime.errors import ConfigError
from edge_runtime.package.encoder import from_timm
from edge_runtime.package.manifest import EncoderTensor
from edge_runtime.reading import MAX_STATE_BYTES, read_file

POSITIONS = "pos_embed"


def encoder_from_timm(
    path: Path, encoder: tuple[EncoderTensor, ...], declared: dict[str, Parameter]
) -> dict[str, Tensor]:
    """The encoder's parameters by name, from a timm ViT's .safetensors file.

    A classifier in the file is ignored. Positions are resized if the grid differs.

    Args:
        path: the file.
        encoder: timm's name and layout of each tensor.
        declared: the parameters by name, for their shapes.

    Raises:
        ConfigError: unreadable, damaged, of another model, patch size or width.
    """
    try:
        # torch, because numpy has no bfloat16
        tensors = safetensors.torch.load(read_file(path, MAX_STATE_BYTES))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"--init {path} cannot be read: {error}") from error
    checkpoint = {name: value.to(torch.float32).numpy() for name, value in tensors.items()}
    values = {
        name: torch.from_numpy(value) for name, value in from_timm(encoder, checkpoint).items()
    }
    problems = []
    for name, value in values.items():
        wanted = declared[name].shape
        if name.endswith(POSITIONS) and value.shape[1:] != wanted[1:]:
            values[name] = resize_positions(value, wanted[1])
        if values[name].shape != wanted:
            problems.append(f"{name}: the model has {wanted}, the file {tuple(value.shape)}")
        elif not value.isfinite().all():
            problems.append(f"{name}: the file has NaN or infinite values")
    if problems:
        raise ConfigError(
            f"--init {path} does not fit: {problems[0]} ({len(problems)} problems). Use the "
            "model, patch size and width that it was trained with."
        )
    return values


def resize_positions(positions: Tensor, tokens: int) -> Tensor:
    """Position embedding (1, 1 + n^2, D) for another square grid: (1, tokens, D).

    Bicubic with antialiasing, the class token's unchanged, as in timm.
    """
    patches = positions.shape[1] - 1 if positions.ndim == 3 and len(positions) == 1 else 0
    old, new = math.isqrt(patches), math.isqrt(tokens - 1)
    if not patches or old * old != patches:
        return positions  # not a square grid with a class token: the shape check refuses it
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(new, new), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
