"""CUDA for tests: memory, streams and captured graphs, as of pycuda and NVIDIA's driver.

As on a GPU, what is put on a stream happens later, when somebody waits for it: a buffer that
was changed or freed too early shows. Nothing works without a current context.
"""

import sys
import threading
import types
import weakref
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest

Work = Callable[[], None]


class FakeCuda:
    """The state of the GPU, and what is wrong with it."""

    def __init__(self) -> None:
        self.free_bytes = 1 << 30
        self.returns: dict[str, int] = {}  # codes of the driver's functions; others return 0
        self.allocations: dict[int, Any] = {}  # by address
        self.streams: dict[int, Any] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.launches = 0  # of graphs
        self.multiprocessors, self.memory_bytes = 16, (30 << 30) + 12345
        self.pinned = 0  # arrays in page-locked memory
        self.unpinned_without_context = 0
        self.current = threading.local()
        self.pycuda, self.driver = _pycuda(self), _Driver(self)
        self._handles = 0x1000

    def handle(self) -> int:
        self._handles += 0x1000
        return self._handles

    def require_context(self) -> None:
        if not getattr(self.current, "stack", None):
            raise self.pycuda.LogicError("no CUDA context is current in this thread")

    def bytes_at(self, address: int, size: int) -> Any:
        """The bytes of an allocation, from its beginning."""
        if address not in self.allocations:
            raise self.pycuda.LogicError("an illegal memory access was encountered")
        memory = self.allocations[address]
        if size > len(memory):
            raise self.pycuda.LogicError("an illegal memory access was encountered")
        return memory[:size]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `import pycuda.driver` and the driver's library be these."""
        package = types.ModuleType("pycuda")
        package.__spec__ = ModuleSpec("pycuda", None, is_package=True)
        package.__path__ = []
        package.driver = self.pycuda  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.pycuda)
        monkeypatch.setattr(
            "edge_runtime.engines.tensorrt.cuda.load_driver", lambda: self.driver
        )


def _pycuda(world: FakeCuda) -> Any:
    """The module `pycuda.driver`, as far as it is used."""
    module: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error):
        pass

    class Context:
        def push(self) -> None:
            world.current.stack = [*getattr(world.current, "stack", []), self]

        @staticmethod
        def pop() -> None:
            world.require_context()
            world.current.stack = world.current.stack[:-1]

    class Device:
        contexts: dict[int, Context] = {}  # noqa: RUF012 - one per GPU, as the primary one

        def __init__(self, number: int) -> None:
            if number > 1:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")
            self._number = number

        def get_attribute(self, attribute: Any) -> int:
            assert attribute is device_attribute.MULTIPROCESSOR_COUNT
            return world.multiprocessors

        def total_memory(self) -> int:
            return world.memory_bytes

        def retain_primary_context(self) -> Context:
            return self.contexts.setdefault(self._number, Context())

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self._address = world.handle()
            world.allocations[self._address] = np.zeros(size, np.uint8)
            world.free_bytes -= size

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            world.require_context()
            world.free_bytes += len(world.allocations.pop(self._address))

    class Stream:
        is_invalid = False  # a capture that something has broken

        def __init__(self, flags: int = 0) -> None:
            world.require_context()
            assert flags == 1  # others wait for the default stream, and it for them
            self.handle = world.handle()
            self.work: list[Work] = []
            self.captured: list[Work] | None = None
            world.streams[self.handle] = self

        def put(self, work: Work) -> None:
            (self.work if self.captured is None else self.captured).append(work)

        def synchronize(self) -> None:
            world.require_context()
            if self.captured is not None:
                raise LogicError("operation not permitted when stream is capturing")
            work, self.work = self.work, []
            for each in work:
                each()

    def mem_alloc(size: int) -> DeviceAllocation:
        world.require_context()
        if size > world.free_bytes:
            raise MemoryError("cuMemAlloc failed: out of memory")
        return DeviceAllocation(size)

    def memcpy_htod_async(dest: Any, src: Any, stream: Any) -> None:
        world.require_context()
        assert src.flags.c_contiguous
        size, held = src.nbytes, weakref.ref(src)  # freed memory holds anything

        def copy() -> None:
            source = held()
            content = b"\xff" * size if source is None else source.tobytes()
            raw = np.frombuffer(content, np.uint8)
            world.bytes_at(int(dest), len(raw))[:] = raw

        stream.put(copy)

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Any) -> None:
        world.require_context()

        def copy() -> None:
            raw = world.bytes_at(int(src), dest.nbytes)
            dest[...] = np.frombuffer(raw.tobytes(), dest.dtype).reshape(dest.shape)

        stream.put(copy)

    def pagelocked_empty(shape: Any, dtype: Any) -> Any:
        world.require_context()
        array = np.full(shape, 77, dtype)  # what lay there before
        world.pinned += 1
        weakref.finalize(array, unpin)
        return array

    def unpin() -> None:
        world.pinned -= 1
        world.unpinned_without_context += not getattr(world.current, "stack", None)

    class device_attribute:  # noqa: N801 - as pycuda's
        MULTIPROCESSOR_COUNT = object()

    module.init = lambda: None
    module.device_attribute = device_attribute
    for each in (Error, LogicError, MemoryError, Device, Stream):
        setattr(module, each.__name__, each)
    for function in (mem_alloc, memcpy_htod_async, memcpy_dtoh_async, pagelocked_empty):
        setattr(module, function.__name__, function)
    return module


class _Refused(Exception):  # noqa: N818 - a code, no error
    """A code that a function of the driver returns."""


class _Driver:
    """The driver's functions for graphs; arguments are those of ctypes."""

    def __init__(self, world: FakeCuda) -> None:
        self._world = world

    def __getattribute__(self, name: str) -> Any:
        function = object.__getattribute__(self, name)
        if not name.startswith("cu"):
            return function
        world = object.__getattribute__(self, "_world")

        def call(*arguments: Any) -> int:
            world.require_context()
            if code := world.returns.get(name, 0):
                return int(code)
            try:
                function(*arguments)
            except _Refused as refused:
                return int(refused.args[0])
            return 0

        return call

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> None:  # noqa: N802
        assert mode.value == 1
        self._world.streams[stream.value].captured = []

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> None:  # noqa: N802
        found = self._world.streams[stream.value]
        if found.is_invalid:
            found.captured, graph._obj.value = None, None
            raise _Refused(901)
        graph._obj.value = self._world.handle()
        self._world.graphs[graph._obj.value] = found.captured
        found.captured = None

    def cuGraphInstantiateWithFlags(  # noqa: N802
        self, executable: Any, graph: Any, flags: Any
    ) -> None:
        executable._obj.value = self._world.handle()
        self._world.graphs[executable._obj.value] = self._world.graphs[graph.value]

    def cuGraphDestroy(self, graph: Any) -> None:  # noqa: N802
        self._world.graphs.pop(graph.value, None)

    def cuGraphLaunch(self, graph: Any, stream: Any) -> None:  # noqa: N802
        self._world.launches += 1
        for work in self._world.graphs[graph.value]:
            self._world.streams[stream.value].put(work)

    def cuGraphExecDestroy(self, graph: Any) -> None:  # noqa: N802
        del self._world.graphs[graph.value]
