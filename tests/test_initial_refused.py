"""Refusals of `--init`: each says what the file is, and what to do."""

import math
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are loaded on the torch side")

from timm_reference import PATCH, WIDTH, make_program, saved, timm_checkpoint  # noqa: E402

from edge_export.package.build import initial_state  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.evaluation import export_encoder  # noqa: E402
from edge_runtime.package.names import PARAM  # noqa: E402
from edge_runtime.state import encode_state  # noqa: E402


def without(*names):
    return lambda actual: {k: v for k, v in actual.items() if k not in names}


def replaced(**tensors):
    return lambda actual: {**actual, **{k.replace("__", "."): v for k, v in tensors.items()}}


def below(prefix):
    return lambda actual: {prefix + name: value for name, value in actual.items()}


NOT_PLAIN = r"is not a plain ViT: it has "
SIZES = "is of another model: "
NAMES = "does not have the tensors of timm's vit_tiny: "
FIT = "does not fit: "
W = WIDTH


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        # another kind of model
        (replaced(reg_token=torch.zeros(1, 4, W)), {}, NOT_PLAIN + r"register tokens \('reg"),
        (
            replaced(dist_token=torch.zeros(1, 1, W), pos_embed=torch.zeros(1, 18, W)),
            {},
            NOT_PLAIN + r"a distillation token \(a distilled DeiT\) \('dist_token'\)",
        ),
        (
            replaced(blocks__0__ls1__gamma=torch.zeros(W)),
            {},
            NOT_PLAIN
            + r"LayerScale \('blocks\.0\.ls1\.gamma'\)\. Use a checkpoint of a model",
        ),
        (
            lambda actual: {
                k.replace("norm.", "fc_norm.") if k[0] == "n" else k: v
                for k, v in actual.items()
            },
            {},
            NOT_PLAIN + r"average pooling before the last norm",
        ),
        (without("cls_token"), {}, NOT_PLAIN + r"no class token\. Use"),
        (replaced(blocks__1__mlp__w12__weight=torch.zeros(8, W)), {}, NOT_PLAIN + "SwiGLU"),
        (
            replaced(blocks__0__mlp__fc2__weight=torch.zeros(W, 2 * W)),
            {},
            NOT_PLAIN + "SwiGLU",
        ),
        (
            replaced(blocks__0__mlp__fc1__weight=torch.zeros(3 * W, W)),
            {},
            NOT_PLAIN + "hidden layers 3 times as wide as a token",
        ),
        (
            replaced(blocks__0__attn__q_norm__weight=torch.zeros(6)),
            {},
            NOT_PLAIN + "normalised queries and keys",
        ),
        (
            without("blocks.0.attn.qkv.bias"),
            {},
            NOT_PLAIN + "queries, keys and values without",
        ),
        (
            replaced(norm_pre__weight=torch.zeros(W)),
            {},
            NOT_PLAIN + "a norm before the blocks",
        ),
        (
            replaced(patch_embed__proj__weight=torch.zeros(W, 1, PATCH, PATCH)),
            {},
            NOT_PLAIN + "1 channels of pixels",
        ),
        (
            replaced(patch_embed__proj__weight=torch.zeros(W, 3, 4, 8)),
            {},
            NOT_PLAIN + "patches of 8 x 4 px",
        ),
        (
            replaced(pos_embed=torch.zeros(1, 16, W)),
            {},
            NOT_PLAIN + r"position embeddings of patches alone \(no_embed_class\)",
        ),
        (
            replaced(pos_embed=torch.zeros(1, 13, W)),
            {},
            NOT_PLAIN + "positions of 12 patches, which are not a square",
        ),
        # other sizes, with the flags that fit
        (replaced(), {"depth": 3}, SIZES + r"depth 2, not 3\. Export with --depth 2\."),
        (replaced(), {"depth": 1}, SIZES + r"depth 2, not 1\. Export with --depth 2\."),
        (
            replaced(),
            {"width": 16, "patch_size": 8},
            SIZES + r"width 12, not 16, patch_size 4, not 8\. "
            r"Export with --width 12 --heads HEADS --patch-size 4\.",
        ),
        (
            lambda actual: {
                k: v.repeat(*[16 if n in (W, 3 * W, 4 * W) else 1 for n in v.shape])
                for k, v in actual.items()
            },
            {},
            SIZES + r"width 192, not 12\. Export with --model vit_tiny\.",
        ),
        # other names
        (
            without("norm.bias"),
            {},
            NAMES + r"it lacks 1 of 30 tensors, first 'norm\.bias'\. Us",
        ),
        (replaced(extra=torch.zeros(1)), {}, NAMES + "it has 1 other tensors, first 'extra'"),
        (lambda _: {"layer1.0.conv1.weight": torch.zeros(1)}, {}, NAMES + "it lacks 30 of 30"),
        (
            replaced(patch_embed__proj__weight=torch.zeros(W, 48)),
            {},
            NAMES + r"'patch_embed\.proj\.weight' has the shape \(12, 48\)",
        ),
        (
            replaced(blocks__0__mlp__fc1__weight=torch.zeros(W)),
            {},
            NAMES + r"'blocks\.0\.mlp\.fc1\.weight' has the shape \(12,\)",
        ),
        # other shapes and values
        (
            replaced(cls_token=torch.zeros(1, 1, 16)),
            {},
            FIT + r"encoder\.cls_token: the model has \(1, 1, 12\), the file \(1, 1, 16\) \(1",
        ),
        (
            replaced(pos_embed=torch.zeros(1, 1, W)),  # no patches
            {},
            FIT + r"encoder\.pos_embed: .* the file \(1, 1, 12\)",
        ),
        (
            replaced(pos_embed=torch.zeros(17, W)),
            {},
            FIT + r"encoder\.pos_embed: .* the file \(17, 12\)",
        ),
        (
            replaced(pos_embed=torch.zeros(2, 10, W)),
            {},
            FIT + r"encoder\.pos_embed: .* the file \(2, 10, 12\)",
        ),
        (
            replaced(norm__weight=torch.full((W,), math.nan)),
            {},
            FIT + r"encoder\.norm\.weight: the file has NaN or infinite values",
        ),
        (
            replaced(blocks__1__mlp__fc1__weight=torch.zeros(48, W, dtype=torch.int8)),
            {},
            r"has integers or quantised numbers: 'blocks\.1\.mlp\.fc1\.weight' is of type int",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_its_kind(
    tmp_path, change, sizes, message
):
    path = saved(tmp_path, change(timm_checkpoint()))
    with pytest.raises(ConfigError, match=rf"^--init .*vit\.safetensors {message}"):
        initial_state(make_program(**sizes), path)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.encoder."])
def test_a_prefix_that_makes_all_names_fit_is_left_out(tmp_path, prefix):
    checkpoint = timm_checkpoint()
    # Beside the encoder, as in the state of a whole method
    more = {"module.projector.weight": torch.zeros(3, dtype=torch.int64)}
    path = saved(tmp_path, {**more, **below(prefix)(checkpoint)})
    if prefix == "module.":
        with pytest.raises(ConfigError, match="it has 1 other tensors, first 'projector"):
            initial_state(make_program(), path)
        path = saved(tmp_path, below(prefix)(checkpoint))
    state = initial_state(make_program(), path)
    assert torch.equal(state[PARAM + "encoder.norm.weight"], checkpoint["norm.weight"])


def test_several_encoders_in_a_file_are_named(tmp_path):
    both = {**below("student.")(timm_checkpoint()), **below("teacher.")(timm_checkpoint())}
    message = r"holds several encoders: below 'student\.', 'teacher\.'\. Save one of them"
    with pytest.raises(ConfigError, match=message):
        initial_state(make_program(), saved(tmp_path, both))


def test_what_an_exported_file_states_about_itself_is_compared(tmp_path, small_package):
    package = small_package("mocov3", "random")
    path = tmp_path / "encoder.safetensors"
    export_encoder(package, package.initial_state(), path)
    recipe = package.manifest.recipe
    table = {**recipe, "model": {**recipe["model"], "name": "deit_tiny", "heads": 4}}
    message = (
        r"heads 2, not 4, mean \[0\.5, 0\.5, 0\.5\], not \[0\.485, .*\. Export with --heads 2 "
        r"--set 'model\.mean=\[0\.5, 0\.5, 0\.5\]' --set 'model\.std="
    )
    with pytest.raises(ConfigError, match=message):
        initial_state(Program(make_recipe(table, where="test")), path)


@pytest.mark.parametrize("content", [b"", b"\x08" + bytes(30), b"{" * 100])
def test_an_invalid_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "vit.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--init .*vit\.safetensors is not a complete safe"):
        initial_state(make_program(), path)


