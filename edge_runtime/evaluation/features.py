"""Frozen features of labelled pictures, and the mapping between two sets of classes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data import (
    FrameSource,
    LabelledSource,
    PictureSource,
    labelled_batches,
    require_labels,
)
from edge_runtime.engines import (
    ForwardEngine,
    ForwardOptions,
    encoder_weights,
    open_forward_engine,
)
from edge_runtime.engines.runtime import release_free_memory
from edge_runtime.errors import DataError, DivergedError
from edge_runtime.facts.devices import AUTO
from edge_runtime.package import Package
from edge_runtime.state import State

BATCH_SIZE = 64
NAMED_CLASSES = 5  # in a message


class Features(NamedTuple):
    """Features of N pictures, and their classes."""

    values: NDArray[np.float32]  # (N, width)
    labels: NDArray[np.int64]  # (N,) indices into the source's classes


def extract_features(
    package: Package,
    state: State,
    source: PictureSource | FrameSource,
    *,
    forward_engine: str = AUTO,
    threads: int | None,
    batch_size: int = BATCH_SIZE,
) -> Features:
    """Features of every readable picture's centre view, in the source's order.

    Args:
        package: its embedding graph is run.
        state: its tensors after `Manifest.encoder_prefix` are the weights.
        source: pictures with labels.
        forward_engine: see `open_encoder`.
        threads: of decoding and of the graph; `None` lets each choose.
        batch_size: pictures per call of the graph; affects memory, not the result.

    Raises:
        DataError: the source has no labels, or more than 5 % of its pictures cannot be read.
        EngineError: no runtime is installed, or it failed.
        DivergedError: the features are not finite.
    """
    options = ForwardOptions(threads=threads)
    with open_encoder(package, lambda: state, forward_engine, options) as engine:
        return embed(engine, package, source, threads=threads, batch_size=batch_size)


@contextmanager
def open_encoder(
    package: Package,
    read_state: Callable[[], State],
    forward_engine: str,
    options: ForwardOptions,
) -> Iterator[ForwardEngine]:
    """The embedding graph of a package, with weights.

    Args:
        package: its graph is opened.
        read_state: the state, read here and not kept: the engine has a copy of its encoder.
        forward_engine: its name, or "auto": tensorrt where it is installed, has a GPU and
            gives the features of ort, otherwise ort.
        options: of the forward engine.

    Raises:
        ConfigError: an unknown forward engine or device.
        EngineError: no runtime is installed, or it failed.
    """
    weights = encoder_weights(package, read_state(), threads=options.threads)
    graph = package.manifest.embed
    with open_forward_engine(package, graph, weights, forward_engine, options) as engine:
        del weights
        release_free_memory()
        yield engine


def embed(
    engine: ForwardEngine,
    package: Package,
    source: PictureSource | FrameSource,
    *,
    threads: int | None,
    batch_size: int,
    decoding_limit_bytes: int | None = None,
) -> Features:
    """Features of every readable picture, by an opened encoder; as `extract_features`.

    `decoding_limit_bytes` is that of `labelled_batches`.
    """
    labelled, model = require_labels(source), package.manifest.model
    # Not a list of parts, which would be in memory twice when it is joined.
    values = np.empty((len(labelled), model.width), np.float32)
    labels = np.empty(len(labelled), np.int64)
    end = 0
    for images, classes in labelled_batches(
        source,
        model.image_size_px,
        batch_size,
        threads=threads,
        decoding_limit_bytes=decoding_limit_bytes,
    ):
        begin, end = end, end + len(classes)
        values[begin:end], labels[begin:end] = engine.run(images), classes
    if not np.isfinite(values[:end]).all():
        raise DivergedError(
            f"the encoder of {package.path} gives features that are not finite numbers for "
            f"{source.name}: its training diverged. Evaluate an earlier checkpoint."
        )
    return Features(values[:end], labels[:end])


def label_mapping(train: LabelledSource, test: LabelledSource) -> NDArray[np.int64]:
    """Index of each class of `test` among those of `train`, by name.

    Raises:
        DataError: their classes differ.
    """
    known = list(train.classes)
    if different := sorted(set(known) ^ set(test.classes)):
        named = [
            f"{name!r} only in {(train if name in known else test).name}"
            for name in different[:NAMED_CLASSES]
        ]
        if len(different) > len(named):
            named.append(f"and {len(different) - len(named)} more")
        raise DataError(
            f"the classes of {train.name} and {test.name} differ: {', '.join(named)}. "
            "Give their sub-folders the same names."
        )
    return np.array([known.index(name) for name in test.classes], np.int64)
