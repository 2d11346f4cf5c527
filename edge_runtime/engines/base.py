"""The seams between the rest of edge-train and what runs graphs."""

from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Protocol

from typing_extensions import Self

from edge_runtime.errors import EngineError
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.state import Array, State

Batch = Mapping[str, Array]  # graph input name -> images and draws
Hyper = Mapping[str, float]  # hyper-parameter name -> value of this step


class StepResult(NamedTuple):
    """What a training step gives."""

    metrics: Mapping[str, float]  # "loss", and what else the objective reports
    applied: bool  # False: the update was skipped, and the state is as before


class Engine(Protocol):
    """Runs training steps and owns the state between `open` and `close`.

    A context manager: leaving it closes it. `close` may be called twice. Every other call
    outside open..close raises `EngineError`. The rung is an argument of `step`: its graphs are
    loaded when it is used, and those of the rung before may be freed then.
    """

    name: str
    runtime: str  # what runs it, with its version: "onnxruntime 1.31.1"
    device: str  # "cpu"
    threads: int | None  # None: as many as there are processors

    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        """Why it cannot train this package, or this rung of it; `None`: it can."""

    def open(self, package: Package, state: State) -> None:
        """Copy `state` to the device and get ready.

        Raises:
            EngineError: this engine cannot train this package, and why.
        """

    def step(self, rung_id: str, batch: Batch, hyper: Hyper) -> StepResult:
        """Train one step; the state moves on.

        Raises:
            EngineError: the runtime failed. The state is that before the step, or, where
                that is lost, all later calls raise, too.
        """

    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        """Run one of the package's periodic graphs; buffers of the state change.

        Raises:
            EngineError: as of `step`.
        """

    def snapshot(self) -> State:
        """A copy of the state now. It never changes afterwards."""

    def state_view(self) -> State:
        """The state now, to read before the next step or periodic graph.

        Without a copy where that is possible: a checkpoint is written from it, and there
        memory is at its peak.
        """

    def close(self) -> None:
        """Free everything."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ForwardEngine(Protocol):
    """Runs a graph without gradient: features of images.

    A context manager: leaving it closes it. `close` may be called twice; `run` outside
    open..close raises `EngineError`.
    """

    name: str
    runtime: str
    device: str

    def open(self, package: Package, graph: str, weights: State) -> None:
        """Load a graph with its weights.

        Args:
            package: holds it.
            graph: its path in the package.
            weights: by graph input name.

        Raises:
            EngineError: it cannot be loaded, or one is open already.
        """

    def run(self, images: Array) -> Array:
        """Features of images.

        Args:
            images: uint8 [images, size, size, 3], RGB; any number of images.

        Returns:
            float32 [images, width].
        """

    def close(self) -> None:
        """Free everything."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BaseEngine:
    """Holds a package between `open` and `close`; leaving its `with` closes it."""

    def __init__(self, label: str) -> None:
        """`label` is its name in messages."""
        self._label = label
        self._package: Package | None = None
        self._why_not_open = "not opened yet"

    def _hold(self, package: Package) -> None:
        """Be open.

        Raises:
            EngineError: it is already.
        """
        if self._package is not None:
            raise EngineError(f"engine {self._label} cannot open: it is open already.")
        self._package = package

    def _require_open(self, action: str) -> Package:
        """The package that is held.

        Raises:
            EngineError: none is.
        """
        if self._package is None:
            raise EngineError(
                f"engine {self._label} cannot {action}: it is {self._why_not_open}."
            )
        return self._package

    def close(self) -> None:
        """Free everything; twice is fine."""
        if self._package is not None:
            self._package, self._why_not_open = None, "already closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
