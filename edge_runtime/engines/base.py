"""The protocols of engines, which run graphs."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

from typing_extensions import Self

from edge_runtime.errors import EngineError
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.state import Array, State

_TRAINS_ALL = "ort"  # on a device that has the package's precision

Batch = Mapping[str, Array]  # graph input name -> images and draws
Hyper = Mapping[str, float]  # hyper-parameter name -> value of this step


class StepResult(NamedTuple):
    """The result of a training step."""

    metrics: Mapping[str, float]  # "loss", and other metrics of the objective
    applied: bool  # False: the update was skipped; only the loss scaling has changed
    loaded: bool = False  # the step has loaded its graphs: it took longer than others


class Engine(Protocol):
    """Runs training steps and owns the state between `open` and `close`.

    A context manager: leaving it closes it. `close` may be called twice. Every other call
    outside open..close raises `EngineError`. The rung is an argument of `step`: its graphs are
    loaded at its first step, and those of the previous rung may be freed then.
    """

    name: str
    runtime: str  # the runtime with its version: "onnxruntime 1.31.1"
    device: str  # "cpu"
    threads: int | None  # None: one per processor
    # Those that run encoders before a step, once open: the name of the first one first, joined
    # by "; " where they differ; None: the package has none
    forward_engine: str | None

    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        """Why it cannot train this package, or this rung of it; `None`: it can."""

    def open(self, package: Package, state: State) -> None:
        """Copy `state` to the device and prepare to train.

        Raises:
            EngineError: this engine cannot train this package, and why.
        """

    def step(
        self, rung_id: str, batch: Batch, hyper: Hyper, following: Batch | None = None
    ) -> StepResult:
        """Train one step and update the state.

        Args:
            rung_id: the rung.
            batch: images and draws.
            hyper: the step's hyper-parameters.
            following: images of the next step, if they are known: a delayed teacher computes
                their features meanwhile. They must stay as they are, and be the same arrays
                then. The result is the same without them.

        Raises:
            EngineError: the runtime failed. The state is that before the step; if that is
                lost, all later calls raise, too.
        """

    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        """Run one of the package's periodic graphs; buffers of the state change.

        Raises:
            EngineError: as of `step`.
        """

    def snapshot(self) -> State:
        """A copy of the present state, which never changes."""

    def state_view(self) -> State:
        """The present state, valid until the next step or periodic graph.

        Not a copy where possible: checkpoints are written from it, since memory is at its
        peak then.
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

    @property
    def images_per_run(self) -> int:
        """The graph runs on that many at once, or a multiple: fewer are filled up."""

    def open(self, package: Package, graph: str, weights: State) -> None:
        """Load a graph with its weights.

        Args:
            package: the package of the graph.
            graph: its path in the package.
            weights: by graph input name.

        Raises:
            EngineError: it cannot be loaded, or a graph is already open.
        """

    def set_weights(self, weights: State) -> None:
        """Replace the weights by copies of these, which may change afterwards.

        Args:
            weights: by graph input name, with the dtypes and shapes of those before.

        Raises:
            EngineError: they cannot be copied to the device.
        """

    def run(self, images: Array) -> Array:
        """Features of images.

        Args:
            images: uint8 [images, size, size, 3], RGB; any number of images.

        Returns:
            float32 [images, width].

        Raises:
            EngineError: images of another size or dtype, or the runtime failed.
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


def require_images(images: Array) -> None:
    """Refuse images of floats, which would lose their fractions or more.

    Raises:
        EngineError: they are not uint8.
    """
    if images.dtype != "uint8":
        raise EngineError(f"cannot embed images of {images.dtype}; expected uint8, 0 to 255.")


def require_supported(engine: Engine, package: Package, rung: Rung | None = None) -> None:
    """Raise unless the engine can train the package, or this rung of it.

    Raises:
        EngineError: it cannot, and why; the message names the rungs that it can train.
    """
    if (reason := engine.unsupported_reason(package, rung)) is None:
        return
    rungs = package.manifest.rungs if rung is not None else ()
    others = [each.id for each in rungs if engine.unsupported_reason(package, each) is None]
    instead = f", or rung {' or '.join(others)}" if others else ""
    cure = f" Use engine {_TRAINS_ALL}{instead}." if engine.name != _TRAINS_ALL else ""
    raise refusal(engine, package, reason, cure)


def refusal(engine: Engine, package: Package, reason: str, cure: str = "") -> EngineError:
    """The error of an engine that does not train a package."""
    return EngineError(f"engine {engine.name} cannot train {package.path}: {reason}.{cure}")


def supported_rungs(
    engine: Engine,
    package: Package,
    rungs: Sequence[Rung],
    report: Callable[[str], None] = lambda _: None,
) -> list[Rung]:
    """Those of the rungs that the engine can train; each other one is reported.

    Raises:
        EngineError: it can train none.
    """
    require_supported(engine, package)
    supported = []
    for rung in rungs:
        reason = engine.unsupported_reason(package, rung)
        if reason is None:
            supported.append(rung)
        else:
            report(f"without rung {rung.id}: engine {engine.name} cannot train it: {reason}")
    if not supported:
        require_supported(engine, package, rungs[0])
    return supported


class BaseEngine:
    """A context manager that keeps a package between `open` and `close`."""

    forward_engine: str | None = None

    def __init__(self, label: str) -> None:
        """`label` is its name in messages."""
        self._label = label
        self._package: Package | None = None
        self._why_not_open = "not opened yet"

    def _keep(self, package: Package) -> None:
        """Open with this package.

        Raises:
            EngineError: a package is already open.
        """
        if self._package is not None:
            raise EngineError(f"engine {self._label} cannot open: it is already open.")
        self._package = package

    def _require_open(self, action: str) -> Package:
        """The open package.

        Raises:
            EngineError: no package is open.
        """
        if self._package is None:
            raise EngineError(
                f"engine {self._label} cannot {action}: it is {self._why_not_open}."
            )
        return self._package

    def close(self) -> None:
        """Free everything; may be called twice."""
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
