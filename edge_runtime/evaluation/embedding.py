"""Features of any pictures, the nearest pictures of each, and the least typical ones."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data import (
    FrameSource,
    PictureSource,
    centred_decoding_bytes,
    expected_count,
    picture_name,
)
from edge_runtime.engines import ForwardOptions
from edge_runtime.engines.forward import engine_text
from edge_runtime.engines.runtime import load_onnxruntime, release_free_memory
from edge_runtime.errors import ConfigError
from edge_runtime.evaluation.features import encode, open_encoder
from edge_runtime.evaluation.neighbours import Neighbours, least_typical, neighbours_within
from edge_runtime.evaluation.room import EmbeddingAmounts, decoding_limit, fitting_batch_size
from edge_runtime.facts.devices import AUTO, CPU
from edge_runtime.package import Package
from edge_runtime.state import State

logger = logging.getLogger(__name__)

NEIGHBOURS = 10
TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """Features of N pictures of a source; row i of each array is of the same picture."""

    package: Package
    source: PictureSource | FrameSource
    numbers: NDArray[np.int64]  # (N,) of the pictures, in the order of the source
    skipped: NDArray[np.int64]  # of those that could not be read
    features: NDArray[np.float32]  # (N, width)
    neighbours: Neighbours
    least_typical: NDArray[np.int64]  # rows, the least typical first
    forward_engine: str  # that computed them, its name first: "ort, onnxruntime 1.31.1 on cpu"

    @property
    def classes(self) -> Sequence[str]:
        """Of the source; empty where its pictures have no labels."""
        if isinstance(self.source, FrameSource) or self.source.labels is None:
            return ()
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) indices into `classes`; `None` where pictures have no labels."""
        if isinstance(self.source, FrameSource) or self.source.labels is None:
            return None
        return self.source.labels[self.numbers]

    def name(self, row: int) -> str:
        """Of the picture of a row, see `picture_name`."""
        return picture_name(self.source, int(self.numbers[row]))


def embed(
    package: Package,
    state: State,
    source: PictureSource | FrameSource,
    *,
    images: int | None = None,
    neighbours: int = NEIGHBOURS,
    top: int = TOP,
    device: str = CPU,
    forward_engine: str = AUTO,
    threads: int | None = None,
    report: Callable[[str], None] = logger.warning,
) -> Embedding:
    """Compute the features of all readable pictures, and compare all with all.

    Args:
        package: what the state was trained from.
        state: of the encoder.
        source: pictures in files, or a video.
        images: only the first ones, at least 1; `None`: all.
        neighbours: nearest pictures of each, at least 1, as far as there are so many.
        top: how many of the least typical to name, at least 1.
        device: on which the encoder runs.
        forward_engine: that runs it, see `evaluate`.
        threads: of decoding and of the graph; `None` lets each choose.
        report: called with a line of text about the forward engine.

    Raises:
        ConfigError: a number is below 1.
        DataError: a camera; a video of unknown length, without `images`; or more than 5 % of
            the pictures are unreadable.
        DeviceError: it does not fit into the memory that is left.
        EngineError: no runtime is installed, it failed, or the forward engine that is named
            cannot be used.
        DivergedError: the features are not finite.
    """
    wanted = {"images": images, "neighbours": neighbours, "top": top}
    for name, number in wanted.items():
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}; expected at least 1.")
    expected = expected_count(source, images)
    load_onnxruntime()  # its memory counts as held
    amounts = EmbeddingAmounts(
        pictures=expected,
        neighbours=min(neighbours, expected),
        is_video=isinstance(source, FrameSource),
        decoding_bytes=centred_decoding_bytes(
            source, package.manifest.model.image_size_px, threads=threads
        ),
    )
    batch_size = fitting_batch_size(package, amounts)
    limit = decoding_limit(package, amounts, batch_size)
    options = ForwardOptions(device=device, threads=threads, report=report)
    with open_encoder(package, lambda: state, forward_engine, options) as engine:
        features, numbers = encode(
            engine,
            package,
            source,
            images=images,
            threads=threads,
            batch_size=batch_size,
            decoding_limit_bytes=limit,
        )
    release_free_memory()  # of the graph
    nearest = neighbours_within(features, neighbours)
    # A video may end before the last frame of its header: there is nothing to read there.
    read = expected if isinstance(source, PictureSource) else len(numbers)
    is_skipped = np.ones(read, bool)
    is_skipped[numbers] = False
    return Embedding(
        package=package,
        source=source,
        numbers=numbers,
        skipped=np.flatnonzero(is_skipped),
        features=features,
        neighbours=nearest,
        least_typical=least_typical(nearest.mean_distances, top),
        forward_engine=engine_text(engine),
    )
