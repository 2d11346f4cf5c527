"""Devices on which ONNX Runtime computes: their sessions, and tensors in their memory.

`cpu` is always there. `webgpu` is the GPU behind the Vulkan driver, by a plugin for stock ONNX
Runtime. `cuda` and `cuda:N` are NVIDIA GPUs, by the GPU build of ONNX Runtime.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from typing_extensions import override

from edge_runtime.device import gpus
from edge_runtime.engines.host_tensors import HostTensors
from edge_runtime.engines.runtime import load_onnxruntime, native_errors, runtime_name
from edge_runtime.errors import ConfigError, EngineError, how_to_install
from edge_runtime.facts.devices import CPU, CUDA, WEBGPU
from edge_runtime.state import Array

PLUGIN = "onnxruntime-ep-webgpu"
DISTRIBUTIONS = {WEBGPU: PLUGIN, CUDA: "onnxruntime-gpu"}  # that bring a device
_CUDA_INDEX = re.compile("[0-9]{1,3}")
_ERROR = 3  # severity of log lines, as of sessions
_ALONE = "in an environment without another ONNX Runtime, which it would overwrite"
_PLUGIN_RUNTIME = "1.24.4"  # the first ONNX Runtime that the plugin works with


class Tensors(Protocol):
    """Named tensors in a device's memory, zero at first."""

    def value(self, name: str) -> Any:
        """A tensor as a value of the runtime, for a binding."""

    def read(self, name: str) -> Array:
        """A tensor's elements: on the CPU without a copy, and valid until the next write."""

    def write(self, name: str, array: Array) -> None:
        """Set a tensor's elements."""

    def clear(self) -> None:
        """Set everything to zero."""


class Device(ABC):
    """One device, and how ONNX Runtime is told to use it."""

    name: str
    is_host = False  # whether it computes in the processor's memory

    @abstractmethod
    def create_session(self, path: Path, options: Any) -> Any:
        """A session of ONNX Runtime on this device.

        Raises:
            EngineError: the runtime cannot use the device. Errors of the runtime's own are
                left to `native_errors`.
        """

    @abstractmethod
    def copy_of(self, array: Array) -> Any:
        """A value of the runtime on this device; on the CPU it borrows the array's memory."""

    def tensors(self, like: Mapping[str, Array]) -> Tensors:
        """Tensors of these dtypes and shapes; they take memory at their first use."""
        return _DeviceTensors(self, like)


class _Cpu(Device):
    name, is_host = CPU, True

    @override
    def create_session(self, path: Path, options: Any) -> Any:
        return load_onnxruntime().InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    @override
    def copy_of(self, array: Array) -> Any:
        return load_onnxruntime().OrtValue.ortvalue_from_numpy(array)

    @override
    def tensors(self, like: Mapping[str, Array]) -> Tensors:
        return HostTensors(like)


class _Cuda(Device):
    _PROVIDER = "CUDAExecutionProvider"

    def __init__(self, index: int) -> None:
        self.name, self._index = f"{CUDA}:{index}", index
        if self._PROVIDER not in load_onnxruntime().get_available_providers():
            raise EngineError(
                f"device {self.name} needs ONNX Runtime's GPU build; {runtime_name()} has no "
                f"CUDA: {how_to_install(CUDA)} {_ALONE}, or on a Jetson NVIDIA's wheel "
                "(docs/gpu.md)."
            )
        names = [gpu.name for gpu in _survey(gpus.CUDA, self.name).gpus]
        if names and index >= len(names):  # without names the runtime knows better
            raise EngineError(
                f"there is no device {self.name}: CUDA counts from 0, and offers "
                f"{', '.join(names)} here."
            )

    @override
    def create_session(self, path: Path, options: Any) -> Any:
        settings = {"device_id": str(self._index)}
        session = load_onnxruntime().InferenceSession(
            str(path), options, providers=[(self._PROVIDER, settings)]
        )
        # Where its libraries are missing, the runtime takes the CPU and only logs it.
        if self._PROVIDER not in session.get_providers():
            raise EngineError(
                f"{runtime_name()} cannot use device {self.name}: CUDA or cuDNN cannot be "
                "loaded, or there is no such GPU. docs/gpu.md has the versions that fit."
            )
        return session

    @override
    def copy_of(self, array: Array) -> Any:
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        # Fails here first where CUDA's libraries are missing or there is no such GPU.
        with native_errors(f"use the memory of device {self.name} (docs/gpu.md)"):
            return create(_contiguous(array), "cuda", self._index)


class _WebGpu(Device):
    name = WEBGPU

    def __init__(self) -> None:
        self._adapter = _webgpu_adapter()
        memory = self._adapter.memory_info(load_onnxruntime().OrtDeviceMemoryType.DEFAULT)
        self._place = "gpu", 0, memory.device_vendor_id

    @override
    def create_session(self, path: Path, options: Any) -> Any:
        options.add_provider_for_devices([self._adapter], {})
        return load_onnxruntime().InferenceSession(str(path), options)

    @override
    def copy_of(self, array: Array) -> Any:
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        return create(_contiguous(array), *self._place)


