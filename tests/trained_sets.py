"""A tiny model with a rung for each kind of trained parameters, and slow definitions of it."""

import torch
from torch.nn.functional import gelu, layer_norm

from edge_export.package.graphs import step_inputs
from edge_export.recipe import make_recipe
from edge_runtime.package.names import EMA, PARAM

RANK, ALPHA = 2, 16
CLOSE = 1e-10
DEPTH, WIDTH, HEADS = 2, 12, 2
SETS = ("all", "last-1", "biases", f"lora-{RANK}")
TABLE = {
    "model": {
        "image_size": 16,
        "patch_size": 8,
        "depth": DEPTH,
        "width": WIDTH,
        "heads": HEADS,
    },
    "method": {
        "name": "byol",
        "projector_width": 16,
        "projector_out": 8,
        "head_norm": "layer",
    },
    "tokens": {"name": "none"},
    "trained": list(SETS),
    "batch_size": 4,
}
LAYERS = {  # name -> inputs, outputs
    "attn.qkv": (WIDTH, 3 * WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.fc1": (WIDTH, 4 * WIDTH),
    "mlp.fc2": (4 * WIDTH, WIDTH),
}
ADAPTED = [f"encoder.blocks.{block}.{layer}" for block in range(DEPTH) for layer in LAYERS]
FACTORS = {f"{layer}.lora_{factor}" for layer in ADAPTED for factor in "ab"}


def recipe_of(**changes):
    return make_recipe({**TABLE, **changes}, where="test")


def rung_of(program, trained):
    return program.bind(next(each for each in program.settings if each.trained == trained))


def inputs_of(program):
    """Those of a step, float64; every factor and the teacher's differ from all others."""
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + torch.randn(value.shape, generator=generator) / 10
        if name.startswith((PARAM, EMA))
        else value
        for name, value in program.initial_state().items()
    }
    tensors = step_inputs(rung_of(program, "all"), state).tensors
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def merged_by_hand(values, prefix=PARAM):
    """W + alpha / R A B for every adapted layer, factors left out."""
    merged = {
        name: value
        for name, value in values.items()
        if not (name.startswith(prefix) and ".lora_" in name)
    }
    for layer in ADAPTED:
        a, b = (values[f"{prefix}{layer}.lora_{factor}"] for factor in "ab")
        merged[f"{prefix}{layer}.weight"] = (
            values[f"{prefix}{layer}.weight"] + ALPHA / RANK * a @ b
        )
    return merged


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= CLOSE * value.abs().max(), name


def low_rank_layer(values, layer, x):
    """x W + b + alpha / R x A B, one row at a time."""
    weight, bias, a, b = (
        values[f"{layer}.{name}"] for name in ("weight", "bias", "lora_a", "lora_b")
    )
    rows = [row @ weight + bias + ALPHA / RANK * ((row @ a) @ b) for row in x.flatten(0, -2)]
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


def slow_block(values, block, x):
    """A pre-norm block of x (S, T, D) after the definition, one head at a time."""
    name = f"encoder.blocks.{block}"

    def norm(number, x):
        scale, shift = (values[f"{name}.norm{number}.{k}"] for k in ("weight", "bias"))
        return layer_norm(x, (WIDTH,), scale, shift, 1e-6)

    qkv = low_rank_layer(values, f"{name}.attn.qkv", norm(1, x))
    size, mixed = WIDTH // HEADS, []
    for head in range(HEADS):
        first = head * size
        q, k, v = (qkv[..., at + first : at + first + size] for at in (0, WIDTH, 2 * WIDTH))
        mixed.append((q @ k.transpose(1, 2) / size**0.5).softmax(dim=-1) @ v)
    x = x + low_rank_layer(values, f"{name}.attn.proj", torch.cat(mixed, dim=-1))
    hidden = gelu(low_rank_layer(values, f"{name}.mlp.fc1", norm(2, x)))
    return x + low_rank_layer(values, f"{name}.mlp.fc2", hidden)


def slow_features(values, images):
    """Features of images (S, 16, 16, 3) in [0, 255]: normalised with mean and std 0.5."""
    pixels = (images.double() / 255 - 0.5) / 0.5
    patches = [
        pixels[:, row : row + 8, column : column + 8].flatten(1)
        for row in (0, 8)
        for column in (0, 8)
    ]
    kernel, bias = (values[f"encoder.patch_embed.proj.{k}"] for k in ("weight", "bias"))
    tokens = torch.stack(patches, dim=1) @ kernel + bias
    x = torch.cat([values["encoder.cls_token"].expand(len(images), 1, -1), tokens], dim=1)
    x = x + values["encoder.pos_embed"]
    for block in range(DEPTH):
        x = slow_block(values, block, x)
    scale, shift = values["encoder.norm.weight"], values["encoder.norm.bias"]
    return layer_norm(x[:, 0], (WIDTH,), scale, shift, 1e-6)
