"""The state of a run on a device: copied in and out, two buffers for each tensor."""

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.engines import create_engine
from edge_runtime.engines.device_state import DeviceState
from edge_runtime.engines.devices import open_device
from edge_runtime.engines.runtime import release_free_memory
from edge_runtime.errors import EngineError

try:
    create_engine("ort")
except EngineError as error:
    pytest.skip(str(error), allow_module_level=True)

CPU = open_device("cpu")
MIB = 1 << 20
DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64")


def state_of(names="abc", dtype="float32"):
    return {name: np.full((2, 3), number).astype(dtype) for number, name in enumerate(names)}


def write_next(state, name, value):
    """What a step does: write the next value."""
    target = state.next_value(name)
    array = np.asarray(value, target.numpy().dtype)
    target.update_inplace(np.broadcast_to(array, target.shape()).copy())


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_is_copied_in_and_out_and_updated(dtype):
    given = state_of(dtype=dtype)
    state = DeviceState(given, CPU)
    assert_equal(state.copy(), given)
    assert_equal(state.view(), given)
    for name, value in given.items():
        np.testing.assert_array_equal(state.value(name).numpy(), value)
    write_next(state, "a", 1)
    state.advance(["a"])
    assert_equal(state.copy(), {**given, "a": np.ones((2, 3), dtype)})


def test_scalars_and_empty_tensors_are_tensors():
    given = {"scalar": np.float32(2.5).reshape(()), "none": np.zeros((0, 4), np.int64)}
    assert_equal(DeviceState(given, CPU).copy(), given)


def test_the_given_state_is_copied():
    given = state_of()
    state = DeviceState(given, CPU)
    given["a"][...] = 9
    assert_equal(state.copy(), state_of())


def test_a_copy_never_changes():
    state = DeviceState(state_of(), CPU)
    copy = state.copy()
    for value in (7, 8):  # into both buffers
        write_next(state, "a", value)
        state.advance(["a"])
    assert_equal(copy, state_of())


def test_a_view_is_no_copy_and_holds_until_a_tensor_is_written_twice():
    state = DeviceState(state_of(), CPU)
    view = state.view()
    write_next(state, "a", 7)
    state.advance(["a"])
    assert_equal(view, state_of())  # the next step wrote into the other buffer
    write_next(state, "a", 8)
    assert (view["a"] == 8).all()


def test_a_write_that_is_not_advanced_leaves_the_state():
    """As after a step that failed."""
    state = DeviceState(state_of(), CPU)
    write_next(state, "a", 7)
    assert_equal(state.copy(), state_of())
    assert state.positions("abc") == (0, 0, 0)


@given(st.lists(st.sets(st.sampled_from("abc")), max_size=12))
def test_every_tensor_is_updated_separately(steps):
    state, expected = DeviceState(state_of(), CPU), state_of()
    moved = dict.fromkeys("abc", 0)
    for number, names in enumerate(steps, start=10):
        for name in names:
            assert state.next_value(name) is not state.value(name)
            write_next(state, name, number)
            expected[name] = np.full((2, 3), number, np.float32)
            moved[name] += 1
        state.advance(names)
        assert state.positions("abc") == tuple(moved[name] % 2 for name in "abc")
        assert state.positions("ca") == (moved["c"] % 2, moved["a"] % 2)
    assert_equal(state.copy(), expected)


def resident_mib():
    return psutil.Process().memory_info().rss / MIB


def test_a_tensor_that_is_never_written_has_no_second_copy():
    large = {name: np.broadcast_to(np.float32(1), (6 * MIB,)) for name in ("a", "b")}  # 24 MiB
    release_free_memory()  # of earlier tests, or it would be returned below
    before = resident_mib()
    state = DeviceState(large, CPU)
    assert 40 < resident_mib() - before < 56
    write_next(state, "a", 2)
    state.advance(["a"])
    release_free_memory()  # what the test itself took
    assert 64 < resident_mib() - before < 80
    assert (state.view()["b"] == 1).all()
    del state
    assert resident_mib() - before < 8
