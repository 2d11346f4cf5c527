"""Pictures with their labels, in the order of the source, for evaluation."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.augmentation import centre_view
from edge_runtime.data.pipeline import Job, StopFlag, in_order, worker_count
from edge_runtime.data.sources import FrameSource, PictureSource, UnreadablePicture
from edge_runtime.data.unreadable import Skipped, Tally
from edge_runtime.errors import DataError

logger = logging.getLogger(__name__)

_Result: TypeAlias = tuple[NDArray[np.uint8], list[int], list[Skipped]]


def labelled_batches(
    source: PictureSource | FrameSource, size_px: int, batch_size: int, *, threads: int | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The largest centred square of every picture, with its label.

    Pictures that cannot be read are left out and named in the log.

    Args:
        source: with labels.
        size_px: S, width and height of the views.
        batch_size: B, pictures per batch; the last one, or one with unreadable pictures, may
            be smaller.
        threads: workers, `None` for a sensible number; they end with the iterator.

    Returns:
        An iterator of ((B, S, S, 3) uint8 RGB, (B,) int64 indices into `source.classes`).

    Raises:
        DataError: the source has no labels; while iterating, more than 5 % of the pictures
            cannot be read.
    """
    if isinstance(source, FrameSource) or source.labels is None:
        raise DataError(
            f"{source.name} has no labels, which evaluation needs. Give a folder or a .tar "
            "with one sub-folder per class."
        )
    return _batches(source, source.labels, size_px, batch_size, worker_count(threads))


def _batches(
    source: PictureSource,
    labels: NDArray[np.int64],
    size_px: int,
    batch_size: int,
    threads: int,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    tally = Tally(source.name, one_pass=len(source))
    # each thread makes whole batches: their order is kept, their number does not matter
    with in_order(
        lambda flag: _jobs(source, size_px, batch_size, flag), threads=threads, ahead=threads
    ) as results:
        for views, pictures, skipped in results:
            tally.readable(len(pictures))
            for bad in skipped:
                logger.warning("%s cannot be read and is left out: %s", bad.key, bad.reason)
                tally.unreadable(bad)
            if pictures:
                yield views, labels[pictures]


def _jobs(
    source: PictureSource, size_px: int, batch_size: int, flag: StopFlag
) -> Iterator[Job[_Result]]:
    for start in range(0, len(source), batch_size):
        pictures = range(len(source))[start : start + batch_size]
        yield Job([partial(_views, source, size_px, pictures, flag)], _only)


def _views(source: PictureSource, size_px: int, pictures: range, flag: StopFlag) -> _Result:
    views = np.empty((len(pictures), size_px, size_px, 3), dtype=np.uint8)
    read: list[int] = []
    skipped = []
    for picture in pictures:
        flag.check()
        try:
            image = source.read(picture)
        except UnreadablePicture as error:
            skipped.append(Skipped(key=source.key(picture), reason=str(error)))
        else:
            centre_view(image, views[len(read)])
            read.append(picture)
    return views[: len(read)], read, skipped


def _only(parts: list[_Result]) -> _Result:
    (result,) = parts
    return result
