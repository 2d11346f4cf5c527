"""Engine `ort-training`: the official on-device training API, onnxruntime-training 1.19.2."""

import sys
import tempfile
import types
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from edge_runtime.engines.base import (
    BaseEngine,
    Batch,
    Engine,
    Hyper,
    StepResult,
    require_supported,
)
from edge_runtime.engines.checkpoint_file import read_moments, write_checkpoint
from edge_runtime.engines.devices import open_device
from edge_runtime.engines.encoders import Encoders
from edge_runtime.engines.forward import ORT, ForwardOptions
from edge_runtime.engines.runtime import (
    load_onnxruntime,
    native_errors,
    runtime_name,
    session_options,
    thread_count,
)
from edge_runtime.engines.session import open_session
from edge_runtime.engines.spinning import SpinPolicy
from edge_runtime.errors import EngineError, how_to_install
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import EMA, HYPER, LATE, METRIC, NEXT, PARAM, STATE
from edge_runtime.state import Array, State
from edge_runtime.storage import storage_errors


def load_api() -> Any:
    """The module `onnxruntime.training.api`.

    Raises:
        EngineError: it is not part of the installed runtime.
    """
    runtime = load_onnxruntime()
    name = "onnxruntime.training"
    if name not in sys.modules:
        # The package's start-up imports torch, which this API does not need.
        package = types.ModuleType(name)
        package.__path__ = [str(Path(runtime.__file__).parent / "training")]
        sys.modules[name] = package
    try:
        import onnxruntime.training.api as api
    except ImportError as error:
        del sys.modules[name]
        raise EngineError(
            f"engine ort-training needs onnxruntime-training-cpu, got {runtime_name()}. "
            "Install it (x86-64, below Python 3.13) in a separate environment: "
            f"{how_to_install('ort-training')}; or use engine ort."
        ) from error
    return api


class OrtTrainingEngine(BaseEngine, Engine):
    """Keeps parameters and moments in the API's CheckpointState, the EMA teacher beside it."""

    name = "ort-training"

    def __init__(
        self, *, device: str = CPU, threads: int | None = None, forward_engine: str = ORT
    ) -> None:
        super().__init__(self.name)
        self._api = load_api()
        self._forward = forward_engine
        self.runtime = runtime_name()
        self.device, self.threads = device, thread_count(threads)
        self._spinning: SpinPolicy | None = None
        self._checkpoint: Any = None
        self._started: State = {}
        self._ema: dict[str, Array] = {}  # the teacher, and the late one
        self._rungs: dict[str, _ApiRung] = {}
        self._update: _TeacherUpdate | None = None
        self._encoders: Encoders | None = None
        self._is_torn = False  # between the first and the last change of a step

    @override
    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        if (reason := package.manifest.ort_training.refused) is not None:
            return reason
        if rung is not None and rung.micro_batch is not None:
            return (
                f"rung {rung.id} has micro-batches of {rung.micro_batch}, for which there are "
                "no ort-training artifacts"
            )
        if rung is not None and rung.ort_training is None:
            return f"there are no ort-training artifacts of rung {rung.id}"
        return None

    @override
    def open(self, package: Package, state: State) -> None:
        require_supported(self, package)
        self._spinning = SpinPolicy()
        self._keep(package)
        self._started = {name: value.copy() for name, value in state.items()}
        copied = (EMA, LATE)
        self._ema = {n: v for n, v in self._started.items() if n.startswith(copied)}
        options = ForwardOptions(device=self.device, threads=self.threads)
        self._encoders = Encoders(package, self._forward, options, self._of_teacher)
        self.forward_engine = self._encoders.engine_text()
        if package.manifest.ort_training.update is not None:
            self._update = _TeacherUpdate(package, self.threads)

    @override
    def step(
        self, rung_id: str, batch: Batch, hyper: Hyper, following: Batch | None = None
    ) -> StepResult:
        package = self._require_consistent("step")
        require_supported(self, package, package.rung(rung_id))
        self._check(package, hyper)
        if self._checkpoint is None:
            self._load(steps_done=int(hyper["step"]) - 1)
        assert self._spinning is not None
        assert self._encoders is not None
        spinning = not self._encoders.shares_processor and self._spinning.is_allowed()
        if loaded := rung_id not in self._rungs:
            # A rung keeps its options: the API's modules cannot be made again.
            options = session_options(self.threads, spinning=spinning)
            self._rungs[rung_id] = _ApiRung(
                self._api, package, rung_id, self._checkpoint, options
            )
        batch = self._encoders.added_to(batch, following)
        metrics = self._rungs[rung_id].differentiate(batch, hyper, self._ema)
        self._is_torn = True
        self._rungs[rung_id].apply_update(hyper)
        if self._update is not None:
            self._ema = self._update.run(self._checkpoint, self._ema, hyper)
        self._is_torn = False
        return StepResult(metrics, applied=True, loaded=loaded)

    @override
    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        # Packages with such graphs are refused by `open`
        self._require_consistent("run a periodic graph")
        raise EngineError(f"engine {self.name} cannot run {graph}. Use engine ort.")

    def _of_teacher(self, names: Collection[str]) -> State:
        return {name: self._ema[name] for name in names}

    def _require_consistent(self, action: str) -> Package:
        """The package, if the last step is complete.

        Raises:
            EngineError: the last step is incomplete, or the engine is not open.
        """
        package = self._require_open(action)
        if self._is_torn:
            raise EngineError(
                f"engine ort-training cannot {action}: it failed in the middle of a step. "
                "Continue from the last checkpoint with --resume."
            )
        return package

    def _check(self, package: Package, hyper: Hyper) -> None:
        """The optimizer's constants are in its graph: other values would be ignored."""
        curves = package.manifest.hyper_parameters
        for name in ("weight_decay", "beta1", "beta2", "eps"):
            if hyper[name] != (fixed := curves[name].first):
                raise EngineError(
                    f"engine ort-training cannot use {name} = {hyper[name]:g}: its "
                    f"optimizer has it fixed at {fixed:g}. Use engine ort."
                )

    def _load(self, steps_done: int) -> None:
        """Create the API's state; the step count is known only at the first step."""
        with _scratch_file() as path, native_errors("load a checkpoint"):
            write_checkpoint(path, self._started, steps_done=steps_done)
            self._checkpoint = self._api.CheckpointState.load_checkpoint(str(path))
        self._started = {}

    @override
    def snapshot(self) -> State:
        self._require_consistent("snapshot")
        if self._checkpoint is None:
            return {name: value.copy() for name, value in self._started.items()}
        with _scratch_file() as path, native_errors(f"save a checkpoint to {path}"):
            self._api.CheckpointState.save_checkpoint(self._checkpoint, str(path), True)
            moments = read_moments(path)
        parameters = {
            PARAM + name: parameter.data.copy()
            for name, parameter in self._checkpoint.parameters
        }
        return {**parameters, **{k: v.copy() for k, v in self._ema.items()}, **moments}

    @override
    def state_view(self) -> State:
        # The API exports its state only to files: this is a copy
        return self.snapshot()

    @override
    def close(self) -> None:
        super().close()
        self._rungs.clear()
        if self._encoders is not None:
            self._encoders.close()
        self._checkpoint = self._update = None
        self._started, self._ema = {}, {}


