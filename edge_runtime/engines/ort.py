"""Engine `ort`: step graphs, or micro-batches and their optimizer, on stock ONNX Runtime."""

from collections.abc import Callable, Collection
from itertools import chain
from typing import Any

from typing_extensions import override

from edge_runtime.engines.base import (
    BaseEngine,
    Batch,
    Engine,
    Hyper,
    StepResult,
    refusal,
    require_supported,
)
from edge_runtime.engines.device_state import DeviceState
from edge_runtime.engines.devices import Device, Tensors, device_runtime, open_device
from edge_runtime.engines.encoders import Encoders
from edge_runtime.engines.forward import ORT, ForwardOptions
from edge_runtime.engines.half import CPU_REFUSAL, half_refusal
from edge_runtime.engines.runtime import (
    native_errors,
    release_free_memory,
    thread_count,
)
from edge_runtime.engines.session import GraphSession, arrays_like
from edge_runtime.engines.spinning import SpinPolicy
from edge_runtime.errors import EngineError
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import (
    ACCUMULATE,
    APPLIED,
    APPLY,
    DRAW,
    FP16,
    IMAGES,
    STEP,
    SUM,
)
from edge_runtime.state import State

RunRung = Callable[[Batch, Hyper], dict[str, float]]  # one step; returns the metrics


class OrtEngine(BaseEngine, Engine):
    """Keeps the state on the device and runs a rung's graphs on it.

    State is bound once per direction, so that a step copies only its batch. One rung is loaded
    at a time: a run needs the memory of its largest rung, and stepping down frees memory.
    """

    name = "ort"

    def __init__(
        self, *, device: str = CPU, threads: int | None = None, forward_engine: str = ORT
    ) -> None:
        super().__init__(self.name)
        self.runtime = device_runtime(device)
        self.device, self.threads = device, thread_count(threads)
        self._forward = forward_engine
        self._spinning: SpinPolicy | None = None
        self._on: Device | None = None
        self._state: DeviceState | None = None
        self._loaded: dict[tuple[str, bool], RunRung] = {}  # one rung at most, by spinning
        self._periodic: dict[str, _StateGraph] = {}
        self._encoders: Encoders | None = None

    @override
    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        # `open` asks a GPU: that keeps memory, which is short while rungs are measured.
        is_refused = self.device == CPU and package.manifest.precision == FP16
        return CPU_REFUSAL if is_refused else None

    @override
    def open(self, package: Package, state: State) -> None:
        require_supported(self, package)
        self._on = open_device(self.device)
        if package.manifest.precision == FP16 and (reason := half_refusal(self._on)):
            raise refusal(self, package, reason)
        self._spinning = SpinPolicy()
        self._keep(package)
        with native_errors(f"copy the state to device {self.device}"):
            self._state = DeviceState(state, self._on)
        options = ForwardOptions(device=self.device, threads=self.threads)
        self._encoders = Encoders(package, self._forward, options, self._read)
        self.forward_engine = self._encoders.engine_text()
        # Not at the first period: a broken file or missing memory shows before the first step.
        for periodic in package.manifest.periodic:
            graph = self._graph(package, periodic.graph, spinning=False)
            self._periodic[periodic.graph] = _StateGraph(graph, self._held_state)

    @override
    def step(
        self, rung_id: str, batch: Batch, hyper: Hyper, following: Batch | None = None
    ) -> StepResult:
        package = self._require_open("step")
        wanted = rung_id, self._may_spin()
        loaded = wanted not in self._loaded
        run_rung = self._load(package, *wanted)
        _require_shapes(package, package.rung(rung_id), batch)
        assert self._encoders is not None
        batch = self._encoders.added_to(batch, following)
        with native_errors(f"run a step of rung {rung_id}"):
            metrics = run_rung(batch, hyper)
        return StepResult(metrics, bool(metrics.get(APPLIED, 1.0)), loaded)

    @override
    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        self._require_open("run a periodic graph")
        with native_errors(f"run {graph}"):
            self._periodic[graph].run({}, hyper)

    def _may_spin(self) -> bool:
        """Whether the processor's threads may; on a GPU they have nothing to wait for.

        Nor beside a teacher, whose threads need the processors.
        """
        assert self._on is not None
        assert self._spinning is not None
        assert self._encoders is not None
        is_alone = self._on.is_host and not self._encoders.shares_processor
        return is_alone and self._spinning.is_allowed()

    def _load(self, package: Package, rung_id: str, spinning: bool) -> RunRung:
        wanted = rung_id, spinning
        if wanted not in self._loaded:
            rung = package.rung(rung_id)
            self._loaded.clear()  # freed before the next one is allocated
            if STEP in rung.graphs:
                step = self._graph(package, rung.graphs[STEP], spinning)
                self._loaded[wanted] = _StateGraph(step, self._held_state).run
            else:
                self._loaded[wanted] = self._micro_batches(package, rung, spinning).run
            release_free_memory()
        return self._loaded[wanted]

    def _micro_batches(self, package: Package, rung: Rung, spinning: bool) -> "_MicroBatches":
        accumulate = self._graph(package, rung.graphs[ACCUMULATE], spinning)
        assert self._on is not None
        sums = self._on.tensors(
            arrays_like(tensor for tensor in accumulate.spec.inputs if tensor.role == SUM)
        )
        apply = self._graph(package, rung.graphs[APPLY], spinning)
        return _MicroBatches(
            range(0, package.manifest.batch_size, rung.micro_batch or 1),
            _StateGraph(accumulate, self._held_state, sums),
            _StateGraph(apply, self._held_state, sums),
            sums,
        )

    def _graph(self, package: Package, path: str, spinning: bool) -> GraphSession:
        assert self._on is not None
        return GraphSession(
            package, path, device=self._on, threads=self.threads, spinning=spinning
        )

    def _read(self, names: Collection[str]) -> State:
        with native_errors(f"read the state from device {self.device}"):
            return self._held_state.view(names)

    @property
    def _held_state(self) -> DeviceState:
        self._require_open("use the state")
        assert self._state is not None
        return self._state

    @override
    def snapshot(self) -> State:
        self._require_open("snapshot")
        with native_errors(f"read the state from device {self.device}"):
            return self._held_state.copy()

    @override
    def state_view(self) -> State:
        self._require_open("show the state")
        with native_errors(f"read the state from device {self.device}"):
            return self._held_state.view()

    @override
    def close(self) -> None:
        super().close()
        self._loaded.clear()
        self._periodic.clear()
        if self._encoders is not None:
            self._encoders.close()
        self._state = None


