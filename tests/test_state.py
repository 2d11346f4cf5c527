"""The state's file format, against the safetensors library."""

import hashlib

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
