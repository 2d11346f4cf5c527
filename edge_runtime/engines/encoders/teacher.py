"""The EMA teacher of a package whose step graphs do not contain it.

A forward engine computes its features. With a delay of one step it may do so on a thread while
the step before runs: step t takes features by the teacher after step t - 2, which is known
before step t - 1 begins. The state has that teacher beside the present one, so that features
which nobody computed ahead are computed in the step, with the same bytes: the first of a
process, those of a repeated step, or all of them.
"""

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from edge_runtime.engines.base import Batch, ForwardEngine
from edge_runtime.engines.encoders.view_features import ViewFeatures, encoder_errors
from edge_runtime.engines.forward import ForwardOptions, engine_text, open_forward_engine
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.manifest import TeacherFirst
from edge_runtime.package.names import EMA, TEACHER_PREFIX
from edge_runtime.state import Array, State

Read = Callable[[Collection[str]], State]  # names -> present values of the state


class _Ahead(NamedTuple):
    """Features that a thread computes, and the images that they are of."""

    images: tuple[Array, ...]
    features: Future[Batch]


class Teacher:
    """Adds the teacher's features to batches; where step graphs contain it, nothing.

    Its forward engine holds a copy of the weights: a step may change the state meanwhile. At
    most one batch is computed ahead.
    """

    def __init__(
        self, package: Package, name: str, options: ForwardOptions, read: Read
    ) -> None:
        """Load the teacher.

        Args:
            package: with or without a teacher before its steps.
            name: of the forward engine, or "auto".
            options: of the forward engine. With a delay, engine ort takes the processor
                whatever the device: a GPU that trains has no time left for the teacher.
            read: returns tensors of the present state, by state name; they may change as soon
                as a step runs.

        Raises:
            EngineError: it cannot be loaded.
            NoMemoryError: there is too little memory for it.
        """
        self._facts: TeacherFirst | None = package.manifest.teacher_first
        self._engine: ForwardEngine | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: _Ahead | None = None
        if self._facts is None:
            return
        self._read = read
        self._names = [spec.name for spec in package.manifest.teacher_weights]
        graph, delayed = self._facts.graph, bool(self._facts.delay)
        # Between its runs the processors belong to the step
        options = replace(options, may_spin=False, ort_on_cpu=delayed)
        weights = self._weights(self._facts.prefix)
        self._engine = open_forward_engine(package, graph, weights, name, options)
        groups = self._facts.groups
        self._views = ViewFeatures(self._engine, package, graph, groups, TEACHER_PREFIX)
        if delayed:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="edge-train-teacher")

    @property
    def engine_name(self) -> str | None:
        """Of the forward engine; `None`: step graphs contain the teacher."""
        return None if self._engine is None else self._engine.name

    def engine_text(self) -> str | None:
        """The forward engine as it is recorded; `None`: step graphs contain the teacher."""
        return None if self._engine is None else engine_text(self._engine)

    @property
    def shares_processor(self) -> bool:
        """Whether it computes on the processor while a step runs."""
        return (
            self._thread is not None
            and self._engine is not None
            and self._engine.device == CPU
        )

    def added_to(self, batch: Batch, following: Batch | None = None) -> Batch:
        """The batch with the teacher's features, to be called right before its step.

        Args:
            batch: of the step.
            following: of the next step, if it is known: computed ahead where there is a delay.

        Raises:
            EncoderError: the forward engine failed, now or while the step before ran.
            EncoderMemoryError: likewise, for lack of memory.
            EngineError: the state cannot be read.
        """
        if self._engine is None or self._facts is None:
            return batch
        features = self._taken(batch)
        if features is None:
            self._take_weights(self._engine, self._facts.prefix)
            features = self._views.of(batch)
        if self._thread is not None and following is not None:
            self._take_weights(self._engine, EMA)  # late after this step
            computed = self._thread.submit(self._views.of, following)
            self._ahead = _Ahead(self._views.images(following), computed)
        return {**batch, **features}

    def _taken(self, batch: Batch) -> Batch | None:
        """The features that were computed ahead, if they are those of this batch."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        features = ahead.features.result()  # in any case: the engine must be free
        given = zip(ahead.images, self._views.images(batch), strict=True)
        return features if all(a is b for a, b in given) else None

    def _take_weights(self, engine: ForwardEngine, prefix: str) -> None:
        weights = self._weights(prefix)  # an error of these is not the encoder's
        with encoder_errors(engine):
            engine.set_weights(weights)

    def _weights(self, prefix: str) -> State:
        """The encoder's present weights with this prefix, by graph input name."""
        values = self._read([prefix + name for name in self._names])
        return {name: values[prefix + name] for name in self._names}

    def close(self) -> None:
        """Wait for what is being computed, and free everything."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        if self._engine is not None:
            self._engine.close()
        self._ahead = None
