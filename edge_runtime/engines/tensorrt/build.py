"""Builds a TensorRT engine from a forward graph: in minutes, saying how far it is.

The network is strongly typed: every product has the dtype that the graph gives it, but for
float32 ones, which TensorRT may compute in TF32. Its builder's flag for that is on unless it
is taken away; it stays on, since ONNX Runtime's CUDA provider does the same. Weights stay
inputs. Only one number of images is built for: kernels are chosen for it, and a run is one
CUDA graph.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.device import require_room
from edge_runtime.engines.session import type_name
from edge_runtime.engines.tensorrt.api import (
    failure,
    load_tensorrt,
    native_failures,
    native_log,
    tensorrt_name,
)
from edge_runtime.engines.tensorrt.files import CachedFile
from edge_runtime.errors import EngineError, StoppedError
from edge_runtime.units import duration_text

_WORKSPACE_BYTES = 256 << 20  # of a kernel: transformers need little, and boards share memory
# Of the machine's memory, beside the weights. Not measured: CUDA, TensorRT with its builder,
# and the work space of a kernel, which is the machine's memory on a Jetson.
_BUILD_BYTES = (1 << 30) + _WORKSPACE_BYTES
_WEIGHT_COPIES = 3  # on the GPU, in engine ort, and one that is on its way
_NO_ROOM = (
    "Stop other programs, name --forward-engine ort, or let `edge-train profile` build it "
    "before, in a process of its own."
)
_SAY_S = 10.0  # between two lines of progress


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine as TensorRT writes it, and whether parts of it compute in float16."""

    content: bytes
    is_half: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """What to build."""

    graph: str  # its path, for messages
    model: bytes  # the ONNX file
    images: str  # name of the input
    shape: tuple[int, ...]  # of the images of a run
    weight_bytes: int  # of the inputs that are weights
    gpu: str  # its name, for messages
    timing: CachedFile  # of kernels on this GPU, shared by all graphs
    report: Callable[[str], None]
    stop: Callable[[], bool]


def build_engine(job: BuildJob) -> BuiltEngine:
    """Build an engine on the current GPU.

    Not in the main thread: a signal would be lost, see `interruptible`.

    Raises:
        DeviceError: it does not fit into the machine's memory.
        EngineError: TensorRT cannot load the graph, or finds no kernels for it.
        NoMemoryError: there is too little memory.
        StoppedError: `stop` returned `True`.
    """
    needed_bytes = _BUILD_BYTES + _WEIGHT_COPIES * job.weight_bytes
    require_room(f"building a {tensorrt_name()} engine", needed_bytes, _NO_ROOM)
    job.report(
        f"building a {tensorrt_name()} engine of {job.graph} for {job.gpu}: once, and it may "
        "take minutes"
    )
    trt, log = load_tensorrt(), native_log()
    began_s = time.monotonic()
    with native_failures(f"build an engine of {job.graph}"):
        builder = trt.Builder(log)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, log)
        if not parser.parse(job.model):
            errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
            reasons = " ".join("; ".join(errors).split()) or "it does not say why"
            raise EngineError(f"{tensorrt_name()} cannot load {job.graph}: {reasons}")
        content = _serialized(job, builder, network)
        is_half = _has_half(network)
    took = duration_text(time.monotonic() - began_s)
    job.report(f"built the TensorRT engine of {job.graph} in {took}")
    return BuiltEngine(content, is_half)


def _serialized(job: BuildJob, builder: Any, network: Any) -> bytes:
    """The engine of a network, for the job's number of images alone."""
    trt = load_tensorrt()
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    profile.set_shape(job.images, job.shape, job.shape, job.shape)
    config.add_optimization_profile(profile)
    timing = _set_timing_cache(config, job.timing)
    monitor = _monitor(job)
    config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    if monitor.stopped_by is not None:
        raise monitor.stopped_by
    if serialized is None:
        raise failure(f"build an engine of {job.graph}")
    if timing is not None:
        job.timing.write(bytes(timing.serialize()))
    return bytes(serialized)


def _set_timing_cache(config: Any, file: CachedFile) -> Any:
    """Measured times of kernels, so that the next graph is built faster.

    Returns:
        The cache, which has to live until the engine is built; `None`: TensorRT has none.
    """
    timing = config.create_timing_cache(file.read() or b"")
    # The second argument: also that of another GPU
    if timing is None or not config.set_timing_cache(timing, False):
        timing = config.create_timing_cache(b"")
        if timing is not None:
            config.set_timing_cache(timing, False)
    return timing


def _has_half(network: Any) -> bool:
    half = load_tensorrt().DataType.HALF
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    return any(
        layer.get_output(number).dtype == half
        for layer in layers
        for number in range(layer.num_outputs)
    )


def _monitor(job: BuildJob) -> Any:
    trt = load_tensorrt()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Says how far the build is, and ends it early if that is wanted."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._steps: dict[str, int] = {}  # of the phases that are not within others
            self._said_s = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            # What leaves this function is lost: the bindings only print it.
            try:
                self._look(phase_name, step)
            except BaseException as error:  # noqa: BLE001 - raised after the build
                self.stopped_by = error
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _look(self, phase_name: str, step: int) -> None:
            if job.stop():
                raise StoppedError(
                    f"stopped while TensorRT built an engine of {job.graph}; nothing is kept."
                )
            steps, now_s = self._steps.get(phase_name), time.monotonic()
            if steps is not None and now_s - self._said_s >= _SAY_S:
                self._said_s = now_s
                done = f"{phase_name}, step {step + 1} of {steps}"
                job.report(f"building the TensorRT engine of {job.graph}: {done}")

    return Monitor()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTensor:
    """An input or output of an engine, described as ONNX Runtime does."""

    name: str
    type: str
    shape: list[int | None]  # None: a free size


def tensors_of(native: Any) -> tuple[list[EngineTensor], list[EngineTensor]]:
    """The inputs and outputs of an engine."""
    trt = load_tensorrt()
    inputs: list[EngineTensor] = []
    outputs: list[EngineTensor] = []
    for number in range(native.num_io_tensors):
        name = native.get_tensor_name(number)
        tensor = EngineTensor(
            name=name,
            type=type_name(np.dtype(trt.nptype(native.get_tensor_dtype(name))).name),
            shape=[None if size < 0 else size for size in native.get_tensor_shape(name)],
        )
        is_input = native.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(tensor)
    return inputs, outputs


def deserialized(content: bytes, what: str) -> Any:
    """An engine from its file.

    Args:
        content: of the file.
        what: for the message, such as `the engine of a graph`.

    Raises:
        EngineError: it is of another version or GPU, or damaged.
        NoMemoryError: there is too little memory for it.
    """
    trt, log = load_tensorrt(), native_log()
    with native_failures(f"load {what}"):
        runtime = trt.Runtime(log)
        native = runtime.deserialize_cuda_engine(content)
        if native is None:
            raise failure(f"load {what}")
    return native
