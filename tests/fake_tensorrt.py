"""TensorRT for tests: the part of its Python API that is used, computing with ONNX Runtime.

`device_tests/test_tensorrt_bindings.py` checks that the real bindings have every class, method
and parameter that is here. As TensorRT does, a call that fails returns `None` or `False` and
logs why; a plan is read only by the version and on the GPU that built it; a graph is not
captured before a first run; and what our callbacks raise is lost, but for a step that counts
as refused.
"""

import enum
import json
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from fake_cuda import FakeCuda

from edge_runtime.device.gpus import Gpu

GPU = Gpu(
    name="Orin",
    kind="integrated",
    driver="NVIDIA 540.4.0",
    api="CUDA 12.6",
    compute_capability="8.7",
)
MAGIC = b"plan "


class FakeTensorRt:
    """What is built and computed, and what is wrong with it."""

    def __init__(self, cuda: FakeCuda, version: str = "10.3.0") -> None:
        self.cuda, self.version = cuda, version
        self.gpu: Gpu | None = GPU
        self.builds = self.runs = 0
        self.timings: list[bytes] = []  # caches that builders were given
        self.error = 0.0  # of all features, relative
        self.half = False  # whether a layer computes in float16
        self.fails: set[str] = set()  # names of methods that return None or False
        self.why: dict[str, str] = {}  # what they log, where it is not said below
        self.logs: list[str] = []  # errors of a build that goes on
        self.widths: list[int] = []  # of the features, where the engine has others
        self.during_build: Callable[[int], None] = lambda step: None  # in a callback
        self.steps = 0  # of builds
        self.module = _tensorrt(self)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `import tensorrt` be this, on a machine with one NVIDIA GPU."""
        self.module.__spec__ = ModuleSpec("tensorrt", None)
        monkeypatch.setitem(sys.modules, "tensorrt", self.module)
        for part in ("tensorrt", "forward"):
            monkeypatch.setattr(
                f"edge_runtime.engines.{part}.device_gpu", lambda device: self.gpu
            )

    def plan(self, model: bytes, shapes: dict[str, Sequence[int]]) -> bytes:
        """An engine as it is written."""
        facts = {"made": self._environment(), "shapes": shapes}
        return MAGIC + json.dumps(facts).encode() + b"\n" + model

    def read(self, plan: bytes) -> tuple[bytes, dict[str, Sequence[int]]] | None:
        """Graph and shapes of an engine that is of this version and GPU."""
        header, _, model = plan.partition(b"\n")
        try:
            facts = json.loads(header.removeprefix(MAGIC))
        except ValueError:
            return None
        if not plan.startswith(MAGIC) or facts["made"] != self._environment():
            return None
        return model, facts["shapes"]

    def _environment(self) -> list[str]:
        return [self.version, self.gpu.name if self.gpu else ""]


def _called(callback: Callable[..., Any], *arguments: Any) -> Any:
    """What a callback returns; the bindings catch all that it raises."""
    try:
        return callback(*arguments)
    except BaseException:  # noqa: BLE001 - as the bindings
        return False


def _session(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _tensorrt(world: FakeTensorRt) -> Any:
    """The module `tensorrt`."""
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = world.version

    class DataType(enum.Enum):
        FLOAT, HALF, UINT8 = 0, 1, 7

    class TensorIOMode(enum.Enum):
        INPUT, OUTPUT = 1, 2

    class MemoryPoolType(enum.Enum):
        WORKSPACE = 0

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1

    class ILogger:
        class Severity(enum.Enum):
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class IProgressMonitor:
        def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
            raise NotImplementedError

        def step_complete(self, phase_name: str, step: int) -> bool:
            raise NotImplementedError

        def phase_finish(self, phase_name: str) -> None:
            raise NotImplementedError

    class Failing:
        """Has a log, and methods that are told to fail."""

        def __init__(self, log: Any) -> None:
            if type(self).__name__ in world.fails:
                _called(log.log, ILogger.Severity.ERROR, "CUDA initialization failure")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._log = log

        def _logs(self, text: str) -> None:
            _called(self._log.log, ILogger.Severity.ERROR, text)

        def _fails(self, method: str, why: str = "it was told to fail") -> bool:
            if method in world.fails:
                self._logs(f"{method}: {world.why.get(method, why)}")
            return method in world.fails

    class ITensor:
        dtype = DataType.HALF if world.half else DataType.FLOAT

    class ILayer:
        num_outputs = 1

        def get_output(self, index: int) -> ITensor:
            tensor = ITensor()
            tensor.dtype = DataType.HALF if world.half else DataType.FLOAT
            return tensor

    class INetworkDefinition:
        _model = b""
        num_layers = 1

        def get_layer(self, index: int) -> ILayer:
            return ILayer()

    class IOptimizationProfile:
        def __init__(self) -> None:
            self.shapes: dict[str, Sequence[int]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            assert min == opt == max
            self.shapes[input] = list(opt)

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return self.content or b"timing"

    class IBuilderConfig:
        progress_monitor: Any = None

        def __init__(self) -> None:
            self.profiles: list[IOptimizationProfile] = []

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            assert pool is MemoryPoolType.WORKSPACE

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self.profiles.append(profile)
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            if "create_timing_cache" in world.fails:
                return None
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            world.timings.append(cache.content)
            return cache.content in (b"", b"timing")

    class Builder(Failing):
        def create_network(self, flags: int = 0) -> INetworkDefinition:
            assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: IBuilderConfig) -> Any:
            world.cuda.require_context()
            world.builds += 1
            monitor = config.progress_monitor
            _called(monitor.phase_start, "Building", None, 3)
            for step in range(3):
                _called(monitor.phase_start, "Tactics", "Building", 1)
                _called(monitor.step_complete, "Tactics", 0)
                _called(monitor.phase_finish, "Tactics")
                _called(world.during_build, step)
                if not _called(monitor.step_complete, "Building", step):
                    return None
                world.steps += 1
            _called(monitor.phase_finish, "Building")
            for text in world.logs:
                self._logs(text)
            if self._fails("build_serialized_network", "OutOfMemory (requested 1 GiB)"):
                return None
            (profile,) = config.profiles
            return world.plan(network._model, profile.shapes)

    class ParserError:
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network, self._errors = network, []
            self.num_errors = 0

        def parse(self, model: bytes) -> bool:
            try:
                _session(model)
            except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime does not read
                self._errors, self.num_errors = [ParserError(str(error))], 1
                return False
            self._network._model = model
            return True

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    class Runtime(Failing):
        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            world.cuda.require_context()
            found = world.read(bytes(serialized_engine))
            if found is None:
                self._logs("The engine plan file is not compatible")
            if found is None or self._fails("deserialize_cuda_engine"):
                return None
            return ICudaEngine(self._log, *found)

    class ICudaEngine(Failing):
        def __init__(self, log: Any, model: bytes, shapes: Any) -> None:
            super().__init__(log)
            self._session, self._shapes = _session(model), shapes
            self._inputs = {each.name: each for each in self._session.get_inputs()}
            self._outputs = {each.name: each for each in self._session.get_outputs()}
            self._all = {**self._inputs, **self._outputs}
            self.num_io_tensors = len(self._all)

        def get_tensor_name(self, index: int) -> str:
            return list(self._all)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> DataType:
            names = {"tensor(float)": DataType.FLOAT, "tensor(uint8)": DataType.UINT8}
            return names[self._all[name].type]

        def get_tensor_shape(self, name: str) -> list[int]:
            return [n if isinstance(n, int) else -1 for n in self._all[name].shape]

        def create_execution_context(self) -> Any:
            world.cuda.require_context()
            if self._fails("create_execution_context", "OutOfMemory"):
                return None
            return IExecutionContext(self, self._log)

    class IExecutionContext(Failing):
        def __init__(self, engine: ICudaEngine, log: Any) -> None:
            super().__init__(log)
            self._engine = engine
            self._addresses: dict[str, int] = {}
            self._shapes: dict[str, Sequence[int]] = {}
            self._has_run = False

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return not self._fails("set_tensor_address")

        def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
            self._shapes[name] = shape
            fits = list(self._engine._shapes[name]) == list(shape)
            return fits and not self._fails("set_input_shape")

        def get_tensor_shape(self, name: str) -> list[int]:
            images = max(self._shapes.values(), key=len)[0]
            free = self._engine.get_tensor_shape(name)
            sizes = [images if size < 0 else size for size in free]
            return [images, *world.widths] if world.widths else sizes

        def execute_async_v3(self, stream_handle: int) -> bool:
            world.cuda.require_context()
            stream = world.cuda.streams[stream_handle]  # which is not the default one, 0
            assert self._addresses.keys() == self._engine._all.keys()
            if stream.captured is not None and not self._has_run:
                self._logs("run once before the capture")
                return False
            if stream.captured is not None and self._fails("capture"):
                stream.is_invalid = True
                return False
            if self._fails("execute_async_v3"):
                return False
            self._has_run = True
            stream.put(self._run)
            return True

        def _run(self) -> None:
            world.runs += 1
            session = self._engine._session
            feeds = {name: self._value(each) for name, each in self._engine._inputs.items()}
            for name, value in zip(
                self._engine._outputs, session.run(None, feeds), strict=True
            ):
                raw = np.frombuffer((value * (1 + world.error)).tobytes(), np.uint8)
                world.cuda.bytes_at(self._addresses[name], len(raw))[:] = raw

        def _value(self, tensor: Any) -> Any:
            shape = self._shapes.get(tensor.name, tensor.shape)
            dtype = np.uint8 if tensor.type == "tensor(uint8)" else np.float32
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raw = world.cuda.bytes_at(self._addresses[tensor.name], size)
            return np.frombuffer(raw.tobytes(), dtype).reshape(shape)

    def nptype(trt_type: DataType) -> Any:
        kinds = {
            DataType.FLOAT: np.float32,
            DataType.HALF: np.float16,
            DataType.UINT8: np.uint8,
        }
        return kinds[trt_type]

    for each in (
        DataType, TensorIOMode, MemoryPoolType, NetworkDefinitionCreationFlag, ILogger,
        IProgressMonitor, Builder, OnnxParser, ParserError, Runtime, nptype,
        IBuilderConfig, IOptimizationProfile, INetworkDefinition, ILayer, ITensor,
        ITimingCache, ICudaEngine, IExecutionContext,
    ):  # fmt: skip
        setattr(trt, each.__name__, each)
    return trt
