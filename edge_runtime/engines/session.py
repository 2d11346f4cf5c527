"""One graph in ONNX Runtime: the only place that creates sessions, and their inputs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.engines.base import Batch, Hyper
from edge_runtime.engines.runtime import load_onnxruntime, native_errors, session_options
from edge_runtime.package import Package
from edge_runtime.package.manifest import GraphSpec, TensorSpec
from edge_runtime.package.names import DRAW, HYPER, IMAGES, METRIC, NEXT, STATE, SUM

PROVIDERS = {"cpu": ("CPUExecutionProvider",)}  # by device

Find = Callable[[str], Any]  # tensor name -> value of the runtime


def open_session(
    path: Path, *, device: str, threads: int | None, spinning: bool = False
) -> Any:
    """Load a graph; `spinning` pays for one that is run step by step on a quiet machine.

    Raises:
        EngineError: the runtime is missing or cannot load it.
    """
    with native_errors(f"load {path}"):
        return load_onnxruntime().InferenceSession(
            str(path),
            session_options(threads, spinning=spinning),
            providers=list(PROVIDERS[device]),
        )


class GraphSession:
    """A graph of a package, bound to tensors in place."""

    def __init__(
        self,
        package: Package,
        path: str,
        *,
        device: str,
        threads: int | None,
        spinning: bool,
    ) -> None:
        self.spec: GraphSpec = package.manifest.graphs[path]
        self._session = open_session(
            package.file(path), device=device, threads=threads, spinning=spinning
        )
        self._fed = {t.name: t.dtype for t in self._inputs(IMAGES, DRAW)}
        self._hyper = [tensor.name for tensor in self._inputs(HYPER)]
        self._metrics = [t.name for t in self.spec.outputs if t.role == METRIC]
        self.read_state = [tensor.name for tensor in self._inputs(STATE)]
        self.written_state = [
            t.name.removeprefix(NEXT) for t in self.spec.outputs if t.role == STATE
        ]

    def _inputs(self, *roles: str) -> list[TensorSpec]:
        return [tensor for tensor in self.spec.inputs if tensor.role in roles]

    def bind(self, source: Find, target: Find, sums: Mapping[str, Any] | None = None) -> Any:
        """Bind state and sums to memory.

        Args:
            source: value to read for a state tensor.
            target: value to write its next value to.
            sums: sums over micro-batches, read and written in place.
        """
        sums = sums or {}
        binding = self._session.io_binding()
        for name in self._metrics:
            binding.bind_output(name)
        for tensor in self._inputs(STATE, SUM):
            value = sums[tensor.name] if tensor.role == SUM else source(tensor.name)
            binding.bind_ortvalue_input(tensor.name, value)
        for tensor in self.spec.outputs:
            name = tensor.name.removeprefix(NEXT)
            if tensor.role in (STATE, SUM):
                value = sums[name] if tensor.role == SUM else target(name)
                binding.bind_ortvalue_output(tensor.name, value)
        return binding

    def run(self, binding: Any, batch: Batch, hyper: Hyper) -> dict[str, float]:
        """Run with this batch and these hyper-parameters; returns the metrics."""
        for name, dtype in self._fed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(batch[name], dtype))
        for name in self._hyper:
            binding.bind_cpu_input(name, np.array(hyper[name], np.float32))
        self._session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        return {
            name: float(value.numpy())
            for name, value in zip(self._metrics, outputs, strict=False)
        }
