"""Forward engine `tensorrt`: features of images on NVIDIA's TensorRT. Weights stay inputs.

An engine is built once for a graph and a GPU, and kept in the cache. A new one has to give the
features of engine `ort` on a batch of noise, within the rounding of its precision. Images run
in parts of one size: copied in, embedded and copied out by one CUDA graph.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import numpy as np
from typing_extensions import override

from edge_runtime.device import l4t_release
from edge_runtime.engines.base import BaseEngine, ForwardEngine, require_images
from edge_runtime.engines.devices import device_gpu, missing_gpu_text
from edge_runtime.engines.ort_forward import OrtForwardEngine
from edge_runtime.engines.session import require_described
from edge_runtime.engines.tensorrt.api import (
    failure,
    load_tensorrt,
    missing_modules,
    native_failures,
    tensorrt_name,
)
from edge_runtime.engines.tensorrt.build import (
    BuildJob,
    BuiltEngine,
    build_engine,
    deserialized,
    tensors_of,
)
from edge_runtime.engines.tensorrt.compare import (
    FLOAT_TOLERANCE,
    HALF_TOLERANCE,
    largest_error,
    noise_images,
)
from edge_runtime.engines.tensorrt.cuda import CapturedGraph, Cuda
from edge_runtime.engines.tensorrt.files import CachedFile
from edge_runtime.engines.tensorrt.threads import interruptible
from edge_runtime.errors import DeviceError, EngineError
from edge_runtime.facts.devices import CUDA
from edge_runtime.package import Package
from edge_runtime.package.manifest import GraphSpec
from edge_runtime.package.names import FEATURES, IMAGES, WEIGHT
from edge_runtime.reading import read_file
from edge_runtime.state import Array, State

IMAGES_PER_RUN = 32  # of a graph that takes any number: enough work for a GPU of a board
_FORMAT = "1"  # of what is built: another one is not read
_TF32 = "NVIDIA_TF32_OVERRIDE"  # a variable
_PRECISION = "as exported, TF32 for float32 products"
_MOST_GRAPH_BYTES = 2 << 30  # of an ONNX file


class TensorRtForwardEngine(BaseEngine, ForwardEngine):
    """One forward graph with its weights in the GPU's memory."""

    name = "tensorrt"

    def __init__(
        self,
        *,
        device: str = f"{CUDA}:0",
        threads: int | None = None,
        report: Callable[[str], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Choose the GPU; loads TensorRT, and nothing on the GPU.

        Args:
            device: "cuda:N".
            threads: of engine `ort`, which a new engine is compared with.
            report: called with a line of text while an engine is built.
            stop: called meanwhile; `True` ends the build or the wait for another one's.

        Raises:
            EngineError: TensorRT or pycuda is not installed, or there is no such GPU.
        """
        super().__init__(f"{self.name} (forward)")
        if (gpu := device_gpu(device)) is None:
            raise EngineError(
                f"forward engine tensorrt has no GPU: {missing_gpu_text(device)}. Take "
                "forward engine ort, or auto."
            )
        load_tensorrt()
        self.runtime, self.device, self._gpu = tensorrt_name(), device, gpu
        self._threads, self._report, self._stop = threads, report, stop
        self._cuda: Cuda | None = None
        self._bound: _Bound | None = None

    @property
    def is_captured(self) -> bool:
        """Whether a run is one CUDA graph; otherwise its kernels are started one by one."""
        return self._bound is not None and self._bound.graph is not None

    @override
    def open(self, package: Package, graph: str, weights: State) -> None:
        self._keep(package)
        try:
            cuda = self._cuda = Cuda(int(self.device.partition(":")[2]))
            interruptible(partial(self._open, cuda, package, graph, weights))
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        cuda: Cuda,
        package: Package,
        graph: str,
        weights: State,
        is_interrupted: Callable[[], bool],
    ) -> None:
        path, spec = package.file(graph), package.manifest.graphs[graph]
        try:
            model = read_file(path, _MOST_GRAPH_BYTES)
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror or error}.") from error
        shape = _images_shape(spec)
        job = self._job(cuda, str(path), model, spec, lambda: is_interrupted() or self._stop())
        kept = self._file(
            "engine", cuda, graph=hashlib.sha256(model).hexdigest(), images=str(shape)
        )
        with cuda.current(f"load {graph}"), ExitStack() as lock:
            lock.enter_context(kept.locked(self._report, job.stop))
            native, built = self._from_cache(kept, job), None
            if native is None:
                built = build_engine(job)
                native = deserialized(built.content, f"the engine of {path} that it has built")
            else:
                lock.close()
            with native_failures(f"run the engine of {path}"):
                require_described(package, graph, *tensors_of(native))
                self._bound = _Bound(cuda, spec, shape)
                self._bound.load(native, weights)
            self._capture(cuda, self._bound)
            if built is not None:
                self._compare(package, graph, weights, built)
                kept.write(built.content)

    def _file(self, kind: str, cuda: Cuda, **more: str) -> CachedFile:
        key = {
            "format": _FORMAT,
            "tensorrt": self.runtime,
            "gpu": self._gpu.name,
            "compute capability": self._gpu.compute_capability or "",
            # All modules of a Jetson generation have one name and compute capability
            "multiprocessors": str(cuda.multiprocessors),
            "memory in GiB": str(round(cuda.memory_bytes / 2**30)),
            "driver": self._gpu.driver or "",
            "l4t": l4t_release() or "",
            "precision": _PRECISION,
            "TF32 override": os.environ.get(_TF32, ""),  # of NVIDIA's libraries
        }
        return CachedFile(kind, {**key, **more})

    def _job(
        self, cuda: Cuda, path: str, model: bytes, spec: GraphSpec, stop: Callable[[], bool]
    ) -> BuildJob:
        (images,) = (tensor.name for tensor in spec.inputs if tensor.role == IMAGES)
        return BuildJob(
            graph=path,
            model=model,
            images=images,
            shape=_images_shape(spec),
            weight_bytes=sum(each.size_bytes for each in spec.inputs if each.role == WEIGHT),
            gpu=self._gpu.name,
            timing=self._file("timing", cuda),
            report=self._report,
            stop=stop,
        )

    def _from_cache(self, kept: CachedFile, job: BuildJob) -> Any:
        """The engine of the cache; `None`: there is none that TensorRT takes.

        Raises:
            NoMemoryError: there is too little memory for it; another one needs as much.
        """
        if (content := kept.read()) is None:
            return None
        try:
            return deserialized(content, f"the engine of {job.graph} in the cache")
        except EngineError as error:
            self._report(f"{error}. It is built again")
            return None

    def _capture(self, cuda: Cuda, bound: "_Bound") -> None:
        """Make a run one CUDA graph, if the driver can; TensorRT wants a run before."""
        bound.run_once()
        try:
            with cuda.current("capture a CUDA graph"):
                bound.graph = cuda.captured(bound.enqueue)
        except (EngineError, DeviceError) as error:
            self._report(f"forward engine tensorrt goes on without a CUDA graph: {error}")
            cuda.renew_stream()
            bound.run_once()

    def _compare(
        self, package: Package, graph: str, weights: State, built: BuiltEngine
    ) -> None:
        """Refuse an engine whose features are not those of engine `ort`."""
        assert self._bound is not None
        images = noise_images(self._bound.shape)
        with OrtForwardEngine(threads=self._threads) as reference:
            reference.open(package, graph, weights)
            expected = reference.run(images)
        error = largest_error(self.run(images), expected)
        tolerance = HALF_TOLERANCE if built.is_half else FLOAT_TOLERANCE
        text = (
            f"its features of {graph} are {error:.2%} off those of engine ort; "
            f"{tolerance:.0%} are allowed"
        )
        if not error <= tolerance:  # nor if it is NaN
            raise EngineError(
                f"{self.runtime} on {self._gpu.name} is not used: {text}. Use "
                "--forward-engine ort."
            )
        self._report(f"{self.runtime} on {self._gpu.name}: {text}")

    @property
    @override
    def images_per_run(self) -> int:
        return IMAGES_PER_RUN if self._bound is None else self._bound.shape[0]

    @override
    def set_weights(self, weights: State) -> None:
        self._require_open("take weights")
        assert self._cuda is not None
        assert self._bound is not None
        with self._cuda.current("copy weights"):
            self._bound.set_weights(weights)

    @override
    def run(self, images: Array) -> Array:
        self._require_open("run")
        require_images(images)
        assert self._cuda is not None
        assert self._bound is not None
        size = self._bound.shape[1:]
        if images.shape[1:] != size:
            raise EngineError(
                f"{self.runtime} cannot embed images of {images.shape[1:]}; expected {size}."
            )
        with self._cuda.current("embed images"):
            return self._bound.run(images)

    @override
    def close(self) -> None:
        super().close()
        bound, self._bound = self._bound, None
        cuda, self._cuda = self._cuda, None
        if cuda is None:
            return
        # After a failure CUDA may refuse everything; why, was said then
        with suppress(EngineError, DeviceError), cuda.current("free memory"):
            if bound is not None:
                bound.free()
        with suppress(EngineError, DeviceError):
            cuda.close()


class _Bound:
    """An engine with its weights, the images of a run and their features, all at fixed places.

    Every method needs the GPU to be current.
    """

    def __init__(self, cuda: Cuda, spec: GraphSpec, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.graph: CapturedGraph | None = None
        self._cuda, self._spec = cuda, spec
        (self._input,) = (each.name for each in spec.inputs if each.role == IMAGES)
        (features,) = (each for each in spec.outputs if each.role == FEATURES)
        self._output, self._expected = features.name, (shape[0], *features.shape[1:])
        self._weights = [tensor for tensor in spec.inputs if tensor.role == WEIGHT]
        self._memory: dict[str, Any] = {}
        self._images: Any = None
        self._features: Any = None

    def load(self, native: Any, weights: State) -> None:
        """Take an engine and copy its weights; `free` also frees what a failure leaves.

        Raises:
            EngineError: TensorRT refuses something, or gives other features.
            NoMemoryError: there is too little memory.
        """
        self._native, self._context = native, native.create_execution_context()
        if self._context is None:
            raise failure("run an engine")
        if not self._context.set_input_shape(self._input, self.shape):
            raise failure(f"take images of shape {self.shape}")
        # TensorRT writes that many, wherever the memory ends
        written = tuple(self._context.get_tensor_shape(self._output))
        if written != self._expected:
            raise EngineError(
                f"{tensorrt_name()} gives features of shape {written} for images of shape "
                f"{self.shape}; expected {self._expected}."
            )
        self._images = self._cuda.host_array(self.shape, np.uint8)
        self._features = self._cuda.host_array(written, np.float32)
        for tensor in self._weights:
            self._place(tensor.name, tensor.size_bytes)
        self.set_weights(weights)
        self._place(self._input, self._images.nbytes)
        self._place(self._output, self._features.nbytes)

    def set_weights(self, weights: State) -> None:
        """Copy the weights to their places; the copies have ended when this returns.

        Raises:
            EngineError: one has another shape.
        """
        for spec in self._weights:
            given = weights[spec.name]
            if given.shape != spec.shape:  # the GPU would read beyond it
                raise EngineError(
                    f"weight {spec.name!r} has shape {given.shape}; expected {spec.shape}."
                )
            value = np.require(given, spec.dtype, requirements="C")
            self._cuda.write(self._memory[spec.name], value)
            self._cuda.stream.synchronize()

    def _place(self, name: str, size_bytes: int) -> None:
        self._memory[name] = self._cuda.allocate(size_bytes)
        if not self._context.set_tensor_address(name, int(self._memory[name])):
            raise failure(f"place {name!r} in memory")

    def enqueue(self) -> None:
        """Put a run on the stream.

        Raises:
            EngineError: TensorRT refuses it.
        """
        self._cuda.write(self._memory[self._input], self._images)
        with native_failures("start a run"):
            if not self._context.execute_async_v3(self._cuda.stream.handle):
                raise failure("start a run")
        self._cuda.read(self._features, self._memory[self._output])

    def run_once(self) -> None:
        """Embed the images that lie ready, and wait for their features."""
        if self.graph is not None:
            self.graph.launch()
        else:
            self.enqueue()
        self._cuda.stream.synchronize()

    def run(self, images: Array) -> Array:
        """Features of any number of images, in parts; the last one is filled up with black."""
        size, width = self._features.shape
        result = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            self._images[: len(part)] = part
            self._images[len(part) :] = 0
            self.run_once()
            result[start : start + size] = self._features[: len(part)]
        return result

    def free(self) -> None:
        """Free everything, the last one first; also what follows a part that fails."""
        with ExitStack() as stack:
            for memory in self._memory.values():
                stack.callback(memory.free)
            stack.callback(self._drop)
            if self.graph is not None:
                stack.callback(self.graph.close)
        self.graph, self._memory = None, {}

    def _drop(self) -> None:
        """What is freed once nothing refers to it: also page-locked memory."""
        self._context = self._native = self._images = self._features = None


def _images_shape(spec: GraphSpec) -> tuple[int, ...]:
    (images,) = (tensor for tensor in spec.inputs if tensor.role == IMAGES)
    count, *size = images.shape
    # All are known: the manifest was checked when it was read
    return (count or IMAGES_PER_RUN, *(each for each in size if each is not None))


__all__ = [
    "FLOAT_TOLERANCE",
    "HALF_TOLERANCE",
    "TensorRtForwardEngine",
    "largest_error",
    "missing_modules",
    "tensorrt_name",
]