class _DeviceTensors(Tensors):
    """Each tensor is allocated at its first use, and keeps its address."""

    def __init__(self, device: Device, like: Mapping[str, Array]) -> None:
        self._device = device
        self._kinds = {name: (array.shape, array.dtype) for name, array in like.items()}
        self._values: dict[str, Any] = {}

    @override
    def value(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = self._device.copy_of(np.zeros(*self._kinds[name]))
        return self._values[name]

    @override
    def read(self, name: str) -> Array:
        array: Array = self.value(name).numpy()
        return array

    @override
    def write(self, name: str, array: Array) -> None:
        self.value(name).update_inplace(_contiguous(array))

    @override
    def clear(self) -> None:
        for name, value in self._values.items():
            value.update_inplace(np.zeros(*self._kinds[name]))


def _contiguous(array: Array) -> Array:
    """Not by `np.ascontiguousarray`, which gives a scalar the shape [1]."""
    return np.require(array, requirements="C")


def device_name(text: str) -> str:
    """A device's name as it is recorded: `cuda` is `cuda:0`.

    Raises:
        ConfigError: no name of a device.
    """
    kind, separator, index = text.partition(":")
    if kind == CUDA and (not separator or _CUDA_INDEX.fullmatch(index)):
        return f"{CUDA}:{int(index or 0)}"
    if text in (CPU, WEBGPU):
        return text
    raise ConfigError(
        f"unknown device {text!r}; known are cpu, webgpu, cuda, cuda:N; of commands also auto."
    )


def device_runtime(name: str) -> str:
    """What computes on a device, with versions: "onnxruntime 1.32.0"; loads nothing.

    Raises:
        EngineError: a part is not installed.
    """
    if name != WEBGPU:
        return runtime_name()
    try:
        return f"{runtime_name()}, {PLUGIN} {version(PLUGIN)}"
    except PackageNotFoundError as error:
        raise EngineError(
            f"device {WEBGPU} needs {PLUGIN}: {how_to_install(WEBGPU)} {_ALONE}."
        ) from error


def installed_devices() -> list[str]:
    """Devices beside the CPU whose runtime is installed; loads nothing."""
    return [name for name, distribution in DISTRIBUTIONS.items() if _has(distribution)]


def _has(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def device_gpu(name: str) -> gpus.Gpu | None:
    """The GPU behind a device's name; `None`: the CPU, or its driver does not say.

    Asks the driver in a child process, and loads no runtime. Of several Vulkan adapters it is
    the one that the plugin prefers.
    """
    if name == CPU:
        return None
    if name == WEBGPU:
        found = gpus.survey(gpus.VULKAN).gpus
        return min(found, key=lambda gpu: gpus.KINDS.index(gpu.kind), default=None)
    index, known = _cuda_index(name), gpus.survey(gpus.CUDA).gpus
    return known[index] if index < len(known) else None


def gpu_text(name: str) -> str | None:
    """Name and driver of the GPU behind a device's name, as they are recorded."""
    gpu = device_gpu(name)
    return None if gpu is None else gpu.text()


def missing_gpu_text(name: str) -> str:
    """Why `device_gpu` knows no GPU behind the name of one."""
    problem = gpus.survey(gpus.VULKAN if name == WEBGPU else gpus.CUDA).problem
    return f"{name} has no GPU here" + ("" if problem is None else f": {problem}")


def _cuda_index(name: str) -> int:
    return int(name.removeprefix(f"{CUDA}:"))


def open_device(name: str) -> Device:
    """A device by its name as recorded; loads the runtime, and tries nothing on the device.

    Raises:
        EngineError: the installed runtime cannot use it, or there is none.
    """
    if name == CPU:
        return _Cpu()
    if name == WEBGPU:
        return _WebGpu()
    return _Cuda(_cuda_index(name))


def _survey(interface: str, device: str) -> gpus.Survey:
    """The GPUs of an interface, before a runtime loads its driver into this process.

    Raises:
        EngineError: the driver has ended or hung the process that asked it.
    """
    survey = gpus.survey(interface)
    if survey.is_broken:
        raise EngineError(f"device {device} cannot be used: {survey.problem}.")
    return survey


@cache  # the plugin can be registered once per process
def _webgpu_adapter() -> Any:
    """The GPU that the plugin has chosen."""
    device_runtime(WEBGPU)
    survey = _survey(gpus.VULKAN, WEBGPU)
    runtime = load_onnxruntime()
    try:
        import onnxruntime_ep_webgpu as plugin
    except ImportError as error:
        raise EngineError(f"{PLUGIN} cannot be imported: {error}.") from error
    if not hasattr(runtime, "register_execution_provider_library"):
        raise EngineError(
            f"device {WEBGPU} needs onnxruntime from {_PLUGIN_RUNTIME} on; {runtime_name()} "
            f"takes no plugins: {how_to_install(WEBGPU)}."
        )
    if not survey.gpus:  # the plugin may end this process then
        raise _no_gpu(survey)
    with native_errors(f"load {PLUGIN}"):
        runtime.set_default_logger_severity(_ERROR)
        runtime.register_execution_provider_library(WEBGPU, plugin.get_library_path())
        found = [
            each for each in runtime.get_ep_devices() if each.ep_name == plugin.get_ep_name()
        ]
    if not found:
        raise _no_gpu(survey)
    return found[0]


def _no_gpu(survey: gpus.Survey) -> EngineError:
    names = " and ".join(f"{gpu.name} ({gpu.kind})" for gpu in survey.gpus)
    offered = survey.problem or (
        f"Vulkan offers {names}. What the plugin takes for software, it uses only with "
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1"
    )
    return EngineError(
        f"device {WEBGPU}: {PLUGIN} finds no GPU here. It needs a Vulkan driver and its "
        "loader (libvulkan.so.1), and permission to use /dev/dri (docs/gpu.md); here, "
        f"{offered}."
    )
