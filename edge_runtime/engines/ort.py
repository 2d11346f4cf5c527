"""Engine `ort`: the step graph on any stock ONNX Runtime."""

from typing import Any

import numpy as np

from edge_runtime.engines.base import Batch, Closes, EngineSlot, Hyper, Metrics
from edge_runtime.engines.runtime import (
    load_onnxruntime,
    native_errors,
    runtime_name,
    session_options,
)
from edge_runtime.package import Package
from edge_runtime.package.manifest import DRAW, HYPER, IMAGES, METRIC, STATE, GraphSpec
from edge_runtime.state import State

NEXT = "next."  # prefix of a state tensor among the outputs


class OrtEngine(Closes):
    """Keeps the state in two sets of buffers: a step reads one and writes the other.

    Inputs and outputs are bound once per rung and direction, so that a step copies nothing but
    its batch; a step that fails leaves the state as it was.
    """

    name = "ort"

    def __init__(self, *, threads: int | None = None) -> None:
        self.runtime = runtime_name()
        self._threads = threads
        self._slot = EngineSlot(self.name)
        self._buffers: list[dict[str, Any]] = []
        self._current = 0
        self._rungs: dict[str, _BoundRung] = {}

    def open(self, package: Package, state: State) -> None:
        """See `Engine.open`."""
        self._slot.open(package)
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        # The runtime borrows an array's memory: each buffer owns a copy of its own.
        self._buffers = [
            {name: create(np.array(value, order="C")) for name, value in state.items()}
            for _ in range(2)
        ]
        self._current = 0

    def step(self, rung_id: str, batch: Batch, hyper: Hyper) -> Metrics:
        """See `Engine.step`."""
        package = self._slot.package("step")
        if rung_id not in self._rungs:
            self._rungs[rung_id] = _BoundRung(package, rung_id, self._buffers, self._threads)
        metrics = self._rungs[rung_id].run(self._current, batch, hyper)
        self._current = 1 - self._current
        return metrics

    def snapshot(self) -> State:
        """See `Engine.snapshot`."""
        self._slot.package("snapshot")
        current = self._buffers[self._current]
        return {name: value.numpy().copy() for name, value in current.items()}

    def close(self) -> None:
        """See `Engine.close`."""
        self._slot.close()
        self._rungs.clear()
        self._buffers.clear()


class _BoundRung:
    """The session of one rung with its two bindings: from buffer set 0 to 1, and back."""

    def __init__(
        self,
        package: Package,
        rung_id: str,
        buffers: list[dict[str, Any]],
        threads: int | None,
    ) -> None:
        path = package.rung(rung_id).step
        spec = package.manifest.graphs[path]
        self._rung_id = rung_id
        with native_errors(f"load {package.file(path)}"):
            self._session = load_onnxruntime().InferenceSession(
                str(package.file(path)),
                session_options(threads),
                providers=["CPUExecutionProvider"],
            )
        self._fed = {t.name: t.dtype for t in spec.inputs if t.role in (IMAGES, DRAW)}
        self._hyper = [t.name for t in spec.inputs if t.role == HYPER]
        self._metrics = [t.name for t in spec.outputs if t.role == METRIC]
        self._bindings = [self._bind(spec, buffers[i], buffers[1 - i]) for i in range(2)]

    def _bind(self, spec: GraphSpec, source: dict[str, Any], target: dict[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name in self._metrics:
            binding.bind_output(name)
        for tensor in spec.inputs:
            if tensor.role == STATE:
                binding.bind_ortvalue_input(tensor.name, source[tensor.name])
        for tensor in spec.outputs:
            if tensor.role == STATE:
                binding.bind_ortvalue_output(
                    tensor.name, target[tensor.name.removeprefix(NEXT)]
                )
        return binding

    def run(self, current: int, batch: Batch, hyper: Hyper) -> Metrics:
        """One step from buffer set `current` to the other one."""
        binding = self._bindings[current]
        fed = {
            name: np.ascontiguousarray(batch[name], kind) for name, kind in self._fed.items()
        }
        fed |= {name: np.array(hyper[name], np.float32) for name in self._hyper}
        with native_errors(f"run a step of rung {self._rung_id}"):
            for name, value in fed.items():
                binding.bind_cpu_input(name, value)
            self._session.run_with_iobinding(binding)
            outputs = binding.get_outputs()
        return {
            name: float(value.numpy())
            for name, value in zip(self._metrics, outputs, strict=False)
        }
