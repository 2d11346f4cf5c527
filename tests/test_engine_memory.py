"""Memory of engines: none before it is used, one rung at a time, returned when free."""

import gc

import numpy as np
import psutil
import pytest
from handed_over import packages_to_train
from steps import hyper_of, noise_batch

from edge_runtime.engines import create_engine
from edge_runtime.engines.host_tensors import HostTensors, mapped_zeros
from edge_runtime.engines.runtime import release_free_memory, session_options
from edge_runtime.errors import ConfigError, EngineError
from edge_runtime.package import open_package

try:
    create_engine("ort")
except EngineError as error:
    pytest.skip(str(error), allow_module_level=True)

MIB = 1 << 20
LARGE = {"a": np.broadcast_to(np.float32(0), (6 * MIB,)), "b": np.zeros(3, np.int64)}  # 24 MiB


def resident_mib():
    return psutil.Process().memory_info().rss / MIB


def test_a_mapping_takes_memory_when_it_is_written_and_returns_it():
    before = resident_mib()
    arrays = mapped_zeros(LARGE)
    assert resident_mib() - before < 8
    arrays["a"].fill(1)
    assert resident_mib() - before > 20
    arrays.clear()
    assert resident_mib() - before < 8


def test_arrays_of_one_mapping_do_not_overlap():
    like = {str(n): np.zeros((n, 3), kind) for n in range(9) for kind in (np.uint8,)}
    like |= {"scalar": np.float32(1), "wide": np.zeros(5)}
    arrays = mapped_zeros(like)
    for number, (name, value) in enumerate(like.items()):
        assert (arrays[name].shape, arrays[name].dtype) == (value.shape, value.dtype)
        assert arrays[name].ctypes.data % 64 == 0
        assert not arrays[name].any()
        arrays[name].fill(number)
    for number, array in enumerate(arrays.values()):
        assert (array == number).all()


def test_a_mapping_of_nothing_is_empty():
    assert mapped_zeros({}) == {}


def test_arrays_and_values_are_the_same_memory():
    tensors = HostTensors({"x": np.zeros((2, 3), np.float32)})
    tensors.write("x", np.full((2, 3), 7, np.float32))
    assert (tensors.value("x").numpy() == 7).all()
    tensors.clear()
    assert not tensors.value("x").numpy().any()


def test_freed_memory_is_returned_to_the_system():
    blocks = [bytearray(100_000) for _ in range(500)]
    pin = bytearray(100_000)  # at the end of the heap, which so cannot shrink by itself
    del blocks
    held = resident_mib()
    release_free_memory()
    assert held - resident_mib() > 20
    assert len(pin) == 100_000


def sessions():
    import onnxruntime

    gc.collect()
    return sum(type(thing) is onnxruntime.InferenceSession for thing in gc.get_objects())


def test_one_rung_is_loaded_at_a_time(monkeypatch):
    ladders = (open_package(path) for path in packages_to_train())
    package = next(each for each in ladders if len(each.manifest.rungs) > 1)
    others = sessions()
    seen = {"sessions when one is loaded": [], "memory given back": 0}

    def options(threads, *, spinning):
        seen["sessions when one is loaded"].append(sessions() - others)
        return session_options(threads, spinning=spinning)

    def release():
        seen["memory given back"] += 1
        release_free_memory()

    monkeypatch.setattr("edge_runtime.engines.session.session_options", options)
    monkeypatch.setattr("edge_runtime.engines.ort.release_free_memory", release)
    count = len(package.manifest.rungs)
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        for step, rung in enumerate([*package.manifest.rungs, *package.manifest.rungs], 1):
            engine.step(rung.id, noise_batch(package, rung.id, step), hyper_of(package, step))
            assert sessions() == others + 1
        with pytest.raises(ConfigError, match="has no rung"):
            engine.step("k001", {}, hyper_of(package, 1))
        assert sessions() == others + 1
    assert sessions() == others
    assert seen == {
        "sessions when one is loaded": [0] * 2 * count,
        "memory given back": 2 * count,
    }
