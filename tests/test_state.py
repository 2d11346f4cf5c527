"""The state's file format, against the safetensors library."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save

from edge_runtime.state import encode_state, load_state, state_chunks

STATE = {
    "param.b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array([7], np.int64),
    "param.a": np.array(2.5, np.float32),
    "half": np.array([1, 2, 3], np.float16),
    "mask": np.array([[1], [0]], np.uint8),
    "small": np.array([3, 4], np.int32),
}


def test_bytes_are_those_of_the_library() -> None:
    assert encode_state(STATE) == save(STATE)


def test_order_of_names_does_not_matter() -> None:
    assert encode_state(dict(reversed(STATE.items()))) == encode_state(STATE)


def test_a_view_with_strides_is_written_in_its_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert encode_state({"t": array.T}) == encode_state({"t": array.T.copy()})


def test_what_was_written_is_read(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(encode_state(STATE))
    loaded = load_state(path)
    assert loaded.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(loaded[name], tensor)


def test_arrays_are_viewed_not_copied() -> None:
    state = {"t": np.zeros(1000, np.float32)}
    chunks = list(state_chunks(state))
    state["t"][0] = 1
    assert hashlib.sha256(chunks[1]).digest() == hashlib.sha256(state["t"].tobytes()).digest()


def test_a_cut_file_is_refused(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(encode_state(STATE)[:-1])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_state(path)


def test_some_tensors_are_read_alone(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(encode_state(STATE))
    loaded = load_state(path, ["small", "param.b", "elsewhere"])
    assert list(loaded) == ["small", "param.b"]
    for name, tensor in loaded.items():
        np.testing.assert_array_equal(tensor, STATE[name], strict=True)


def test_reading_takes_no_more_memory_than_the_tensors(tmp_path) -> None:
    path, size_bytes = tmp_path / "state.safetensors", 8 << 20
    path.write_bytes(encode_state({n: np.zeros(size_bytes // 8, np.float32) for n in "ab"}))
    tracemalloc.start()
    loaded = load_state(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(value.nbytes for value in loaded.values()) == size_bytes
    assert peak_bytes < 1.1 * size_bytes
