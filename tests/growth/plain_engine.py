"""An engine of one file: one session per graph, state as plain arrays, nothing bound."""

from typing import Any

import numpy as np

from edge_runtime.engines import EngineEntry
from edge_runtime.engines.base import BaseEngine, Batch, Hyper, StepResult
from edge_runtime.engines.devices import open_device
from edge_runtime.engines.session import open_session
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import APPLIED, METRIC, NEXT, STATE, STEP
from edge_runtime.state import Array, State


class PlainEngine(BaseEngine):
    """Feeds and fetches everything in every step."""

    name = "plain"
    runtime = "plain sessions"

    def __init__(
        self, *, device: str = "cpu", threads: int | None = None, forward_engine: str = "ort"
    ) -> None:
        super().__init__(self.name)
        self.device, self.threads = device, threads
        self._state: dict[str, Array] = {}
        self._sessions: dict[str, Any] = {}

    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        if rung is not None and STEP not in rung.graphs:
            return f"rung {rung.id} has no step graph"
        return None

    def open(self, package: Package, state: State) -> None:
        self._keep(package)
        self._state = {name: value.copy() for name, value in state.items()}

    def step(
        self, rung_id: str, batch: Batch, hyper: Hyper, following: Batch | None = None
    ) -> StepResult:
        package = self._require_open("step")
        graph = package.rung(rung_id).graphs[STEP]
        metrics = self._run(package, graph, batch, hyper)
        return StepResult(metrics, applied=bool(metrics.get(APPLIED, 1.0)))

    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        self._run(self._require_open("run a periodic graph"), graph, {}, hyper)

    def _run(
        self, package: Package, graph: str, batch: Batch, hyper: Hyper
    ) -> dict[str, float]:
        if graph not in self._sessions:
            self._sessions[graph] = open_session(
                package, graph, device=open_device(self.device), threads=self.threads
            )
        spec = package.manifest.graphs[graph]
        known = {**self._state, **batch}
        known |= {name: np.array(value, np.float32) for name, value in hyper.items()}
        names = [tensor.name for tensor in spec.outputs]
        feeds = {t.name: np.asarray(known[t.name], t.dtype, order="C") for t in spec.inputs}
        values = dict(zip(names, self._sessions[graph].run(names, feeds), strict=True))
        for tensor in spec.outputs:
            if tensor.role == STATE:
                self._state[tensor.name.removeprefix(NEXT)] = values[tensor.name]
        return {t.name: float(values[t.name]) for t in spec.outputs if t.role == METRIC}

    def snapshot(self) -> State:
        self._require_open("snapshot")
        return {name: value.copy() for name, value in self._state.items()}

    def state_view(self) -> State:
        return self.snapshot()

    def close(self) -> None:
        super().close()
        self._sessions.clear()


PLAIN = EngineEntry(create=PlainEngine, runtime=lambda device: PlainEngine.runtime)
