"""CUDA for TensorRT: memory, copies, a stream and captured graphs. Only this file uses pycuda.

The context is the device's primary one, which ONNX Runtime and TensorRT use, too. It is made
current for each call, so that any thread may use an object of this file, one at a time.

pycuda has no stream capture: these calls go to NVIDIA's driver itself.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from edge_runtime.engines.runtime import out_of_memory
from edge_runtime.errors import DeviceError, EngineError, NoMemoryError
from edge_runtime.state import Array

_DRIVER = "libcuda.so.1"
_NO_MEMORY = 2  # of CUresult
_THREAD_LOCAL = 1  # of CUstreamCaptureMode: other threads may use CUDA meanwhile
# Of CUstream_flags: never waits for the default stream, which ONNX Runtime may use meanwhile.
# Such a wait also ends a capture with an error.
_NON_BLOCKING = 1
_LESS = "Stop other programs that use this memory, or name --forward-engine ort."


def load_pycuda() -> Any:
    """The module `pycuda.driver`, imported at its first use.

    Raises:
        EngineError: it is not installed, or NVIDIA's driver is missing.
    """
    try:
        import pycuda.driver as pycuda
    except (ImportError, OSError) as error:
        raise EngineError(
            f"pycuda cannot be imported ({error}). Install it with `pip install pycuda`: it "
            "needs CUDA's nvcc on the PATH (docs/tensorrt.md)."
        ) from error
    return pycuda


def load_driver() -> Any:
    """NVIDIA's driver library.

    Raises:
        EngineError: there is none.
    """
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise EngineError(f"there is no driver of NVIDIA: {error}.") from error


class Cuda:
    """One GPU, and a stream on it that is not the default one."""

    def __init__(self, index: int) -> None:
        """Use the GPU with this number.

        Raises:
            EngineError: pycuda or the GPU cannot be used.
        """
        self._pycuda = load_pycuda()
        with self.errors(f"use GPU {index}"):
            self._context = _primary_context(self._pycuda, index)
            device = self._pycuda.Device(index)
            count = self._pycuda.device_attribute.MULTIPROCESSOR_COUNT
            self.multiprocessors = int(device.get_attribute(count))
            self.memory_bytes = int(device.total_memory())
        with self.current():
            self.renew_stream()

    @contextmanager
    def errors(self, action: str) -> Iterator[None]:
        """Convert pycuda's exceptions.

        Raises:
            NoMemoryError: memory cannot be had.
            EngineError: anything else.
        """
        try:
            yield
        except self._pycuda.Error as error:
            if isinstance(error, self._pycuda.MemoryError) or out_of_memory(str(error)):
                raise NoMemoryError(f"CUDA cannot {action}: {error}. {_LESS}") from error
            raise EngineError(f"CUDA cannot {action}: {error}.") from error

    @contextmanager
    def current(self, action: str = "use the GPU") -> Iterator[None]:
        """Use the GPU in this thread; pycuda's errors are converted as by `errors`."""
        with self.errors(action):
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    def allocate(self, size_bytes: int) -> Any:
        """Memory of the GPU, to be given back with `free`; `int` is its address."""
        return self._pycuda.mem_alloc(max(1, size_bytes))

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory of the processor that does not move while the GPU copies it."""
        array: Array = self._pycuda.pagelocked_empty(shape, dtype)
        return array

    def write(self, target: Any, source: Array) -> None:
        """Copy to the GPU on the stream; `source` must stay as it is until then."""
        self._pycuda.memcpy_htod_async(target, source, self.stream)

    def read(self, target: Array, source: Any) -> None:
        """Copy from the GPU on the stream."""
        self._pycuda.memcpy_dtoh_async(target, source, self.stream)

    def captured(self, enqueue: Callable[[], None]) -> "CapturedGraph":
        """What `enqueue` puts on the stream, as one graph; nothing is computed.

        Raises:
            EngineError: the driver cannot; the stream may be unusable then.
            NoMemoryError: nor is there memory for it.
        """
        return CapturedGraph(self.stream.handle, enqueue)

    def renew_stream(self) -> None:
        """Take another stream, after a failed capture."""
        self.stream = self._pycuda.Stream(_NON_BLOCKING)

    def close(self) -> None:
        """Free the stream; memory has to be freed before."""
        with self.current():
            self.stream = None


@cache  # never left: pycuda would leave it current in this thread, and others may use it
def _primary_context(pycuda: Any, index: int) -> Any:
    pycuda.init()
    return pycuda.Device(index).retain_primary_context()


class CapturedGraph:
    """Work of a stream that the driver starts with one call."""

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream)
        self._driver = load_driver()
        self._graph = ctypes.c_void_p()
        captured = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            enqueue()
        except BaseException:  # which is the reason; how the capture ends is not
            with suppress(EngineError, DeviceError):
                self._call("cuStreamEndCapture", self._stream, ctypes.byref(captured))
            if captured.value is not None:
                with suppress(EngineError, DeviceError):
                    self._call("cuGraphDestroy", captured)
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(captured))
        try:
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._graph),
                captured,
                ctypes.c_ulonglong(0),
            )
        finally:
            self._call("cuGraphDestroy", captured)

    def launch(self) -> None:
        """Start it on its stream.

        Raises:
            EngineError: the driver cannot.
        """
        self._call("cuGraphLaunch", self._graph, self._stream)

    def close(self) -> None:
        """Free it."""
        self._call("cuGraphExecDestroy", self._graph)

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._driver, function)(*arguments)
        except AttributeError as error:
            raise EngineError(f"NVIDIA's driver has no {function}.") from error
        if code == _NO_MEMORY:
            raise NoMemoryError(f"{function}: the GPU has no memory left. {_LESS}")
        if code:
            raise EngineError(f"NVIDIA's driver fails: {function} returns {code}.")
