"""A ViT as timm defines it, slow and in double precision, and a checkpoint with its names."""

import math

import torch
from safetensors.torch import save_file

from edge_export.recipe import make_recipe
from edge_export.step.program import Program

HALF = (0.5, 0.5, 0.5)  # timm's mean and std of `vit_*`
WIDTH, HEADS, DEPTH, PATCH = 12, 2, 2, 4


def slow_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * weight + bias


def slow_attention(x, heads, qkv_weight, qkv_bias, weight, bias):
    """One picture (T, D), one head and one query after the other."""
    width = x.shape[1]
    query, key, value = (x @ qkv_weight.T + qkv_bias).reshape(len(x), 3, heads, -1).unbind(1)
    mixed = torch.zeros(len(x), heads, width // heads, dtype=x.dtype)
    for head in range(heads):
        for token in range(len(x)):
            scores = key[:, head] @ query[token, head] / math.sqrt(width // heads)
            share = torch.exp(scores) / torch.exp(scores).sum()
            mixed[token, head] = share @ value[:, head]
    return mixed.reshape(len(x), width) @ weight.T + bias


def slow_features(checkpoint, pictures, *, heads, mean=HALF, std=HALF):
    """The class token's features: (B, H, W, 3) uint8 -> (B, D)."""
    w = {name: value.double() for name, value in checkpoint.items()}
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    channels_first = ((pictures.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    kernel, bias = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    grids = torch.nn.functional.conv2d(channels_first, kernel, bias, stride=kernel.shape[2:])
    depth = len([name for name in w if name.endswith("attn.qkv.bias")])
    features = []
    for grid in grids:
        x = torch.cat([w["cls_token"][0], grid.flatten(1).T]) + w["pos_embed"][0]
        for block in range(depth):
            p = {k.removeprefix(f"blocks.{block}."): v for k, v in w.items()}
            normed = slow_norm(x, p["norm1.weight"], p["norm1.bias"])
            attention = [p[f"attn.{k}"] for k in ("qkv.weight", "qkv.bias")]
            attention += [p[f"attn.{k}"] for k in ("proj.weight", "proj.bias")]
            x = x + slow_attention(normed, heads, *attention)
            hidden = slow_norm(x, p["norm2.weight"], p["norm2.bias"])
            hidden = hidden @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
        features.append(slow_norm(x[0], w["norm.weight"], w["norm.bias"]))
    return torch.stack(features)


def make_program(method="simclr", image_size=16, **sizes):
    sizes = {"depth": DEPTH, "width": WIDTH, "heads": HEADS, "patch_size": PATCH, **sizes}
    table = {"model": {"image_size": image_size, **sizes}, "method": {"name": method}}
    return Program(make_recipe(table, where="test"))


def timm_checkpoint(grid=4):
    """Random tensors with the names and shapes that timm gives a ViT of these sizes."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + grid * grid, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    for block in range(DEPTH):
        for layer, (inputs, outputs) in {
            "attn.qkv": (WIDTH, 3 * WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "mlp.fc1": (WIDTH, 4 * WIDTH),
            "mlp.fc2": (4 * WIDTH, WIDTH),
        }.items():
            shapes[f"blocks.{block}.{layer}.weight"] = (outputs, inputs)
            shapes[f"blocks.{block}.{layer}.bias"] = (outputs,)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{block}.{norm}.weight"] = (WIDTH,)
            shapes[f"blocks.{block}.{norm}.bias"] = (WIDTH,)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(*s, generator=generator) for name, s in shapes.items()}


def saved(tmp_path, checkpoint):
    save_file({k: v.contiguous() for k, v in checkpoint.items()}, tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"
