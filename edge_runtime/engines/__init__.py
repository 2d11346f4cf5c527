"""Engines, which run graphs. Only this package imports ONNX Runtime, at its first use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.engines.base import (
    Batch,
    Engine,
    ForwardEngine,
    Hyper,
    StepResult,
    require_supported,
    supported_rungs,
)
from edge_runtime.engines.devices import (
    device_gpu,
    device_name,
    device_runtime,
    gpu_text,
    installed_devices,
)
from edge_runtime.engines.forward import (
    FORWARD_ENGINES,
    ORT,
    TENSORRT,
    ForwardOptions,
    create_forward_engine,
    likely_forward_engine,
    open_forward_engine,
)
from edge_runtime.engines.merge import encoder_state_names, encoder_weights
from edge_runtime.engines.placement import Placement, placement_of
from edge_runtime.errors import ConfigError
from edge_runtime.facts.devices import CPU, CUDA, WEBGPU

if TYPE_CHECKING:
    from edge_runtime.engines.gradients import GradientEngine


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """Constructor and runtime of an engine."""

    create: Callable[..., Engine]  # with `device`, `threads` and `forward_engine`
    devices: tuple[str, ...] = (CPU,)  # kinds of devices on which it can compute
    # What computes on a device, with its version; creates no engine.
    runtime: Callable[[str], str] = device_runtime


def _ort(**options: Any) -> Engine:
    from edge_runtime.engines.ort import OrtEngine

    return OrtEngine(**options)


def _ort_training(**options: Any) -> Engine:
    from edge_runtime.engines.ort_training import OrtTrainingEngine

    return OrtTrainingEngine(**options)


# By name. "auto" is the first: the step graph is faster than the official training API on
# every runtime, also on the one with that API.
ENGINES: dict[str, EngineEntry] = {
    "ort": EngineEntry(_ort, (CPU, WEBGPU, CUDA)),
    "ort-training": EngineEntry(_ort_training),
}

GRADIENTS = "ort"  # the other one has no graph whose result is a gradient


def engine_name(name: str) -> str:
    """The name of an engine in `ENGINES`; "auto" is the first.

    Raises:
        ConfigError: an unknown name.
    """
    names = list(ENGINES)
    if name != "auto" and name not in names:
        raise ConfigError(f"unknown engine {name!r}; known are auto, {', '.join(names)}.")
    return names[0] if name == "auto" else name


def engine_device(name: str, device: str) -> str:
    """A device of an engine in `ENGINES`.

    Raises:
        ConfigError: an unknown name, or an engine without that device.
    """
    known = engine_name(name)
    return _device_of(ENGINES[known], known, device)


def engine_runtime(name: str, device: str = CPU, forward_engine: str = ORT) -> str:
    """What computes a step, with versions: "onnxruntime 1.31.1, TensorRT 10.3.0".

    Args:
        name: of the engine.
        device: on which it computes.
        forward_engine: of the encoders before a step, if the package has any.

    Raises:
        ConfigError: an unknown name.
        EngineError: it is not installed.
    """
    runtime = ENGINES[engine_name(name)].runtime(engine_device(name, device))
    if forward_engine != TENSORRT:  # ort has the runtime of the engine
        return runtime
    from edge_runtime.engines.tensorrt import tensorrt_name

    return f"{runtime}, {tensorrt_name()}"


def installed_gpus(name: str) -> list[str]:
    """Devices beside the CPU on which an engine can compute, by what is installed.

    Raises:
        ConfigError: an unknown name.
    """
    kinds = ENGINES[engine_name(name)].devices
    return [device_name(kind) for kind in installed_devices() if kind in kinds]


def create_engine(
    name: str = "auto",
    *,
    device: str = CPU,
    threads: int | None = None,
    forward_engine: str = ORT,
) -> Engine:
    """An engine for training, not opened yet.

    Args:
        name: one of `ENGINES`, or "auto".
        device: where it computes.
        threads: of the runtime; `None`: one per core.
        forward_engine: that runs the encoders before a step of a package that has any.

    Raises:
        ConfigError: an unknown name, or an engine without that device.
        EngineError: not installed.
    """
    device = engine_device(name, device)
    return ENGINES[engine_name(name)].create(
        device=device, threads=threads, forward_engine=forward_engine
    )


def create_gradient_engine(
    device: str = CPU, threads: int | None = None, forward_engine: str = ORT
) -> "GradientEngine":
    """An engine for gradients, not opened yet: `GRADIENTS`, the only one that can.

    Args:
        device: where it computes.
        threads: of the runtime; `None`: one per core.
        forward_engine: as of `create_engine`.

    Raises:
        ConfigError: the engine has no such device.
        EngineError: not installed.
    """
    from edge_runtime.engines.gradients import GradientEngine

    return GradientEngine(
        device=engine_device(GRADIENTS, device), threads=threads, forward_engine=forward_engine
    )


def _device_of(entry: EngineEntry, name: str, device: str) -> str:
    known = device_name(device)
    if known.partition(":")[0] not in entry.devices:
        has = ", ".join(entry.devices)
        raise ConfigError(f"engine {name} has no device {device!r}; it has {has}.")
    return known


__all__ = [
    "ENGINES",
    "FORWARD_ENGINES",
    "GRADIENTS",
    "ORT",
    "TENSORRT",
    "Batch",
    "Engine",
    "EngineEntry",
    "ForwardEngine",
    "ForwardOptions",
    "Hyper",
    "Placement",
    "StepResult",
    "create_engine",
    "create_forward_engine",
    "create_gradient_engine",
    "device_gpu",
    "encoder_state_names",
    "encoder_weights",
    "engine_device",
    "engine_name",
    "engine_runtime",
    "gpu_text",
    "installed_gpus",
    "likely_forward_engine",
    "open_forward_engine",
    "placement_of",
    "require_supported",
    "supported_rungs",
]
