"""Starting from a checkpoint with timm's names: the same features, or a clear refusal."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are loaded on the torch side")

from safetensors.torch import save_file  # noqa: E402

from edge_export.package.build import initial_state  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.evaluation import export_encoder  # noqa: E402
from edge_runtime.package.names import EMA, EXP_AVG, PARAM  # noqa: E402
from edge_runtime.state import encode_state  # noqa: E402

WIDTH, HEADS, DEPTH, PATCH = 12, 2, 2, 4


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


def slow_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * weight + bias


def slow_attention(x, qkv_weight, qkv_bias, weight, bias):
    """One picture (T, D), one head and one query after the other."""
    query, key, value = (x @ qkv_weight.T + qkv_bias).reshape(len(x), 3, HEADS, -1).unbind(1)
    mixed = torch.zeros(len(x), HEADS, WIDTH // HEADS, dtype=x.dtype)
    for head in range(HEADS):
        for token in range(len(x)):
            scores = key[:, head] @ query[token, head] / math.sqrt(WIDTH // HEADS)
            share = torch.exp(scores) / torch.exp(scores).sum()
            mixed[token, head] = share @ value[:, head]
    return mixed.reshape(len(x), WIDTH) @ weight.T + bias


def slow_features(checkpoint, pictures):
    """A ViT as timm defines it, in double precision: (B, H, W, 3) uint8 -> (B, D)."""
    w = {name: value.double() for name, value in checkpoint.items()}
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    channels_first = ((pictures.double() / 255 - mean) / deviation).permute(0, 3, 1, 2)
    kernel, bias = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    grids = torch.nn.functional.conv2d(channels_first, kernel, bias, stride=PATCH)
    features = []
    for grid in grids:
        x = torch.cat([w["cls_token"][0], grid.flatten(1).T]) + w["pos_embed"][0]
        for block in range(DEPTH):
            p = {k.removeprefix(f"blocks.{block}."): v for k, v in w.items()}
            normed = slow_norm(x, p["norm1.weight"], p["norm1.bias"])
            attention = [p[f"attn.{k}"] for k in ("qkv.weight", "qkv.bias")]
            attention += [p[f"attn.{k}"] for k in ("proj.weight", "proj.bias")]
            x = x + slow_attention(normed, *attention)
            hidden = slow_norm(x, p["norm2.weight"], p["norm2.bias"])
            hidden = hidden @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
        features.append(slow_norm(x[0], w["norm.weight"], w["norm.bias"]))
    return torch.stack(features)


def pictures(count=3, size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator
    )


def embedded(program, state, prefix=PARAM):
    weights = {name: state[prefix + name] for name in program.parameters if "encoder." in name}
    return program.embed(weights, pictures(size=program.model.image_size_px))


def assert_same_features(actual, wanted):
    # float32 against float64, through two blocks
    np.testing.assert_allclose(actual.numpy(), wanted.numpy(), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("scale", [1, 0.01], ids=["usual", "small"])
def test_features_are_those_of_timms_vit(tmp_path, scale):
    checkpoint, program = timm_checkpoint(), make_program()
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        checkpoint[name] *= scale  # LayerNorm's epsilon is large relative to small tokens
    state = initial_state(program, saved(tmp_path, checkpoint))
    assert_same_features(embedded(program, state), slow_features(checkpoint, pictures()))


def test_only_the_encoder_is_taken_and_the_teacher_starts_equal(tmp_path):
    program = make_program("mocov3")
    fresh = initial_state(program, None)
    state = initial_state(program, saved(tmp_path, timm_checkpoint()))
    assert list(state) == list(fresh)
    for name in program.parameters:
        taken = name.startswith("encoder.")
        assert torch.equal(state[PARAM + name], fresh[PARAM + name]) != taken
        assert not state[EXP_AVG + name].any()
        if EMA + name in state:
            assert torch.equal(state[EMA + name], state[PARAM + name])
            assert state[EMA + name].data_ptr() != state[PARAM + name].data_ptr()
    assert any(name.startswith(EMA + "encoder.") for name in state)


def test_a_teacher_of_a_checkpoint_gives_the_same_features(tmp_path):
    checkpoint, program = timm_checkpoint(), make_program("mocov3")
    state = initial_state(program, saved(tmp_path, checkpoint))
    assert_same_features(embedded(program, state, EMA), slow_features(checkpoint, pictures()))


def resized_slowly(positions, grid):
    """Each channel of the grid alone, through PyTorch's bicubic antialiased resize."""
    old = math.isqrt(positions.shape[1] - 1)
    rows = [positions[0, 0]]
    planes = [
        torch.nn.functional.interpolate(
            positions[0, 1:, channel].reshape(1, 1, old, old),
            size=(grid, grid),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )[0, 0]
        for channel in range(positions.shape[2])
    ]
    for row in range(grid):
        for column in range(grid):
            rows.append(torch.stack([plane[row, column] for plane in planes]))  # noqa: PERF401
    return torch.stack(rows)[None]


