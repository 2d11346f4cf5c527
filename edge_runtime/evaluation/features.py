"""Frozen features of labelled pictures, and the mapping between two sets of classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data import (
    FrameSource,
    LabelledSource,
    PictureSource,
    labelled_batches,
)
from edge_runtime.engines import create_forward_engine, encoder_weights
from edge_runtime.errors import DataError, DivergedError
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
    threads: int | None,
    batch_size: int = BATCH_SIZE,
) -> Features:
    """Features of every readable picture's centre view, in the source's order.

    Args:
        package: its embedding graph is run.
        state: its tensors after `Manifest.encoder_prefix` are the weights.
        source: pictures with labels.
        threads: of decoding and of the graph; `None` lets each choose.
        batch_size: pictures per call of the graph; affects memory, not the result.

    Raises:
        DataError: the source has no labels, or more than 5 % of its pictures cannot be read.
        EngineError: no runtime is installed, or it failed.
        DivergedError: the features are not finite.
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