class _StateGraph:
    """A graph on the state of a run: reads current values, writes the next ones."""

    def __init__(
        self, graph: GraphSession, state: DeviceState, sums: Tensors | None = None
    ) -> None:
        self._graph, self._state, self._sums = graph, state, sums
        self._tensors = sorted({*graph.read_state, *graph.written_state})
        self._bindings: dict[tuple[int, ...], Any] = {}  # by the positions of the tensors

    def run(self, batch: Batch, hyper: Hyper) -> dict[str, float]:
        """Run once; the written values become the current state."""
        positions = self._state.positions(self._tensors)
        binding = self._bindings.get(positions)
        if binding is None:
            binding = self._graph.bind(self._state.value, self._state.next_value, self._sums)
            self._bindings[positions] = binding
        metrics = self._graph.run(binding, batch, hyper)
        self._state.advance(self._graph.written_state)
        return metrics


class _MicroBatches:
    """`accumulate` once for each micro-batch, then `apply`.

    Sums have one set of buffers, which is input and output of `accumulate` at once: each sum
    reads an element and writes it in place, as when ONNX Runtime reuses memory.
    """

    def __init__(
        self,
        parts: range,
        accumulate: _StateGraph,
        apply: _StateGraph,
        sums: Tensors,
    ) -> None:
        self._parts = parts  # first images of the micro-batches
        self._accumulate, self._apply, self._sums = accumulate, apply, sums

    def run(self, batch: Batch, hyper: Hyper) -> dict[str, float]:
        # Means over the micro-batches; whether the update was applied, only `apply` reports
        self._sums.clear()
        parts: list[dict[str, float]] = []
        for start in self._parts:
            end = start + self._parts.step
            part = {name: value[:, start:end] for name, value in batch.items()}
            parts.append(self._accumulate.run(part, hyper))
        means = {n: sum(each[n] for each in parts) / len(parts) for n in parts[0]}
        means.pop(APPLIED, None)
        return {**means, **self._apply.run({}, hyper)}


def _require_shapes(package: Package, rung: Rung, batch: Batch) -> None:
    """Raise unless every tensor has the shape of a whole batch: [views, pictures, ...]."""
    pictures = package.manifest.batch_size
    graphs = [package.manifest.graphs[path] for path in rung.graphs.values()]
    for spec in chain.from_iterable(graph.inputs for graph in graphs):
        if spec.role not in (IMAGES, DRAW):
            continue
        views, _, *rest = spec.shape  # of a micro-batch, where the rung has them
        expected = (views, pictures, *rest)
        if batch[spec.name].shape != expected:
            raise EngineError(
                f"cannot run a step of rung {rung.id}: {spec.name!r} has the shape "
                f"{batch[spec.name].shape}; expected [views, {pictures}, ...]. The rung takes "
                f"{expected}."
            )
