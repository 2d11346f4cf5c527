"""Scores of an encoder: trained and untrained, on the same pictures."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from edge_runtime.data import (
    FrameSource,
    PictureSource,
    centred_decoding_bytes,
    require_labels,
)
from edge_runtime.engines import ForwardEngine, ForwardOptions, encoder_state_names
from edge_runtime.engines.forward import engine_text
from edge_runtime.engines.runtime import load_onnxruntime, release_free_memory
from edge_runtime.evaluation.features import (
    Features,
    label_mapping,
    labelled_features,
    open_encoder,
)
from edge_runtime.evaluation.knn import knn_accuracy
from edge_runtime.evaluation.linear import linear_accuracy
from edge_runtime.evaluation.room import (
    EvaluationAmounts,
    decoding_limit,
    fitting_batch_size,
)
from edge_runtime.facts.devices import AUTO, CPU
from edge_runtime.package import Package
from edge_runtime.state import State

logger = logging.getLogger(__name__)


class Accuracies(NamedTuple):
    """Accuracies on the test pictures, in [0, 1]."""

    accuracy: float
    untrained_accuracy: float  # of the initial state


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The result of an evaluation."""

    train_pictures: int
    test_pictures: int
    classes: int
    knn: Accuracies
    linear: Accuracies | None  # None: not requested
    device: str  # on which the encoder ran
    forward_engine: str  # that ran it, its name first: "ort, onnxruntime 1.31.1 on cpu"


def evaluate(
    package: Package,
    state: State,
    train: PictureSource | FrameSource,
    test: PictureSource | FrameSource,
    *,
    linear: bool = False,
    device: str = CPU,
    forward_engine: str = AUTO,
    threads: int | None = None,
    report: Callable[[str], None] = logger.warning,
) -> Scores:
    """Score the encoder of `state`, and that of the package's initial state.

    Args:
        package: what the state was trained from.
        state: of the encoder.
        train: pictures to fit the classifiers.
        test: pictures to score them.
        linear: also fit a linear probe.
        device: on which the encoder runs.
        forward_engine: that runs it: "ort", "tensorrt", which takes an NVIDIA GPU in any
            case, or "auto": tensorrt where it is installed, has a GPU and gives the features
            of ort, otherwise ort. TensorRT may build an engine first, in minutes.
        threads: as of `extract_features`.
        report: called with a line of text about that.

    Raises:
        DataError: no labels, other classes, or more than 5 % of the pictures unreadable.
        DeviceError: it does not fit into the memory that is left.
        EngineError: the forward engine that is named cannot be used.
    """
    mapping = label_mapping(require_labels(train), require_labels(test))
    load_onnxruntime()  # its memory counts as held
    amounts = EvaluationAmounts(
        train_pictures=len(require_labels(train)),
        test_pictures=len(require_labels(test)),
        classes=len(mapping),
        linear=linear,
        decoding_bytes=max(
            centred_decoding_bytes(
                source, package.manifest.model.image_size_px, threads=threads
            )
            for source in (train, test)
        ),
    )
    batch_size = fitting_batch_size(package, amounts)
    limit = decoding_limit(package, amounts, batch_size)
    names = encoder_state_names(package)

    options = ForwardOptions(device=device, threads=threads, report=report)

    def score(read_state: Callable[[], State], name: str) -> _Score:
        with open_encoder(package, read_state, name, options) as engine:
            fitted, scored = (
                labelled_features(
                    engine,
                    package,
                    source,
                    threads=threads,
                    batch_size=batch_size,
                    decoding_limit_bytes=limit,
                )
                for source in (train, test)
            )
        labelled = scored._replace(labels=mapping[scored.labels])
        return _score(engine, fitted, labelled, linear=linear)

    # One after the other: the features of the first are dropped before the second is read.
    trained = score(lambda: state, forward_engine)
    untrained = score(partial(package.initial_state, names), trained.engine.name)
    return Scores(
        train_pictures=trained.train_pictures,
        test_pictures=trained.test_pictures,
        classes=len(mapping),
        knn=Accuracies(trained.knn, untrained.knn),
        linear=_accuracies(trained.linear, untrained.linear),
        device=trained.engine.device,
        forward_engine=engine_text(trained.engine),
    )


class _Score(NamedTuple):
    """Of one encoder. Pictures that could be read; accuracies in [0, 1]."""

    engine: ForwardEngine  # closed
    train_pictures: int
    test_pictures: int
    knn: float
    linear: float | None


def _score(
    engine: ForwardEngine, fitted: Features, scored: Features, *, linear: bool
) -> _Score:
    release_free_memory()  # of the graph
    knn = knn_accuracy(*fitted, *scored)
    release_free_memory()
    return _Score(
        engine=engine,
        train_pictures=len(fitted.labels),
        test_pictures=len(scored.labels),
        knn=knn,
        linear=linear_accuracy(*fitted, *scored) if linear else None,
    )


def _accuracies(trained: float | None, untrained: float | None) -> Accuracies | None:
    if trained is None or untrained is None:
        return None
    return Accuracies(trained, untrained)
