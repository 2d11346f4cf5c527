"""A plain Vision Transformer as functions of its weights.

Letters: S sequences (views x images), N patch tokens, T = tokens with the class token,
D width, H heads, P = patch pixels * 3. Weights come by parameter name, matrices as [in, out].
Every function takes the name of its layer, so an encoder, a decoder and a predictor can be
built from the same functions. After its prefix the encoder has timm's names (`vit_*`, `deit_*`
without distillation).

A layer computes in the dtype of its weights and casts its input to it. So half precision is a
matter of the weights alone (`edge_export.step.precision`): with float16 matrices the result is
that of `torch.autocast`. Products, and what lies between two of them, are float16; norms,
softmax and the sum of the residuals are float32, since norms and positions are.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu
from torch.nn.functional import layer_norm as layer_normalise

from edge_export.parameters import Parameter, linear, norm
from edge_runtime.package.manifest import ModelFacts

Weights = Mapping[str, Tensor]

ENCODER = "encoder."  # prefix of the encoder's parameters
CLASS_TOKEN, MEAN_PATCHES = "class-token", "mean-patches"
FEATURE_KINDS = (CLASS_TOKEN, MEAN_PATCHES)  # features that an encoder may return for an image
LAYER_NORM_EPS = 1e-6  # timm's for ViT
MLP_RATIO = 4
# Names of the factors of a layer's low-rank term, [in, R] and [R, out], beside its weight
LORA_A, LORA_B = "lora_a", "lora_b"


def encoder_parameters(model: ModelFacts) -> tuple[Parameter, ...]:
    """Every parameter of the encoder, in timm's order."""
    width, pixels = model.width, model.patch_size_px**2 * 3
    tokens = [("cls_token", 1), ("pos_embed", model.tokens)]
    parameters = [
        Parameter(name=ENCODER + name, shape=(1, count, width), init="truncated_normal")
        for name, count in tokens
    ]
    parameters += [
        Parameter(
            name=f"{ENCODER}patch_embed.proj.weight",
            shape=(pixels, width),
            init="xavier_uniform",
            layout="patch",
            is_matrix=True,
        ),
        Parameter(name=f"{ENCODER}patch_embed.proj.bias", shape=(width,), init="zeros"),
    ]
    for index in range(model.depth):
        parameters += block_parameters(block_name(index), width)
    return (*parameters, *norm(f"{ENCODER}norm", width))


def block_name(index: int) -> str:
    """The encoder's block `index`, from 0."""
    return f"{ENCODER}blocks.{index}"


def block_parameters(name: str, width: int) -> tuple[Parameter, ...]:
    """Parameters of `attend` and `feed_forward` with this name."""
    return (
        *norm(f"{name}.norm1", width),
        *linear(f"{name}.attn.qkv", width, 3 * width, fused=3),
        *linear(f"{name}.attn.proj", width, width),
        *norm(f"{name}.norm2", width),
        *linear(f"{name}.mlp.fc1", width, MLP_RATIO * width),
        *linear(f"{name}.mlp.fc2", MLP_RATIO * width, width),
    )


def cut_patches(images: Tensor, patch_size_px: int) -> Tensor:
    """(S, height, width, 3) -> (S, N, P), of the same dtype; P in row, column, channel."""
    count, height, width, channels = images.shape
    rows, columns = height // patch_size_px, width // patch_size_px
    grid = images.reshape(count, rows, patch_size_px, columns, patch_size_px, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(count, rows * columns, -1)


def normalise(model: ModelFacts, patches: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels in [0, 255] -> `dtype`, with the model's mean and deviation: (..., P) both."""
    repeats = patches.shape[-1] // 3
    mean = torch.tensor(model.mean * repeats, dtype=dtype) * 255
    scale = 1 / (torch.tensor(model.std * repeats, dtype=dtype) * 255)
    return (patches.to(dtype) - mean) * scale


def affine(weights: Weights, name: str, x: Tensor) -> Tensor:
    """`x @ weight + bias` over the last axis, as one product of the weight's dtype.

    If the layer has low-rank factors, `(x @ lora_a) @ lora_b` is added: their gradients need
    no product of the weight's size.
    """
    weight = weights[f"{name}.weight"]
    bias, rows = weights[f"{name}.bias"].to(weight.dtype), x.to(weight.dtype)
    rows = rows.reshape(-1, x.shape[-1])
    y = torch.addmm(bias, rows, weight)
    if f"{name}.{LORA_A}" in weights:
        y = torch.addmm(y, rows @ weights[f"{name}.{LORA_A}"], weights[f"{name}.{LORA_B}"])
    return y.reshape(*x.shape[:-1], weight.shape[1])


def layer_norm(weights: Weights, name: str, x: Tensor, eps: float = LAYER_NORM_EPS) -> Tensor:
    """LayerNorm over the last axis, in the scale's dtype."""
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return layer_normalise(x.to(scale.dtype), x.shape[-1:], scale, shift, eps)


class Attention(NamedTuple):
    """Results of an attention layer, of the dtype of its input.

    Unused ones are not computed in a lowered graph.
    """

    tokens: Tensor  # (S, T or `queries`, D), with the residual
    probabilities: Tensor  # (S, H, T or `queries`, T)
    keys: Tensor  # (S, H, T, D / H)


def attend(
    weights: Weights,
    name: str,
    heads: int,
    x: Tensor,
    *,
    queries: int | None = None,
    bias: Tensor | None = None,
) -> Attention:
    """Self-attention with its residual.

    Args:
        weights: by parameter name.
        name: of the block.
        heads: H.
        x: (S, T, D).
        queries: number of leading tokens that are queries; all tokens are keys and values.
        bias: (S, 1, 1, T), added to the scores before the softmax.
    """
    count, tokens, width = x.shape
    qkv = affine(weights, f"{name}.attn.qkv", layer_norm(weights, f"{name}.norm1", x))
    # One transposition for all three, then slices of whole planes: (S, 3H, T, D/H)
    qkv = qkv.reshape(count, tokens, 3 * heads, width // heads).transpose(1, 2)
    query, key, value = qkv.chunk(3, dim=1)
    if queries is not None:
        query, x, tokens = query[:, :, :queries], x[:, :queries], queries
    scores = (query * (width // heads) ** -0.5) @ key.transpose(2, 3)  # (S, H, queries, T)
    scores = scores.to(x.dtype)
    if bias is not None:
        scores = scores + bias
    probabilities = scores.softmax(dim=-1)
    mixed = probabilities.to(value.dtype) @ value
    mixed = mixed.transpose(1, 2).reshape(count, tokens, width)
    new = x + affine(weights, f"{name}.attn.proj", mixed).to(x.dtype)
    return Attention(new, probabilities, key.to(x.dtype))


def feed_forward(weights: Weights, name: str, x: Tensor) -> Tensor:
    """MLP of a block with its residual: (S, T, D) -> (S, T, D)."""
    hidden = affine(weights, f"{name}.mlp.fc1", layer_norm(weights, f"{name}.norm2", x))
    return x + affine(weights, f"{name}.mlp.fc2", gelu(hidden)).to(x.dtype)


def block(weights: Weights, name: str, heads: int, x: Tensor) -> Tensor:
    """A whole transformer block: (S, T, D) -> (S, T, D)."""
    return feed_forward(weights, name, attend(weights, name, heads, x).tokens)
