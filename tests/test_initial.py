"""Starting from a checkpoint with timm's names: the same features."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are loaded on the torch side")

from timm_reference import (  # noqa: E402
    HEADS,
    make_program,
    saved,
    slow_features,
    timm_checkpoint,
)

from edge_export.package.build import initial_state  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.evaluation import export_encoder  # noqa: E402
from edge_runtime.package.names import EMA, EXP_AVG, PARAM  # noqa: E402


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
    assert_same_features(
        embedded(program, state), slow_features(checkpoint, pictures(), heads=HEADS)
    )


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
    assert_same_features(
        embedded(program, state, EMA), slow_features(checkpoint, pictures(), heads=HEADS)
    )


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
    assert_same_features(
        embedded(program, state), slow_features(checkpoint, pictures(), heads=HEADS)
    )


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
