"""Names of devices, and errors of the runtime that mean a device is full."""

import re

import pytest

from edge_runtime.device.gpus import Survey
from edge_runtime.engines import create_engine, devices, engine_device
from edge_runtime.engines.runtime import load_onnxruntime, native_errors
from edge_runtime.errors import ConfigError, EngineError, NoMemoryError


@pytest.mark.parametrize(
    "name",
    ["cuda:-1", "cuda:", "cuda:x", "CPU", "webgpu:1", "", "cuda:²", "cuda:" + 9999 * "9"],
)
def test_a_name_of_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        create_engine("ort", device=name)


def test_devices_are_those_of_the_engine() -> None:
    assert engine_device("ort", "cuda") == "cuda:0"
    assert engine_device("ort", "cuda:07") == "cuda:7"
    with pytest.raises(ConfigError, match="ort-training has no device 'webgpu'; it has cpu"):
        engine_device("ort-training", "webgpu")


def test_a_driver_that_ends_processes_is_not_loaded(monkeypatch) -> None:
    """It would end this one, or hang it for ever."""
    broken = Survey(gpus=(), problem="a driver crashes (SIGSEGV)", is_broken=True)
    monkeypatch.setattr(devices.gpus, "survey", lambda _: broken)
    monkeypatch.setattr(devices, "device_runtime", str)
    monkeypatch.setattr(devices, "load_onnxruntime", pytest.fail)
    with pytest.raises(EngineError, match=r"device webgpu .*: a driver crashes \(SIGSEGV\)\."):
        devices.open_device("webgpu")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "Non-zero status code returned while running MatMul node. bfc_arena.cc:376 Failed "
            "to allocate memory for requested buffer of size 4294967296",
            NoMemoryError,
        ),
        ("CUDA failure 2: out of memory ; GPU=0", NoMemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", NoMemoryError),
        ("vkAllocateMemory failed with VK_ERROR_OUT_OF_DEVICE_MEMORY", NoMemoryError),
        ("Failed to create buffer: Out of memory", NoMemoryError),
        ("CUDA failure 700: an illegal memory access was encountered", EngineError),
        ("WebGPU device lost (1): A valid external Instance reference no longer", EngineError),
    ],
)
@pytest.mark.parametrize("native", ["Fail", "RuntimeException", None])
def test_missing_memory_is_not_taken_for_another_error(
    text: str, kind: type[Exception], native: str | None
) -> None:
    pytest.importorskip("onnxruntime")
    natives = load_onnxruntime().capi.onnxruntime_pybind11_state
    error = getattr(natives, native) if native else RuntimeError
    with pytest.raises(kind, match=re.escape(text)) as caught, native_errors("run a step"):
        raise error(text)
    assert ("with a smaller keep-ratio" in str(caught.value)) == (kind is NoMemoryError)
