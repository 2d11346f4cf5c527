"""Frozen features of labelled pictures, and whose class is whose."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data import FrameSource, PictureSource, labelled_batches
from edge_runtime.engines import create_forward_engine, encoder_weights
from edge_runtime.errors import DataError, DivergedError
from edge_runtime.package import Package
from edge_runtime.state import State

BATCH_SIZE = 64
NAMED_CLASSES = 5  # in a message


class Features(NamedTuple):
    """What an encoder makes of N pictures, and their classes."""

    values: NDArray[np.float32]  # (N, width)
    labels: NDArray[np.int64]  # (N,) indices into the source's classes


def extract_features(
    package: Package,
    state: State,
    source: PictureSource | FrameSource,
    *,
    threads: int | None,
    batch_size: int = BATCH_SIZE,
) -> Features:
    """Features of every readable picture's centre view, in the source's order.

    Args:
        package: whose embedding graph runs.
        state: where its weights come from, see `Manifest.encoder_prefix`.
        source: pictures with labels.
        threads: of decoding and of the graph; None lets each choose.
        batch_size: pictures per call of the graph; decides memory, not the result.

    Raises:
        DataError: the source has no labels, or more than 5 % of its pictures cannot be read.
        EngineError: no runtime is installed, or it failed.
        DivergedError: the features are not numbers.
    """
    values, labels = [], []
    weights = encoder_weights(package, state, threads=threads)
    size_px = package.manifest.model.image_size_px
    with create_forward_engine(threads=threads) as engine:
        engine.open(package, package.manifest.embed, weights)
        for images, classes in labelled_batches(source, size_px, batch_size, threads=threads):
            values.append(engine.run(images))
            labels.append(classes)
    features = Features(np.concatenate(values), np.concatenate(labels))
    if not np.isfinite(features.values).all():
        raise DivergedError(
            f"the encoder of {package.path} gives features that are not finite numbers for "
            f"{source.name}: its training diverged. Evaluate an earlier checkpoint."
        )
    return features


def labelled(source: PictureSource | FrameSource) -> PictureSource:
    """The same source, if its pictures have classes.

    Raises:
        DataError: they have not.
    """
    if isinstance(source, FrameSource) or source.labels is None:
        raise DataError(
            f"{source.name} has no labels: an evaluation compares classes. Give a folder with "
            "one sub-folder of pictures per class, such as cat/ and dog/."
        )
    return source


def label_mapping(train: PictureSource, test: PictureSource) -> NDArray[np.int64]:
    """Index of each class of `test` among those of `train`, by name.

    Raises:
        DataError: the two have not the same classes.
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
            "Name the class sub-folders alike."
        )
    return np.array([known.index(name) for name in test.classes], np.int64)
