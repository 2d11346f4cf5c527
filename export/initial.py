"""Start from a timm checkpoint instead of fresh weights."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edge_runtime.errors import ConfigError
from edge_runtime.package.encoder import from_timm
from edge_runtime.package.manifest import EncoderTensor
from edge_runtime.state import load_state
from export.parameters import Parameter

POSITIONS = "pos_embed"


def encoder_from_timm(
    path: Path, encoder: tuple[EncoderTensor, ...], declared: dict[str, Parameter]
) -> dict[str, Tensor]:
    """The encoder's parameters by name, from a timm ViT's .safetensors file.

    A classifier in the file is left out. Positions are resized where the grid differs.

    Args:
        path: the file.
        encoder: timm's name and layout of each tensor.
        declared: the parameters by name, for their shapes.

    Raises:
        ConfigError: unreadable, of another model, or of another patch size or width.
    """
    try:
        checkpoint = load_state(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--init {path} cannot be read: {error}") from error
    values = {
        name: torch.from_numpy(value.astype("float32"))
        for name, value in from_timm(encoder, checkpoint).items()
    }
    problems = []
    for name, value in values.items():
        wanted = declared[name].shape
        if name.endswith(POSITIONS) and value.shape[1:] != wanted[1:]:
            values[name] = resize_positions(value, wanted[1])
        if values[name].shape != wanted:
            problems.append(f"{name}: the model has {wanted}, the file {tuple(value.shape)}")
    if problems:
        raise ConfigError(
            f"--init {path} is of another model: {problems[0]} ({len(problems)} differences). "
            "Give the model, patch size and width that it was trained with."
        )
    return values


def resize_positions(positions: Tensor, tokens: int) -> Tensor:
    """Position embedding (1, 1 + n^2, D) for another square grid: (1, tokens, D).

    Bicubic with antialiasing, the class token's untouched, as timm does.
    """
    old, new = int((positions.shape[1] - 1) ** 0.5), int((tokens - 1) ** 0.5)
    if old * old != positions.shape[1] - 1:
        return positions  # not a square grid with a class token: the shape check refuses it
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(new, new), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