@pytest.mark.parametrize("name", ["vit.pth", "vit.pt", "pytorch_model.bin", "vit.safetensors"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_is_told_with_how_to_convert_it(tmp_path, name, is_zip):
    path, checkpoint = tmp_path / name, timm_checkpoint()
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ConfigError, match=r"--init .* is a pickle of PyTorch") as caught:
        initial_state(make_program(), path)
    program = "\n".join(line.strip() for line in str(caught.value).splitlines()[1:])
    assert program.count("\n") == 2
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    state = initial_state(make_program(), path.with_suffix(".safetensors"))
    assert torch.equal(state[PARAM + "encoder.norm.weight"], checkpoint["norm.weight"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file or directory."),
        (lambda path: path.mkdir(), "cannot be read: Is a directory."),
        (os.mkfifo, "cannot be read: it is not a regular file."),
    ],
    ids=["missing", "folder", "pipe"],
)
def test_what_is_not_a_file_is_refused(tmp_path, make, message):
    make(tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match=rf"--init .*vit\.safetensors {message}"):
        initial_state(make_program(), tmp_path / "vit.safetensors")


def test_a_state_of_edge_train_is_refused_with_what_to_give(tmp_path):
    state = {name: value.numpy() for name, value in make_program().initial_state().items()}
    (tmp_path / "state.safetensors").write_bytes(encode_state(state))
    with pytest.raises(ConfigError, match=r"is a state of edge-train.*export-encoder RUN -o"):
        initial_state(make_program(), tmp_path / "state.safetensors")
