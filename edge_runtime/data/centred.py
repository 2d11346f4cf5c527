"""Every picture of a source once, in its order, as encoders are used: its centred square."""

import logging
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.augmentation import centre_view
from edge_runtime.data.decoding_cost import Resolution
from edge_runtime.data.files import PictureFiles
from edge_runtime.data.live import VideoFile
from edge_runtime.data.pipeline import CancelFlag, Task, in_order, worker_count
from edge_runtime.data.reading import PictureReader, return_freed_memory
from edge_runtime.data.sources import (
    FrameSource,
    Image,
    PictureSource,
    SourceLostError,
    UnreadablePicture,
)
from edge_runtime.data.unreadable import ReadStatistics, Skipped
from edge_runtime.errors import DataError

logger = logging.getLogger(__name__)

_Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
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


def picture_name(source: PictureSource | FrameSource, number: int) -> str:
    """How a picture is found again: its path inside the data, or the number of a frame.

    Args:
        source: of the picture.
        number: in the order of the source, from 0.

    Returns:
        A path as Python opens it: bytes that are not UTF-8 are surrogate escapes.
    """
    if isinstance(source, FrameSource):
        return f"frame {number}"
    return source.path(number) if isinstance(source, PictureFiles) else source.key(number)


def picture_count(source: PictureSource | FrameSource, images: int | None = None) -> int:
    """The most pictures that `centred_batches` gives; arguments as there.

    Raises:
        DataError: frames of a camera, which are not kept; or a video that does not say how
            many frames it has, and `images` does not, either.
    """
    if isinstance(source, PictureSource):
        return len(source) if images is None else min(len(source), images)
    if not isinstance(source, VideoFile):
        raise DataError(
            f"{source.name} keeps no pictures, so nobody could look at those that the result "
            "is about. Save them to a folder, or as a video, and give that."
        )
    count = source.frame_count if images is None else images
    if count is None:
        raise DataError(
            f"{source.name}: its header does not say how many frames it has. Give "
            "--images N to read the first N of them."
        )
    return count


def expected_count(source: PictureSource | FrameSource, images: int | None = None) -> int:
    """How many pictures `centred_batches` gives, if all can be read; arguments as there.

    A video may have other frames than its header says.

    Raises:
        DataError: see `picture_count`.
    """
    most = picture_count(source, images)
    said = source.frame_count if isinstance(source, VideoFile) else None
    return most if said is None else min(most, said)


def centred_batches(
    source: PictureSource | FrameSource,
    size_px: int,
    batch_size: int,
    *,
    images: int | None = None,
    threads: int | None,
    decoding_limit_bytes: int | None = None,
) -> Iterator[_Batch]:
    """The largest centred square of every picture, with the picture's number.

    Pictures that cannot be read are skipped and named in the log.

    Args:
        source: files, or a video, which is read once from its beginning.
        size_px: S, width and height of the views.
        batch_size: B, pictures per batch; the last one, or one with unreadable pictures, may
            be smaller.
        images: only the first ones, from 1; `None`: all, of a video as many as its header
            says.
        threads: workers; `None` chooses a number. They end with the iterator. A video has one.
        decoding_limit_bytes: as of `view_batches`.

    Returns:
        An iterator of ((B, S, S, 3) uint8 RGB, (B,) int64 numbers in the order of the source,
        from 0).

    Raises:
        DataError: see `picture_count`; while iterating, more than 5 % of the pictures cannot
            be read.
    """
    numbers = range(picture_count(source, images))
    if decoding_limit_bytes is not None:
        return_freed_memory()
    if isinstance(source, VideoFile):
        return _frame_batches(source, numbers, size_px, batch_size, images is None)
    pictures = cast(PictureSource, source)
    reader = PictureReader(
        pictures, [Resolution(size_px, None)], limit_bytes=decoding_limit_bytes
    )
    return _batches(pictures, reader, numbers, size_px, batch_size, worker_count(threads))


def _batches(
    source: PictureSource,
    reader: PictureReader,
    numbers: range,
    size_px: int,
    batch_size: int,
    threads: int,
) -> Iterator[_Batch]:
    statistics = ReadStatistics(source.name, one_pass=len(numbers))

    def tasks(flag: CancelFlag) -> Iterator[Task[_Result]]:
        for start in range(0, len(numbers), batch_size):
            some = numbers[start : start + batch_size]
            yield Task([partial(_views, source, reader, size_px, some, flag)])

    # Each thread makes whole batches, in order whatever the number of threads.
    with in_order(tasks, threads=threads, ahead=threads) as results:
        for views, read, skipped in results:
            statistics.readable(len(read))
            for bad in skipped:
                logger.warning("%s cannot be read and is skipped: %s", bad.key, bad.reason)
                statistics.unreadable(bad)
            if read:
                yield views, np.array(read, np.int64)


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


def _frame_batches(
    source: VideoFile, numbers: range, size_px: int, batch_size: int, is_whole: bool
) -> Iterator[_Batch]:
    """Of the first frames; where the whole video is wanted, a wrong header is reported."""
    seen = 0
    with closing(source.frames_once()) as frames:

        def tasks(flag: CancelFlag) -> Iterator[Task[NDArray[np.uint8]]]:
            for start in range(0, len(numbers), batch_size):
                size = len(numbers[start : start + batch_size])
                yield Task([partial(_frame_views, frames, size, size_px, flag)])

        # One thread, because frames come one by one.
        with in_order(tasks, threads=1, ahead=1) as batches:
            for views in batches:
                if not len(views):
                    break
                yield views, np.arange(seen, seen + len(views))
                seen += len(views)
        if is_whole and seen < len(numbers):
            logger.warning(
                "%s: %d of the %d frames of its header can be read",
                source.name,
                seen,
                len(numbers),
            )
        elif is_whole and next(frames, None) is not None:
            logger.warning(
                "%s has more than the %d frames of its header, which were read; --images N "
                "reads the first N",
                source.name,
                seen,
            )
    if not seen:
        raise SourceLostError(f"{source.name}: the video cannot be read any more.")


def _frame_views(
    frames: Iterator[Image], count: int, size_px: int, flag: CancelFlag
) -> NDArray[np.uint8]:
    views = np.empty((count, size_px, size_px, 3), dtype=np.uint8)
    read = 0
    for frame in islice(frames, count):
        flag.check()
        centre_view(frame, views[read])
        read += 1
    return views[:read]
