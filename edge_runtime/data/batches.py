"""Batches of views, made on worker threads, the same whatever their number.

A batch of a `PictureSource` is a function of the source, the groups, the batch size, the seed,
the step, and the limit on memory for decoding, if any. Steps are counted from 1 and take their
pictures from the epoch's permutation in turn; the last incomplete batch of an epoch is
dropped. A picture that cannot be read is replaced by the next one of the permutation after the
batch, so no batch depends on an earlier one.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edge_runtime.data.colour import HueScratch
from edge_runtime.data.decoding_cost import resolutions_of
from edge_runtime.data.decoding_memory import pool_limit_bytes, pooled_short_side_px
from edge_runtime.data.live import VideoFile
from edge_runtime.data.overlap import Crops
from edge_runtime.data.pipeline import CancelFlag, Task, in_order, worker_count
from edge_runtime.data.pool import FramePool
from edge_runtime.data.randomness import epoch_order
from edge_runtime.data.reading import PictureReader, return_freed_memory
from edge_runtime.data.sources import FrameSource, Image, PictureSource, UnreadablePicture
from edge_runtime.data.unreadable import ReadStatistics, Skipped
from edge_runtime.data.views import Images, Numbers, ViewMaker, Views
from edge_runtime.errors import DataError, EdgeRuntimeError
from edge_runtime.package.manifest import ViewGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewBatch:
    """What one step trains on."""

    step: int  # from 1
    # Pass over the pictures, from 0. For live sources, whose frames are numbered from 0 in
    # every process, the number of steps before this process, so that no random number is used
    # twice.
    epoch: int
    pictures: tuple[int, ...]  # indices into the source, or running frame numbers from 0
    images: Images  # "images.<group>": uint8 (views, batch, size, size, 3)
    crops: Crops  # what each view shows of its picture
    skipped: tuple[Skipped, ...]  # while this batch was made


class Lookahead:
    """Batches in order, of which the next one can be seen before its turn.

    An error is raised when its batch is taken: the steps before it are trained.
    """

    def __init__(self, batches: Iterator[ViewBatch]) -> None:
        self._batches = batches
        self._seen: ViewBatch | EdgeRuntimeError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ViewBatch:
        seen, self._seen = self._seen, None
        if isinstance(seen, EdgeRuntimeError):
            raise seen
        return next(self._batches) if seen is None else seen

    def following(self) -> ViewBatch | None:
        """The next batch, which stays; `None`: there is none, or only an error."""
        if self._seen is None:
            try:
                self._seen = next(self._batches, None)
            except EdgeRuntimeError as error:
                self._seen = error
        return None if isinstance(self._seen, EdgeRuntimeError) else self._seen


def view_batches(
    source: PictureSource | FrameSource,
    groups: Sequence[ViewGroup],
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    threads: int | None,
    prefetch: int = 2,
    decoding_limit_bytes: int | None = None,
) -> AbstractContextManager[Iterator[ViewBatch]]:
    """Decode and augment on worker threads.

    Args:
        source: of pictures.
        groups: of the training package.
        batch_size: B, pictures per step.
        seed: of the run.
        first_step: first step to make, from 1.
        last_step: last step to make, included.
        threads: workers; `None` chooses a number. Live sources use one, because their frames
            come one by one.
        prefetch: batches made ahead, at most.
        decoding_limit_bytes: memory for decoding and augmenting, of all workers together, such
            as `decoding_bytes` predicts. A picture that needs more is unreadable; a stream
            keeps fewer frames to mix. `None`: no limit.

    Returns:
        A context manager with the batches in the order of their steps. Leaving it stops the
        workers and waits for the current frame of a camera.

    Raises:
        DataError: the batch is larger than the data set; while iterating, more than 5 % of
            the pictures cannot be read. Other errors of the source are passed on.
    """
    maker = ViewMaker(groups, seed)
    steps = range(first_step, last_step + 1)
    if decoding_limit_bytes is not None:
        return_freed_memory()
    if isinstance(source, FrameSource):
        pool_bytes = pool_limit_bytes(source, decoding_limit_bytes)
        return _frame_batches(source, maker, steps, batch_size, seed, prefetch, pool_bytes)
    workers = worker_count(threads)
    reader = PictureReader(source, resolutions_of(groups), limit_bytes=decoding_limit_bytes)
    batches = _PictureBatches(source, reader, maker, steps, batch_size, seed, workers)
    return in_order(batches.tasks, threads=workers, ahead=prefetch)


def steps_per_epoch(
    source: PictureSource | FrameSource, batch_size: int, *, images: int | None = None
) -> int:
    """Whole batches in one epoch.

    Args:
        source: of pictures.
        batch_size: pictures per step.
        images: pictures per epoch; `None` for all. Cameras need it.

    Raises:
        DataError: the batch is larger than an epoch or than the data set, or the length of an
            epoch is unknown.
    """
    pictures = _pictures_in(source) if images is None else images
    if pictures is None:
        raise DataError(
            f"{source.name} has no end: give the pictures of an epoch (run: --images N)."
        )
    available = len(source) if isinstance(source, PictureSource) else pictures
    if min(pictures, available) < batch_size:
        raise DataError(
            f"a batch of {batch_size} is larger than the data set: {source.name} gives "
            f"{min(pictures, available)} picture(s) per epoch. Add pictures, or export the "
            "package with a smaller batch size."
        )
    return pictures // batch_size


def _pictures_in(source: PictureSource | FrameSource) -> int | None:
    if isinstance(source, FrameSource):
        return source.frame_count if isinstance(source, VideoFile) else None
    return len(source)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PendingBatch:
    """A batch that is being made."""

    step: int
    epoch: int
    order: NDArray[np.int64]  # the epoch's permutation
    start: int  # of the batch in `order`
    views: Views


class _PictureBatches:
    """The tasks of a `PictureSource`: parts read and augment, the end replaces what failed."""

    def __init__(
        self,
        source: PictureSource,
        reader: PictureReader,
        maker: ViewMaker,
        steps: range,
        batch_size: int,
        seed: int,
        threads: int,
    ) -> None:
        self._source = source
        self._reader = reader
        self._maker = maker
        self._steps = steps
        self._batch_size = batch_size
        self._seed = seed
        self._per_epoch = steps_per_epoch(source, batch_size)
        self._part_size = -(-batch_size // threads)
        self._statistics = ReadStatistics(source.name, one_pass=len(source))

    def tasks(self, flag: CancelFlag) -> Iterator[Task[ViewBatch]]:
        """One task per step."""
        ordered_epoch = None
        for step in self._steps:
            epoch, place = divmod(step - 1, self._per_epoch)
            if epoch != ordered_epoch:
                order = epoch_order(self._seed, epoch, len(self._source))
                ordered_epoch = epoch
            pending = _PendingBatch(
                step=step,
                epoch=epoch,
                order=order,
                start=place * self._batch_size,
                views=self._maker.allocate(self._batch_size),
            )
            starts = range(0, self._batch_size, self._part_size)
            parts = [partial(self._fill_from, pending, start, flag) for start in starts]
            yield Task(parts, partial(self._finish, pending, flag))

    def _fill_from(
        self, pending: _PendingBatch, first: int, flag: CancelFlag
    ) -> list[tuple[int, Skipped]]:
        """Fill the slots of one part; returns those that could not be filled."""
        slots = range(self._batch_size)[first : first + self._part_size]
        pictures = pending.order[pending.start :][slots.start : slots.stop].tolist()
        scratch = self._maker.scratch()
        unfilled = []
        for slot, picture, numbers in zip(
            slots, pictures, self._maker.numbers(pending.epoch, pictures), strict=True
        ):
            flag.check()
            failed = self._fill(pending, slot, picture, numbers, scratch, flag)
            if failed is not None:
                unfilled.append((slot, failed))
        return unfilled

    def _fill(
        self,
        pending: _PendingBatch,
        slot: int,
        picture: int,
        numbers: Numbers,
        scratch: Sequence[HueScratch],
        flag: CancelFlag,
    ) -> Skipped | None:
        def fill(image: Image) -> None:
            self._maker.fill(pending.views, slot, image, numbers, scratch)

        try:
            self._reader.read(picture, flag, fill)
        except UnreadablePicture as error:
            return Skipped(key=self._source.key(picture), reason=str(error))
        return None

    def _finish(
        self,
        pending: _PendingBatch,
        flag: CancelFlag,
        parts: list[list[tuple[int, Skipped]]],
    ) -> ViewBatch:
        """Replace what could not be read, in the order of the slots."""
        unfilled = list(chain.from_iterable(parts))
        pictures = pending.order[pending.start : pending.start + self._batch_size].tolist()
        spare = (
            int(pending.order[place % len(pending.order)])
            for place in count(pending.start + self._batch_size)
        )
        self._statistics.readable(self._batch_size - len(unfilled))
        skipped = []
        for slot, first in unfilled:
            failed: Skipped | None = first
            while failed is not None:  # ends: `unreadable` raises long before all were tried
                skipped.append(failed)
                self._statistics.unreadable(failed)
                pictures[slot] = next(spare)
                (numbers,) = self._maker.numbers(pending.epoch, [pictures[slot]])
                failed = self._fill(
                    pending, slot, pictures[slot], numbers, self._maker.scratch(), flag
                )
            self._statistics.readable(1)
        return ViewBatch(
            step=pending.step,
            epoch=pending.epoch,
            pictures=tuple(pictures),
            images=pending.views.images,
            crops=pending.views.crops,
            skipped=tuple(skipped),
        )


@contextmanager
def _frame_batches(
    source: FrameSource,
    maker: ViewMaker,
    steps: range,
    batch_size: int,
    seed: int,
    prefetch: int,
    pool_bytes: int,
) -> Iterator[Iterator[ViewBatch]]:
    with closing(source.frames()) as frames:

        def tasks(flag: CancelFlag) -> Iterator[Task[ViewBatch]]:
            pool = FramePool(
                _until(flag, frames),
                batch_size=batch_size,
                short_side_px=pooled_short_side_px(maker.largest_px),
                seed=seed,
                limit_bytes=pool_bytes,
            )
            for step in steps:
                make = partial(_frame_batch, pool, maker, step, steps.start - 1, flag)
                yield Task([make])

        # One thread, because the pool is drawn from in the order of the steps.
        with in_order(tasks, threads=1, ahead=prefetch) as batches:
            yield batches


def _frame_batch(
    pool: FramePool, maker: ViewMaker, step: int, epoch: int, flag: CancelFlag
) -> ViewBatch:
    drawn = pool.draw()
    pictures = [number for number, _ in drawn]
    views = maker.allocate(len(drawn))
    scratch = maker.scratch()
    for slot, ((_, frame), numbers) in enumerate(
        zip(drawn, maker.numbers(epoch, pictures), strict=True)
    ):
        flag.check()
        maker.fill(views, slot, frame, numbers, scratch)
    return ViewBatch(
        step=step,
        epoch=epoch,
        pictures=tuple(pictures),
        images=views.images,
        crops=views.crops,
        skipped=(),
    )


def _until(flag: CancelFlag, frames: Iterator[Image]) -> Iterator[Image]:
    for frame in frames:
        flag.check()
        yield frame
