"""Frozen features of pictures, and the mapping between two sets of classes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data import (
    FrameSource,
    LabelledSource,
    PictureSource,
    centred_batches,
    expected_count,
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


class Encoded(NamedTuple):
    """Features of N pictures, and which pictures those are."""

    values: NDArray[np.float32]  # (N, width)
    numbers: NDArray[np.int64]  # (N,) in the order of the source, from 0


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
        return labelled_features(
            engine, package, source, threads=threads, batch_size=batch_size
        )


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


def labelled_features(
    engine: ForwardEngine,
    package: Package,
    source: PictureSource | FrameSource,
    *,
    threads: int | None,
    batch_size: int,
    decoding_limit_bytes: int | None = None,
) -> Features:
    """As `extract_features`, by an opened encoder; the limit is that of `encode`."""
    labelled = require_labels(source)
    values, numbers = encode(
        engine,
        package,
        source,
        threads=threads,
        batch_size=batch_size,
        decoding_limit_bytes=decoding_limit_bytes,
    )
    return Features(values, labelled.labels[numbers])


def encode(
    engine: ForwardEngine,
    package: Package,
    source: PictureSource | FrameSource,
    *,
    images: int | None = None,
    threads: int | None,
    batch_size: int,
    decoding_limit_bytes: int | None = None,
) -> Encoded:
    """Features of every readable picture's centre view, by an opened encoder.

    Args:
        engine: from `open_encoder`.
        package: that of the encoder.
        source: files, or a video.
        images: as of `centred_batches`, like all that follow.
        threads: of decoding.
        batch_size: pictures per call of the graph, more if the engine runs on more at once;
            affects memory, not the result.
        decoding_limit_bytes: of all threads together.

    Raises:
        DataError: see `centred_batches`.
        EngineError: the runtime failed.
        DivergedError: the features are not finite.
    """
    model, expected = package.manifest.model, expected_count(source, images)
    # Not a list of parts, which would be in memory twice when it is joined.
    values = np.empty((expected, model.width), np.float32)
    numbers = np.empty(expected, np.int64)
    end = 0
    for views, some in centred_batches(
        source,
        model.image_size_px,
        max(batch_size, engine.images_per_run),
        images=images,
        threads=threads,
        decoding_limit_bytes=decoding_limit_bytes,
    ):
        begin, end = end, end + len(some)
        if end > len(numbers):  # more frames than the header of the video says
            values.resize((2 * end, model.width), refcheck=False)
            numbers.resize(2 * end, refcheck=False)
        values[begin:end], numbers[begin:end] = engine.run(views), some
        if not np.isfinite(values[begin:end]).all():
            raise DivergedError(
                f"the encoder of {package.path} gives features that are not finite numbers "
                f"for {source.name}: its training diverged. Evaluate an earlier checkpoint."
            )
    return Encoded(values[:end], numbers[:end])


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