@contextmanager
def _scratch_file() -> Iterator[Path]:
    """A path where the API writes or reads a checkpoint, which it does only by files.

    Raises:
        StorageError: it cannot be written.
    """
    parent = Path(tempfile.gettempdir())
    with storage_errors("write", parent), tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder) / "checkpoint"


class _ApiRung:
    """Module and Optimizer of one rung over the shared CheckpointState.

    Both are made together: the next Module replaces the gradient buffers in the state, and an
    Optimizer keeps those of its creation.
    """

    def __init__(
        self, api: Any, package: Package, rung_id: str, checkpoint: Any, options: Any
    ) -> None:
        files = package.rung(rung_id).ort_training
        assert files is not None  # otherwise there is an `unsupported_reason`
        self._rung_id = rung_id
        spec = package.manifest.graphs[files.training]
        with native_errors(f"load {package.file(files.training)}"):
            self._module = api.Module(
                str(package.file(files.training)),
                checkpoint,
                str(package.file(files.eval)),
                session_options=options,
            )
            self._optimizer = api.Optimizer(str(package.file(files.optimizer)), self._module)
            self._names = self._module.input_names()
            outputs = len(self._module.output_names())
        self._kinds = {tensor.name: tensor for tensor in spec.inputs}
        self._metrics = {i: t.name for i, t in enumerate(spec.outputs) if t.role == METRIC}
        if not self._kinds.keys() >= set(self._names) or outputs != len(spec.outputs):
            raise EngineError(
                f"{package.file(files.training)} is not the graph of the manifest: its inputs "
                "or outputs are others. Export the package again."
            )

    def differentiate(self, batch: Batch, hyper: Hyper, teacher: State) -> dict[str, float]:
        """Forward and backward; the state is unchanged."""
        inputs = [self._input(name, batch, hyper, teacher) for name in self._names]
        with native_errors(f"run a step of rung {self._rung_id}"):
            self._module.lazy_reset_grad()  # those of the previous step, or of a failed one
            outputs = self._module(*inputs)
        results = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: float(results[i]) for i, name in self._metrics.items()}

    def apply_update(self, hyper: Hyper) -> None:
        """AdamW with the present gradients."""
        with native_errors(f"run the optimizer of rung {self._rung_id}"):
            self._optimizer.set_learning_rate(hyper["lr"])
            self._optimizer.step()

    def _input(self, name: str, batch: Batch, hyper: Hyper, teacher: State) -> Array:
        tensor = self._kinds[name]
        if tensor.role == HYPER:
            return np.array(hyper[name], np.float32)
        if tensor.role == STATE:
            return teacher[name]
        return np.ascontiguousarray(batch[name], tensor.dtype)


class _TeacherUpdate:
    """The update graph of the EMA teacher."""

    def __init__(self, package: Package, threads: int | None) -> None:
        path = str(package.manifest.ort_training.update)
        self._spec = package.manifest.graphs[path]
        self._session = open_session(package, path, device=open_device(CPU), threads=threads)

    def run(self, checkpoint: Any, teacher: State, hyper: Hyper) -> dict[str, Array]:
        """The teacher after this step."""
        feeds: dict[str, Array] = {}
        for tensor in self._spec.inputs:
            if tensor.role == HYPER:
                feeds[tensor.name] = np.array(hyper[tensor.name], np.float32)
            elif tensor.name.startswith(PARAM):
                parameter = checkpoint.parameters[tensor.name.removeprefix(PARAM)]
                feeds[tensor.name] = parameter.data
            else:
                feeds[tensor.name] = teacher[tensor.name]
        names = [tensor.name for tensor in self._spec.outputs]
        with native_errors("run the teacher's update"):
            values = self._session.run(names, feeds)
        return {
            name.removeprefix(NEXT): value for name, value in zip(names, values, strict=True)
        }
