"""A plain Vision Transformer as functions of its weights.

Letters: S sequences (views x pictures), N patch tokens, T = tokens with the class token,
D width, H heads, P = patch pixels * 3. Weights come by parameter name, matrices as [in, out].
Names are timm's (`vit_*`, `deit_*` without distillation).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import gelu
from torch.nn.functional import layer_norm as layer_normalise

from edge_export.parameters import Parameter, linear
from edge_runtime.package.manifest import ModelFacts

Weights = Mapping[str, Tensor]

LAYER_NORM_EPS = 1e-6  # timm's for ViT
MLP_RATIO = 4
# ImageNet statistics, the convention of timm's checkpoints
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def encoder_parameters(model: ModelFacts) -> tuple[Parameter, ...]:
    """Every parameter of the encoder, in timm's order."""
    width = model.width
    pixels = model.patch_size_px**2 * 3
    found = [
        _same("cls_token", (1, 1, width), "truncated_normal"),
        _same("pos_embed", (1, model.tokens, width), "truncated_normal"),
        Parameter(
            name="patch_embed.proj.weight",
            shape=(pixels, width),
            init="xavier_uniform",
            layout="patch",
        ),
        _same("patch_embed.proj.bias", (width,), "zeros"),
    ]
    for index in range(model.depth):
        block = f"blocks.{index}"
        found += [
            *_norm(f"{block}.norm1", width),
            *linear(f"{block}.attn.qkv", width, 3 * width, fused=3),
            *linear(f"{block}.attn.proj", width, width),
            *_norm(f"{block}.norm2", width),
            *linear(f"{block}.mlp.fc1", width, MLP_RATIO * width),
            *linear(f"{block}.mlp.fc2", MLP_RATIO * width, width),
        ]
    return (*found, *_norm("norm", width))


def _same(name: str, shape: tuple[int, ...], init: str) -> Parameter:
    return Parameter(name=name, shape=shape, init=init)


def _norm(name: str, width: int) -> tuple[Parameter, Parameter]:
    return _same(f"{name}.weight", (width,), "ones"), _same(f"{name}.bias", (width,), "zeros")


def cut_patches(images: Tensor, patch_px: int) -> Tensor:
    """(S, height, width, 3) uint8 -> (S, N, P) uint8; P in row, column, channel."""
    count, height, width, channels = images.shape
    rows, columns = height // patch_px, width // patch_px
    grid = images.reshape(count, rows, patch_px, columns, patch_px, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(count, rows * columns, -1)


def normalise(patches: Tensor, dtype: torch.dtype) -> Tensor:
    """Uint8 pixels (..., P) -> `dtype`, ImageNet mean and deviation per channel."""
    repeats = patches.shape[-1] // 3
    mean = torch.tensor(MEAN * repeats, dtype=dtype) * 255
    scale = 1 / (torch.tensor(STD * repeats, dtype=dtype) * 255)
    return (patches.to(dtype) - mean) * scale


def embed(weights: Weights, patches: Tensor, positions: Tensor) -> Tensor:
    """Tokens of patches.

    Args:
        weights: the encoder's.
        patches: (S, N, P) uint8.
        positions: (1 or S, N, D), the position embedding of each of these patches.

    Returns:
        (S, 1 + N, D), class token first.
    """
    pixels = normalise(patches, positions.dtype)
    tokens = affine(weights, "patch_embed.proj", pixels) + positions  # (S, N, D)
    class_token = weights["cls_token"] + weights["pos_embed"][:, :1]  # (1, 1, D)
    return torch.cat([class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


def affine(weights: Weights, name: str, x: Tensor) -> Tensor:
    """`x @ weight + bias` over the last axis, as one two-dimensional product."""
    weight = weights[f"{name}.weight"]
    y = torch.addmm(weights[f"{name}.bias"], x.reshape(-1, x.shape[-1]), weight)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    """LayerNorm over the last axis."""
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return layer_normalise(x, x.shape[-1:], scale, shift, LAYER_NORM_EPS)


def attend(
    weights: Weights,
    block: int,
    heads: int,
    x: Tensor,
    *,
    queries: int | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Self-attention with its residual: (S, T, D) -> (S, T or `queries`, D).

    Args:
        weights: the encoder's.
        block: which one, from 0.
        heads: H.
        x: (S, T, D).
        queries: only the first so many tokens go on; all tokens stay keys and values.
        bias: (S, 1, 1, T) added to the scores. Tests drop tokens with it.
    """
    name = f"blocks.{block}"
    count, tokens, width = x.shape
    qkv = affine(weights, f"{name}.attn.qkv", layer_norm(weights, f"{name}.norm1", x))
    # One transposition for all three, then slices of whole planes: (S, 3H, T, D/H)
    qkv = qkv.reshape(count, tokens, 3 * heads, width // heads).transpose(1, 2)
    query, key, value = qkv.chunk(3, dim=1)
    if queries is not None:
        query, x, tokens = query[:, :, :queries], x[:, :queries], queries
    scores = (query * (width // heads) ** -0.5) @ key.transpose(2, 3)  # (S, H, queries, T)
    if bias is not None:
        scores = scores + bias
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, tokens, width)
    return x + affine(weights, f"{name}.attn.proj", mixed)


def feed_forward(weights: Weights, block: int, x: Tensor) -> Tensor:
    """MLP with its residual: (S, T, D) -> (S, T, D)."""
    name = f"blocks.{block}"
    hidden = affine(weights, f"{name}.mlp.fc1", layer_norm(weights, f"{name}.norm2", x))
    return x + affine(weights, f"{name}.mlp.fc2", gelu(hidden))


def features(weights: Weights, tokens: Tensor) -> Tensor:
    """Final norm of the class token: (S, T, D) -> (S, D)."""
    return layer_norm(weights, "norm", tokens[:, 0])
