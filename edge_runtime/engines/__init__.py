"""Engines, which run graphs. Only this package imports ONNX Runtime, at its first use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
from edge_runtime.engines.merge import encoder_state_names, encoder_weights
from edge_runtime.engines.placement import Placement, placement_of
from edge_runtime.errors import ConfigError
from edge_runtime.facts.devices import CPU, CUDA, WEBGPU

if TYPE_CHECKING:
    from edge_runtime.engines.gradients import GradientEngine

AnyEngine = TypeVar("AnyEngine", Engine, ForwardEngine)


@dataclass(frozen=True, slots=True)
class EngineEntry(Generic[AnyEngine]):
    """Constructor and runtime of an engine."""

    create: Callable[..., AnyEngine]  # with `device` and `threads`
    devices: tuple[str, ...] = (CPU,)  # kinds of devices on which it can compute
    # What computes on a device, with its version; creates no engine.
    runtime: Callable[[str], str] = device_runtime


def _ort(**options: Any) -> Engine:
    from edge_runtime.engines.ort import OrtEngine

    return OrtEngine(**options)


def _ort_training(**options: Any) -> Engine:
    from edge_runtime.engines.ort_training import OrtTrainingEngine

    return OrtTrainingEngine(**options)


def _ort_forward(**options: Any) -> ForwardEngine:
    from edge_runtime.engines.ort_forward import OrtForwardEngine

    return OrtForwardEngine(**options)


# By name. "auto" is the first: the step graph is faster than the official training API on
# every runtime, also on the one with that API.
ENGINES: dict[str, EngineEntry[Engine]] = {
    "ort": EngineEntry(_ort, (CPU, WEBGPU, CUDA)),
    "ort-training": EngineEntry(_ort_training),
}
FORWARD_ENGINES: dict[str, EngineEntry[ForwardEngine]] = {
    "ort": EngineEntry(_ort_forward, (CPU, WEBGPU, CUDA))
}


GRADIENTS = "ort"  # the other one has no graph whose result is a gradient


def engine_name(name: str) -> str:
    """The name of an engine in `ENGINES`; "auto" is the first.

    Raises:
        ConfigError: an unknown name.
    """
    return _known(name, list(ENGINES), "engine")


def engine_device(name: str, device: str) -> str:
    """A device of an engine in `ENGINES`.

    Raises:
        ConfigError: an unknown name, or an engine without that device.
    """
    known = engine_name(name)
    return _device_of(ENGINES[known], known, device)


def engine_runtime(name: str, device: str = CPU) -> str:
    """The runtime of an engine on a device, with its version: "onnxruntime 1.31.1".

    Raises:
        ConfigError: an unknown name.
        EngineError: it is not installed.
    """
    return ENGINES[engine_name(name)].runtime(engine_device(name, device))


def installed_gpus(name: str) -> list[str]:
    """Devices beside the CPU on which an engine can compute, by what is installed.

    Raises:
        ConfigError: an unknown name.
    """
    kinds = ENGINES[engine_name(name)].devices
    return [device_name(kind) for kind in installed_devices() if kind in kinds]


def create_engine(
    name: str = "auto", *, device: str = CPU, threads: int | None = None
) -> Engine:
    """An engine for training, not opened yet.

    Args:
        name: one of `ENGINES`, or "auto".
        device: where it computes.
        threads: of the runtime; `None`: one per core.

    Raises:
        ConfigError: an unknown name, or an engine without that device.
        EngineError: not installed.
    """
    device = engine_device(name, device)
    return ENGINES[engine_name(name)].create(device=device, threads=threads)


def create_forward_engine(
    name: str = "auto", *, device: str = CPU, threads: int | None = None
) -> ForwardEngine:
    """An engine for forward passes, not opened yet; arguments of `create_engine`.

    Raises:
        ConfigError: an unknown name, or an engine without that device.
        EngineError: not installed.
    """
    known = _known(name, list(FORWARD_ENGINES), "forward engine")
    entry = FORWARD_ENGINES[known]
    return entry.create(device=_device_of(entry, known, device), threads=threads)


def create_gradient_engine(device: str = CPU, threads: int | None = None) -> "GradientEngine":
    """An engine for gradients, not opened yet: `GRADIENTS`, the only one that can.

    Args:
        device: where it computes.
        threads: of the runtime; `None`: one per core.

    Raises:
        ConfigError: the engine has no such device.
        EngineError: not installed.
    """
    from edge_runtime.engines.gradients import GradientEngine

    return GradientEngine(device=engine_device(GRADIENTS, device), threads=threads)


def _device_of(entry: EngineEntry[AnyEngine], name: str, device: str) -> str:
    known = device_name(device)
    if known.partition(":")[0] not in entry.devices:
        has = ", ".join(entry.devices)
        raise ConfigError(f"engine {name} has no device {device!r}; it has {has}.")
    return known


def _known(name: str, names: list[str], kind: str) -> str:
    if name == "auto":
        return names[0]
    if name not in names:
        raise ConfigError(f"unknown {kind} {name!r}; known are auto, {', '.join(names)}.")
    return name


__all__ = [
    "ENGINES",
    "FORWARD_ENGINES",
    "GRADIENTS",
    "Batch",
    "Engine",
    "EngineEntry",
    "ForwardEngine",
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
    "placement_of",
    "require_supported",
    "supported_rungs",
]
