"""One graph in ONNX Runtime: the only place that creates sessions, and their inputs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from edge_runtime.engines.base import Batch, Hyper
from edge_runtime.engines.devices import Device, Tensors
from edge_runtime.engines.runtime import native_errors, session_options
from edge_runtime.errors import EngineError
from edge_runtime.package import Package
from edge_runtime.package.manifest import GraphSpec, TensorSpec
from edge_runtime.package.names import DRAW, HYPER, IMAGES, METRIC, NEXT, STATE, SUM, TARGET
from edge_runtime.state import Array

_TYPES = {"float32": "float", "float64": "double"}  # the runtime's names, where they differ

Find = Callable[[str], Any]  # tensor name -> value of the runtime


def open_session(
    package: Package,
    graph: str,
    *,
    device: Device,
    threads: int | None,
    spinning: bool = False,
) -> Any:
    """Load a graph of a package; `spinning` pays for one that is run step by step.

    Raises:
        EngineError: the runtime is missing or cannot load it, or it has other inputs or
            outputs than the manifest says.
    """
    path = package.file(graph)
    with native_errors(f"load {path}"):
        session = device.create_session(path, session_options(threads, spinning=spinning))
    require_described(package, graph, session.get_inputs(), session.get_outputs())
    return session


def type_name(dtype: str) -> str:
    """The runtime's name of a tensor's type."""
    return f"tensor({_TYPES.get(dtype, dtype)})"


def require_described(
    package: Package, graph: str, inputs: Iterable[Any], outputs: Iterable[Any]
) -> None:
    """Refuse a graph that is not that of the manifest.

    Args:
        package: of the graph.
        graph: its path in the package.
        inputs: of the loaded graph, each with `name`, `type` and `shape`, as the runtime's.
        outputs: likewise.

    Raises:
        EngineError: a tensor is missing, unknown or of another type.
    """
    spec = package.manifest.graphs[graph]
    for what, specs, found in (
        ("input", spec.inputs, inputs),
        ("output", spec.outputs, outputs),
    ):
        if problem := _difference(specs, found):
            raise EngineError(
                f"{package.file(graph)} is not the graph of the manifest: {what} {problem}. "
                "Export the package again."
            )


def _difference(specs: Iterable[TensorSpec], found: Iterable[Any]) -> str | None:
    """How the tensors of a session differ from those of the manifest, if they do."""
    given, expected = {each.name: each for each in found}, {spec.name: spec for spec in specs}
    for name in sorted(given.keys() ^ expected.keys()):
        return f"{name!r} is {'unknown' if name in given else 'missing'}"
    for name, spec in expected.items():
        kind = type_name(spec.dtype)
        if given[name].type != kind or not _fits(given[name].shape, spec.shape):
            actual = f"{given[name].type} {given[name].shape}"
            return f"{name!r} is {actual}, expected {kind} {list(spec.shape)}"
    return None


def _fits(actual: Sequence[object], expected: Sequence[int | None]) -> bool:
    """Whether sizes agree where both are known; of an unknown shape, the runtime says []."""
    if not actual:
        return True
    known = [(a, b) for a, b in zip(actual, expected, strict=False) if isinstance(a, int)]
    return len(actual) == len(expected) and all(b is None or a == b for a, b in known)


class GraphSession:
    """A graph of a package, bound to tensors in place.

    A run writes its inputs into memory that was bound before; the caller's is free afterwards.
    """

    def __init__(
        self,
        package: Package,
        path: str,
        *,
        device: Device,
        threads: int | None,
        spinning: bool,
    ) -> None:
        self.spec: GraphSpec = package.manifest.graphs[path]
        self._session = open_session(
            package, path, device=device, threads=threads, spinning=spinning
        )
        self._fed = {
            tensor.name: tensor for tensor in self._inputs(IMAGES, TARGET, DRAW, HYPER)
        }
        self._fed_tensors = device.tensors(arrays_like(self._fed.values()))
        measured = [tensor for tensor in self.spec.outputs if tensor.role == METRIC]
        self._metric_names = [tensor.name for tensor in measured]
        self._metrics = device.tensors(arrays_like(measured))
        self.read_state = [tensor.name for tensor in self._inputs(STATE)]
        self.written_state = [
            t.name.removeprefix(NEXT) for t in self.spec.outputs if t.role == STATE
        ]

    def _inputs(self, *roles: str) -> list[TensorSpec]:
        return [tensor for tensor in self.spec.inputs if tensor.role in roles]

    def bind(self, source: Find, target: Find, sums: Tensors | None = None) -> Any:
        """Bind state and sums to memory.

        Args:
            source: value to read for a state tensor.
            target: value to write its next value to.
            sums: sums over micro-batches, read and written in place.
        """
        binding = self._session.io_binding()
        for name in self._fed:
            binding.bind_ortvalue_input(name, self._fed_tensors.value(name))
        for name in self._metric_names:
            binding.bind_ortvalue_output(name, self._metrics.value(name))
        for tensor in self._inputs(STATE, SUM):
            find = sums.value if sums is not None and tensor.role == SUM else source
            binding.bind_ortvalue_input(tensor.name, find(tensor.name))
        for tensor in self.spec.outputs:
            name = tensor.name.removeprefix(NEXT)
            if tensor.role in (STATE, SUM):
                find = sums.value if sums is not None and tensor.role == SUM else target
                binding.bind_ortvalue_output(tensor.name, find(name))
        return binding

    def run(self, binding: Any, batch: Batch, hyper: Hyper) -> dict[str, float]:
        """Run with this batch and these hyper-parameters; returns the metrics."""
        for name, spec in self._fed.items():
            given = hyper[name] if spec.role == HYPER else batch[name]
            self._fed_tensors.write(name, np.asarray(given, spec.dtype))
        self._session.run_with_iobinding(binding)
        return {name: float(self._metrics.read(name)) for name in self._metric_names}


def arrays_like(specs: Iterable[TensorSpec]) -> dict[str, Array]:
    """Arrays of the dtypes and shapes of tensors; their elements are not set."""
    return {
        spec.name: np.empty([size or 0 for size in spec.shape], spec.dtype) for spec in specs
    }
