"""The encoder as a file: loads in stock onnxruntime, or under timm's names."""

import errno
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny_encoder import ENCODER, PIXELS, SIZE_PX, WIDTH, features_of, make_package, make_state

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.evaluation.encoder_file import export_encoder
from edge_runtime.evaluation.onnx_wire import (
    read_fields,
    tensor_head,
    with_stored_weights,
    write_field,
    write_number,
    write_varint,
)
from edge_runtime.package.encoder import from_timm


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


def evaluated(state):
    return {name[4:]: value for name, value in state.items() if name.startswith("ema.")}


def test_onnx_file_gives_the_same_features(package, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    state, target = make_state(1), tmp_path / "encoder.onnx"
    assert export_encoder(package, state, target) == target.stat().st_size
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["images"]
    for count in (1, 3):  # the batch is free
        images = np.random.default_rng(count).integers(
            0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8
        )
        (features,) = session.run(None, {"images": images})
        np.testing.assert_allclose(features, features_of(evaluated(state), images), rtol=1e-4)


def test_onnx_file_is_a_valid_model(package, tmp_path):
    onnx = pytest.importorskip("onnx")
    state, target = make_state(1), tmp_path / "encoder.onnx"
    export_encoder(package, state, target)
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    original = onnx.load(package.file(package.manifest.embed))
    assert list(model.graph.node) == list(original.graph.node)
    assert [value.name for value in model.graph.input] == ["images"]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert stored.pop("rows").tolist() == [-1, PIXELS]
    for name, value in evaluated(state).items():
        np.testing.assert_array_equal(stored.pop(name), value)
    assert not stored


def test_safetensors_file_has_timms_names_and_layouts(package, tmp_path):
    state, target = make_state(1), tmp_path / "encoder.safetensors"
    assert export_encoder(package, state, target) == target.stat().st_size
    tensors = load_file(target)
    assert {name: value.shape for name, value in tensors.items()} == {
        "patch_embed.proj.weight": (WIDTH, 3, SIZE_PX, SIZE_PX),
        "patch_embed.proj.bias": (WIDTH,),
        "fc.weight": (WIDTH, WIDTH),
    }
    for name, value in from_timm(ENCODER, tensors).items():
        np.testing.assert_array_equal(value, state[f"ema.{name}"])


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_same_state_gives_the_same_bytes(package, tmp_path, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    export_encoder(package, make_state(1), first)
    export_encoder(package, dict(reversed(make_state(1).items())), second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["encoder.pt", "encoder"])
def test_other_suffixes_are_refused(package, tmp_path, name):
    with pytest.raises(ConfigError, match=r"encoder file is \.onnx or \.safetensors"):
        export_encoder(package, make_state(1), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_an_existing_file_is_not_replaced(package, tmp_path):
    target = tmp_path / "encoder.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"encoder\.onnx exists and is not an encoder of"):
        export_encoder(package, make_state(1), target)
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.safetensors"])
def test_a_former_encoder_is_replaced(package, tmp_path, name):
    target = tmp_path / name
    export_encoder(package, make_state(1), target)
    former = target.read_bytes()
    export_encoder(package, make_state(2), target)
    assert target.read_bytes() != former


def test_more_than_an_onnx_file_can_hold_is_refused(package, tmp_path):
    state = dict(make_state(1))
    # A view of one number: 2 GiB by its size, four bytes of memory.
    state["ema.patch.weight"] = np.broadcast_to(np.float32(0), (1 << 27, 4))
    with pytest.raises(ConfigError, match=r"has 2\.0 GiB.*Export it as \.safetensors"):
        export_encoder(package, state, tmp_path / "encoder.onnx")
    assert not (tmp_path / "encoder.onnx").exists()


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_weights_are_not_copied_at_once(package, tmp_path, suffix):
    state = dict(make_state(1))
    for name in ("ema.patch.weight", "ema.fc.weight"):
        state[name] = np.zeros((PIXELS, 1 << 15), np.float32)  # 6 MiB
    tracemalloc.start()
    export_encoder(package, state, tmp_path / f"encoder{suffix}")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # timm's layout is made of one tensor after the other
    allowed = {".onnx": 0, ".safetensors": state["ema.fc.weight"].nbytes}[suffix]
    assert peak_bytes < allowed + (1 << 20)


def test_a_full_disk_leaves_no_file(package, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        export_encoder(package, make_state(1), tmp_path / "encoder.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


@given(st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_fields_are_read_as_they_were_written(number, content):
    message = (
        write_number(3, number) + write_field(500, content) + b"\x0d4444" + b"\x1188888888"
    )
    fields = list(read_fields(message))
    assert [field.number for field in fields] == [3, 500, 1, 2]
    assert [field.content for field in fields] == [b"", content, b"", b""]
    assert b"".join(field.encoded for field in fields) == message


def test_varints_are_those_of_the_format():
    # the examples of protobuf's encoding guide
    assert write_varint(1) == b"\x01"
    assert write_varint(150) == b"\x96\x01"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_are_those_of_onnx(dtype):
    onnx = pytest.importorskip("onnx")
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for value in (array, array.T, array[0, 0].reshape(())):
        parsed = onnx.TensorProto.FromString(tensor_head("weight", value) + value.tobytes())
        assert parsed.name == "weight"
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(parsed), value, strict=True)


def test_fields_around_the_weights_stay_as_they_are():
    name = write_field(1, b"w")
    graph = write_field(99, b"new") + write_field(11, name) + write_field(11, b"")
    model = write_number(1, 8) + write_field(7, graph) + write_field(77, b"unknown")
    weight = np.zeros(2, np.float32)
    stored = write_field(5, tensor_head("w", weight) + weight.tobytes())
    assert b"".join(with_stored_weights(model, {"w": weight})) == (
        write_number(1, 8)
        + write_field(7, write_field(99, b"new") + write_field(11, b"") + stored)
        + write_field(77, b"unknown")
    )


def test_a_weight_that_is_not_an_input_is_an_error(package):
    model = package.file(package.manifest.embed).read_bytes()
    with pytest.raises(ValueError, match="no input named head, images2"):
        with_stored_weights(
            model, {name: np.zeros(1, np.float32) for name in ("images2", "head")}
        )


def test_a_cut_file_is_an_error(package):
    model = package.file(package.manifest.embed).read_bytes()
    for length in range(5, len(model) - 1, 37):
        with pytest.raises(ValueError, match="not a complete ONNX file"):
            with_stored_weights(model[:length], {})


def test_another_kind_of_file_is_an_error():
    with pytest.raises(ValueError, match="not an ONNX file: wire type 7 at byte 0"):
        list(read_fields(b"\x7fELF"))
