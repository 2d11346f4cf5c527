"""Forward engines by name, and the one function that chooses, makes and opens one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.engines.base import ForwardEngine
from edge_runtime.engines.devices import device_gpu, device_name
from edge_runtime.errors import ConfigError, DeviceError, EngineError
from edge_runtime.facts.devices import AUTO, CPU, CUDA
from edge_runtime.package import Package
from edge_runtime.state import State

ORT, TENSORRT = "ort", "tensorrt"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOptions:
    """How a forward engine computes; each engine takes what concerns it."""

    device: str = CPU  # of engine ort; tensorrt takes the first NVIDIA GPU unless it is one
    ort_on_cpu: bool = False  # engine ort computes on the processor, whatever the device
    threads: int | None = None  # None: one per processor
    may_spin: bool = True  # whether the threads may wait in a loop between two runs
    # Called while an engine is built, and if "auto" cannot take tensorrt
    report: Callable[[str], None] = logger.warning
    stop: Callable[[], bool] = lambda: False  # called meanwhile; True ends the build


def _ort(options: ForwardOptions) -> ForwardEngine:
    from edge_runtime.engines.ort_forward import OrtForwardEngine

    device = device_name(CPU if options.ort_on_cpu else options.device)
    return OrtForwardEngine(device=device, threads=options.threads, may_spin=options.may_spin)


def _tensorrt(options: ForwardOptions) -> ForwardEngine:
    from edge_runtime.engines.tensorrt import TensorRtForwardEngine

    return TensorRtForwardEngine(
        device=nvidia_gpu(options.device),
        threads=options.threads,
        report=options.report,
        stop=options.stop,
    )


FORWARD_ENGINES: dict[str, Callable[[ForwardOptions], ForwardEngine]] = {
    ORT: _ort,
    TENSORRT: _tensorrt,
}


def engine_text(engine: ForwardEngine) -> str:
    """A forward engine as it is recorded: "tensorrt, TensorRT 10.3.0 on cuda:0"."""
    return f"{engine.name}, {engine.runtime} on {engine.device}"


def nvidia_gpu(device: str) -> str:
    """A device if it is an NVIDIA GPU, otherwise the first of these.

    Raises:
        ConfigError: no name of a device.
    """
    known = device_name(device)
    return known if known.startswith(CUDA) else device_name(CUDA)


def create_forward_engine(
    name: str = ORT, options: ForwardOptions | None = None
) -> ForwardEngine:
    """An engine for forward passes, not opened yet.

    Raises:
        ConfigError: an unknown name or device.
        EngineError: not installed, or it has no device here.
    """
    if name not in FORWARD_ENGINES:
        names = ", ".join(FORWARD_ENGINES)
        raise ConfigError(f"unknown forward engine {name!r}; known are {names}.")
    return FORWARD_ENGINES[name](options or ForwardOptions())


def likely_forward_engine(name: str, device: str) -> str:
    """The engine that "auto" tries first: tensorrt where it is installed and has a GPU.

    Any other name is returned as it is. Loads neither engine.

    Raises:
        ConfigError: an unknown name or device.
    """
    from edge_runtime.engines.tensorrt.api import missing_modules

    if name != AUTO:
        if name not in FORWARD_ENGINES:
            known = ", ".join((AUTO, *FORWARD_ENGINES))
            raise ConfigError(f"unknown forward engine {name!r}; known are {known}.")
        return name
    if missing_modules() or device_gpu(nvidia_gpu(device)) is None:
        return ORT
    return TENSORRT


def open_forward_engine(
    package: Package,
    graph: str,
    weights: State,
    name: str = AUTO,
    options: ForwardOptions | None = None,
) -> ForwardEngine:
    """An engine with a graph and its weights.

    Args:
        package: of the graph.
        graph: its path in the package.
        weights: by graph input name.
        name: of the engine. "auto": tensorrt where it is installed, has a GPU and gives the
            features of ort; otherwise ort, and `report` of the options is told why.
        options: of the engine.

    Raises:
        ConfigError: an unknown name or device.
        EngineError: the engine that is named cannot run the graph.
        NoMemoryError: there is too little memory for it.
        StoppedError: `stop` of the options returned `True`.
    """
    options = options or ForwardOptions()
    likely = likely_forward_engine(name, options.device)
    try:
        return _opened(likely, package, graph, weights, options)
    except (EngineError, DeviceError) as error:
        if name != AUTO or likely == ORT:
            raise
        reason = " ".join(str(error).split())
        options.report(f"forward engine tensorrt cannot be used, ort is: {reason}")
        return _opened(ORT, package, graph, weights, options)


def _opened(
    name: str, package: Package, graph: str, weights: State, options: ForwardOptions
) -> ForwardEngine:
    engine = create_forward_engine(name, options)
    try:
        engine.open(package, graph, weights)
    except BaseException:
        engine.close()
        raise
    return engine