@pytest.mark.parametrize("grid", [3, 7])
def test_positions_of_another_grid_are_resized(tmp_path, grid):
    checkpoint, program = timm_checkpoint(grid), make_program()
    state = initial_state(program, saved(tmp_path, checkpoint))
    checkpoint["pos_embed"] = resized_slowly(checkpoint["pos_embed"], 4)
    resized = state[PARAM + "encoder.pos_embed"]
    torch.testing.assert_close(resized, checkpoint["pos_embed"], rtol=1e-5, atol=1e-6)
    assert_same_features(embedded(program, state), slow_features(checkpoint, pictures()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoints_of_other_precision_load(tmp_path, dtype):
    checkpoint = {name: value.to(dtype) for name, value in timm_checkpoint().items()}
    state = initial_state(make_program(), saved(tmp_path, checkpoint))
    weight = state[PARAM + "encoder.norm.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, checkpoint["norm.weight"].to(torch.float32))


def test_an_exported_encoder_loads_back_to_the_bit(tmp_path, small_package):
    package = small_package("mocov3", "random")
    rng = np.random.default_rng(0)
    trained = {
        name: value + rng.normal(size=value.shape).astype(np.float32)
        for name, value in package.initial_state().items()
    }
    path = tmp_path / "encoder.safetensors"
    export_encoder(package, trained, path)
    program = Program(make_recipe(package.manifest.recipe, where="manifest"))
    state = initial_state(program, path)
    for tensor in package.manifest.encoder:
        for prefix in (PARAM, EMA):
            wanted = trained[package.manifest.encoder_prefix + tensor.name]
            np.testing.assert_array_equal(state[prefix + tensor.name].numpy(), wanted)


def without(*names):
    return lambda actual: {k: v for k, v in actual.items() if k not in names}


def replaced(**tensors):
    return lambda actual: {**actual, **{k.replace("__", "."): v for k, v in tensors.items()}}


FIT = r"vit\.safetensors does not fit: "
OTHER = "does not fit this encoder: "


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        (
            without("norm.bias"),
            {},
            OTHER + r"it lacks 1 of 30 tensors, first 'norm\.bias'",
        ),
        (replaced(), {"depth": 3}, OTHER + r"it lacks 12 of 42 tensors, first 'blocks\.2\."),
        (replaced(), {"depth": 1}, OTHER + r"it has 12 other tensors, first 'blocks\.1\."),
        (
            replaced(dist_token=torch.zeros(1, 1, WIDTH)),
            {},
            OTHER + "it has 1 other tensors, first 'dist_token'",
        ),
        (
            replaced(blocks__0__ls1__gamma=torch.zeros(WIDTH)),
            {},
            OTHER + r"it has 1 other tensors, first 'blocks\.0\.ls1\.gamma'",
        ),
        (
            replaced(patch_embed__proj__weight=torch.zeros(WIDTH, 48)),
            {},
            OTHER + r"'patch_embed\.proj\.weight' has the shape \(12, 48\)",
        ),
        (
            replaced(blocks__0__mlp__fc1__weight=torch.zeros(WIDTH)),
            {},
            OTHER + r"'blocks\.0\.mlp\.fc1\.weight' has the shape \(12,\)",
        ),
        (replaced(), {"width": 16}, FIT + r"encoder\.cls_token: the model has \(1, 1, 16\)"),
        (
            replaced(),
            {"patch_size": 8},
            FIT + r"encoder\.patch_embed\.proj\.weight: the model has \(192, 12\), the file "
            r"\(48, 12\) \(1 problems\)\. Use the model, patch size and width",
        ),
        (
            replaced(pos_embed=torch.zeros(1, 16, WIDTH)),  # no class token
            {},
            FIT + r"encoder\.pos_embed: the model has \(1, 17, 12\), the file \(1, 16, 12\)",
        ),
        (
            replaced(pos_embed=torch.zeros(1, 1, WIDTH)),  # no patches
            {},
            FIT + r"encoder\.pos_embed: .* the file \(1, 1, 12\)",
        ),
        (
            replaced(pos_embed=torch.zeros(17, WIDTH)),
            {},
            FIT + r"encoder\.pos_embed: .* the file \(17, 12\)",
        ),
        (
            replaced(pos_embed=torch.zeros(2, 10, WIDTH)),
            {},
            FIT + r"encoder\.pos_embed: .* the file \(2, 10, 12\)",
        ),
        (
            replaced(norm__weight=torch.full((WIDTH,), math.nan)),
            {},
            FIT + r"encoder\.norm\.weight: the file has NaN or infinite values",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, change, sizes, message):
    path = saved(tmp_path, change(timm_checkpoint()))
    with pytest.raises(ConfigError, match=message):
        initial_state(make_program(**sizes), path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle of old", b"\x08" + bytes(30)])
def test_an_invalid_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "vit.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--init .*vit\.pth cannot be read: "):
        initial_state(make_program(), path)


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        initial_state(make_program(), tmp_path / "gone.safetensors")


def test_a_states_names_are_not_timms(tmp_path):
    state = {name: value.numpy() for name, value in make_program().initial_state().items()}
    (tmp_path / "state.safetensors").write_bytes(encode_state(state))
    with pytest.raises(ConfigError, match="it lacks 30 of 30 tensors"):
        initial_state(make_program(), tmp_path / "state.safetensors")
