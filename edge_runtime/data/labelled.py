"""Pictures with their labels, in the order of the source, for evaluation."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.augmentation import centre_view
from edge_runtime.data.decoding_cost import Resolution
from edge_runtime.data.pipeline import CancelFlag, Task, in_order, worker_count
from edge_runtime.data.reading import PictureReader, return_freed_memory
from edge_runtime.data.sources import FrameSource, PictureSource, UnreadablePicture
from edge_runtime.data.unreadable import ReadStatistics, Skipped
from edge_runtime.errors import DataError

logger = logging.getLogger(__name__)

_Result: TypeAlias = tuple[NDArray[np.uint8], list[int], list[Skipped]]


class LabelledSource(PictureSource, Protocol):
    """A `PictureSource` whose pictures have labels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(len(self),) int64 indices into `classes`."""


def require_labels(source: PictureSource | FrameSource) -> LabelledSource:
    """The same source, if its pictures have labels.

    Raises:
        DataError: they have none.
    """
    if isinstance(source, FrameSource) or source.labels is None:
        raise DataError(
            f"{source.name} has no labels, which evaluation needs. Give a folder or a .tar "
            "with one sub-folder per class, such as cat/ and dog/."
        )
    return cast(LabelledSource, source)


def labelled_batches(
    source: PictureSource | FrameSource,
    size_px: int,
    batch_size: int,
    *,
    threads: int | None,
    decoding_limit_bytes: int | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The largest centred square of every picture, with its label.

    Pictures that cannot be read are skipped and named in the log.

    Args:
        source: with labels.
        size_px: S, width and height of the views.
        batch_size: B, pictures per batch; the last one, or one with unreadable pictures, may
            be smaller.
        threads: workers; `None` chooses a number. They end with the iterator.
        decoding_limit_bytes: as of `view_batches`.

    Returns:
        An iterator of ((B, S, S, 3) uint8 RGB, (B,) int64 indices into `source.classes`).

    Raises:
        DataError: the source has no labels; while iterating, more than 5 % of the pictures
            cannot be read.
    """
    labelled = require_labels(source)
    if decoding_limit_bytes is not None:
        return_freed_memory()
    reader = PictureReader(
        labelled, [Resolution(size_px, None)], limit_bytes=decoding_limit_bytes
    )
    return _batches(labelled, reader, size_px, batch_size, worker_count(threads))


def _batches(
    source: LabelledSource, reader: PictureReader, size_px: int, batch_size: int, threads: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    statistics = ReadStatistics(source.name, one_pass=len(source))
    # Each thread makes whole batches, in order whatever the number of threads.
    with in_order(
        lambda flag: _tasks(source, reader, size_px, batch_size, flag),
        threads=threads,
        ahead=threads,
    ) as results:
        for views, pictures, skipped in results:
            statistics.readable(len(pictures))
            for bad in skipped:
                logger.warning("%s cannot be read and is skipped: %s", bad.key, bad.reason)
                statistics.unreadable(bad)
            if pictures:
                yield views, source.labels[pictures]


def _tasks(
    source: PictureSource,
    reader: PictureReader,
    size_px: int,
    batch_size: int,
    flag: CancelFlag,
) -> Iterator[Task[_Result]]:
    for start in range(0, len(source), batch_size):
        pictures = range(len(source))[start : start + batch_size]
        yield Task([partial(_views, source, reader, size_px, pictures, flag)])


def _views(
    source: PictureSource,
    reader: PictureReader,
    size_px: int,
    pictures: range,
    flag: CancelFlag,
) -> _Result:
    views = np.empty((len(pictures), size_px, size_px, 3), dtype=np.uint8)
    read: list[int] = []
    skipped = []
    for picture in pictures:
        flag.check()
        try:
            reader.read(picture, flag, partial(centre_view, view=views[len(read)]))
        except UnreadablePicture as error:
            skipped.append(Skipped(key=source.key(picture), reason=str(error)))
        else:
            read.append(picture)
    return views[: len(read)], read, skipped
