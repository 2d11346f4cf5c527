"""Engine `ort`: step graphs, or micro-batches and their optimizer, on stock ONNX Runtime."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from edge_runtime.engines.base import Batch, Closes, EngineSlot, Hyper, Metrics
from edge_runtime.engines.buffers import Buffers, mapped_zeros
from edge_runtime.engines.runtime import (
    load_onnxruntime,
    native_errors,
    release_free_memory,
    runtime_name,
    session_options,
)
from edge_runtime.errors import EngineError
from edge_runtime.package import Package
from edge_runtime.package.manifest import DRAW, GRADIENT, HYPER, IMAGES, METRIC, STATE, Rung
from edge_runtime.package.references import NEXT
from edge_runtime.state import State


class OrtEngine(Closes):
    """Keeps the state in two sets of buffers: a step reads one and writes the other.

    Inputs and outputs are bound once per direction, so that a step copies nothing but its
    batch; a step that fails leaves the state as it was. One rung is loaded at a time: a run
    takes the memory of its largest rung, and a step down gives memory back.
    """

    name = "ort"

    def __init__(self, *, threads: int | None = None) -> None:
        # Not later: an import that fails inside the runtime may keep its callers' variables.
        load_onnxruntime()
        self.runtime = runtime_name()
        self.threads = threads
        self._slot = EngineSlot(self.name)
        self._buffers: list[Buffers] = []
        self._current = 0
        self._loaded: _Loaded | None = None

    def open(self, package: Package, state: State) -> None:
        """See `Engine.open`."""
        self._slot.open(package)
        # The second set takes no memory before the first step writes it.
        self._buffers = [Buffers(state), Buffers(state)]
        for name, array in self._buffers[0].arrays.items():
            array[...] = state[name]
        self._current = 0

    def step(self, rung_id: str, batch: Batch, hyper: Hyper) -> Metrics:
        """See `Engine.step`."""
        rung = self._load(self._slot.package("step"), rung_id)
        with native_errors(f"run a step of rung {rung_id}"):
            metrics = rung.run(self._current, batch, hyper)
        self._current = 1 - self._current
        return metrics

    def _load(self, package: Package, rung_id: str) -> "_Loaded":
        rung = package.rung(rung_id)
        if self._loaded is None or self._loaded.rung_id != rung_id:
            self._loaded = None  # its memory is free before the next one's is taken
            kind = _WholeBatch if rung.accumulate is None else _MicroBatches
            self._loaded = kind(package, rung, self._buffers, self.threads)
            release_free_memory()
        return self._loaded

    def snapshot(self) -> State:
        """See `Engine.snapshot`."""
        self._slot.package("snapshot")
        current = self._buffers[self._current].arrays
        copy = mapped_zeros(current)
        for name, array in copy.items():
            array[...] = current[name]
        return copy

    def lend(self) -> State:
        """See `Engine.lend`."""
        self._slot.package("lend the state")
        return self._buffers[self._current].arrays

    def close(self) -> None:
        """See `Engine.close`."""
        self._slot.close()
        self._loaded = None
        self._buffers.clear()


class _Loaded(Protocol):
    """A rung that is ready to run."""

    rung_id: str

    def run(self, current: int, batch: Batch, hyper: Hyper) -> Metrics:
        """One step from buffer set `current` to the other one."""


class _WholeBatch:
    """The step graph with its two bindings: from buffer set 0 to 1, and back."""

    def __init__(
        self, package: Package, rung: Rung, buffers: list[Buffers], threads: int | None
    ) -> None:
        self.rung_id = rung.id
        self._step = _Graph(package, str(rung.step), threads)
        values = [buffer.values for buffer in buffers]
        self._bindings = [self._step.bind(values[i], values[1 - i]) for i in range(2)]

    def run(self, current: int, batch: Batch, hyper: Hyper) -> Metrics:
        """See `_Loaded.run`."""
        return self._step.run(self._bindings[current], batch, hyper)


class _MicroBatches:
    """`accumulate` once for each micro-batch, then `apply`.

    Gradients have one set of buffers, which is input and output of `accumulate` in one: each
    sum reads its own element and writes it, as ONNX Runtime does where it reuses memory.
    """

    def __init__(
        self, package: Package, rung: Rung, buffers: list[Buffers], threads: int | None
    ) -> None:
        self.rung_id = rung.id
        self._micro_batch = int(rung.micro_batch or 0)
        self._batch_size = package.manifest.batch_size
        self._accumulate = _Graph(package, str(rung.accumulate), threads)
        self._apply = _Graph(package, str(package.manifest.apply), threads)
        parameters = {
            t.name: np.empty(tuple(size or 0 for size in t.shape), t.dtype)
            for t in self._accumulate.spec.inputs
            if t.role == GRADIENT
        }
        self._gradients = Buffers(parameters)
        summed = self._gradients.values
        values = [buffer.values for buffer in buffers]
        self._sums = [self._accumulate.bind({**v, **summed}, summed) for v in values]
        self._updates = [
            self._apply.bind({**values[i], **summed}, values[1 - i]) for i in range(2)
        ]

    def run(self, current: int, batch: Batch, hyper: Hyper) -> Metrics:
        """See `_Loaded.run`; metrics are means over the micro-batches."""
        self._check(batch)
        self._gradients.clear()
        found: list[Metrics] = []
        for start in range(0, self._batch_size, self._micro_batch):
            end = start + self._micro_batch
            part = {name: value[:, start:end] for name, value in batch.items()}
            found.append(self._accumulate.run(self._sums[current], part, hyper))
        self._apply.run(self._updates[current], {}, hyper)
        return {name: sum(m[name] for m in found) / len(found) for name in found[0]}

    def _check(self, batch: Batch) -> None:
        for name, value in batch.items():
            if value.shape[1:2] != (self._batch_size,):
                raise EngineError(
                    f"cannot run a step of rung {self.rung_id}: {name!r} has the shape "
                    f"{value.shape}; want [views, {self._batch_size}, ...]."
                )


class _Graph:
    """A session and what it is fed at each run."""

    def __init__(self, package: Package, path: str, threads: int | None) -> None:
        self.spec = package.manifest.graphs[path]
        with native_errors(f"load {package.file(path)}"):
            self._session = load_onnxruntime().InferenceSession(
                str(package.file(path)),
                session_options(threads),
                providers=["CPUExecutionProvider"],
            )
        inputs, outputs = self.spec.inputs, self.spec.outputs
        self._fed = {t.name: t.dtype for t in inputs if t.role in (IMAGES, DRAW)}
        self._hyper = [t.name for t in inputs if t.role == HYPER]
        self._metrics = [t.name for t in outputs if t.role == METRIC]

    def bind(self, source: Mapping[str, Any], target: Mapping[str, Any]) -> Any:
        """Tie state and gradients to buffers: read from `source`, written to `target`."""
        binding = self._session.io_binding()
        for name in self._metrics:
            binding.bind_output(name)
        for tensor in self.spec.inputs:
            if tensor.role in (STATE, GRADIENT):
                binding.bind_ortvalue_input(tensor.name, source[tensor.name])
        for tensor in self.spec.outputs:
            if tensor.role in (STATE, GRADIENT):
                binding.bind_ortvalue_output(
                    tensor.name, target[tensor.name.removeprefix(NEXT)]
                )
        return binding

    def run(self, binding: Any, batch: Batch, hyper: Hyper) -> Metrics:
        """Run with this batch and these hyper-parameters; gives the metrics."""
        fed = {
            name: np.ascontiguousarray(batch[name], kind) for name, kind in self._fed.items()
        }
        fed |= {name: np.array(hyper[name], np.float32) for name in self._hyper}
        for name, value in fed.items():
            binding.bind_cpu_input(name, value)
        self._session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        return {
            name: float(value.numpy())
            for name, value in zip(self._metrics, outputs, strict=False)
        }
