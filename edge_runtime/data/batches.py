"""Batches of views, made on worker threads, the same whatever their number.

A batch of a `PictureSource` is a function of the source, the groups, the batch size, the seed
and the step alone. Steps are counted from 1 and take their pictures from the epoch's
permutation in turn; the last incomplete batch of an epoch is dropped. A picture that cannot be
read is replaced by the next of the permutation after the batch: no batch depends on what an
earlier one met.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.colour import HueScratch
from edge_runtime.data.live import VideoFile
from edge_runtime.data.pipeline import Job, StopFlag, in_order, worker_count
from edge_runtime.data.pool import FramePool
from edge_runtime.data.randomness import epoch_order
from edge_runtime.data.sources import FrameSource, Image, PictureSource, UnreadablePicture
from edge_runtime.data.unreadable import Skipped, Tally
from edge_runtime.data.views import Images, Numbers, ViewMaker
from edge_runtime.errors import DataError
from edge_runtime.package.manifest import ViewGroup

_FRAME_OVERSIZE = 2  # pooled frames are this much larger than the largest view


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewBatch:
    """What one step trains on."""

    step: int  # from 1
    # Pass over the pictures, from 0. Live sources count frames from 0 in every process: theirs
    # is the number of steps before this process, so that no random number comes twice.
    epoch: int
    pictures: tuple[int, ...]  # indices into the source, or running frame numbers from 0
    images: Images  # "images.<group>": uint8 (views, batch, size, size, 3)
    skipped: tuple[Skipped, ...]  # met while this batch was made


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
) -> AbstractContextManager[Iterator[ViewBatch]]:
    """Decode and augment on worker threads.

    Args:
        source: of pictures.
        groups: of the training package.
        batch_size: B, pictures per step.
        seed: of the run.
        first_step: first step to make, from 1.
        last_step: last step to make, included.
        threads: workers, `None` for a sensible number; live sources use one, because their
            frames come one by one.
        prefetch: batches made ahead, at most.

    Returns:
        A context manager that gives the batches in the order of their steps. Leaving it stops
        the workers; a camera is waited for until its present frame arrives.

    Raises:
        DataError: the batch is larger than the data set; while iterating, more than 5 % of
            the pictures cannot be read, or whatever else the source raises.
    """
    maker = ViewMaker(groups, seed)
    steps = range(first_step, last_step + 1)
    if isinstance(source, FrameSource):
        return _frame_batches(source, maker, steps, batch_size, seed, prefetch)
    workers = worker_count(threads)
    batches = _PictureBatches(source, maker, steps, batch_size, seed, workers)
    return in_order(batches.jobs, threads=workers, ahead=prefetch)


def steps_per_epoch(
    source: PictureSource | FrameSource, batch_size: int, *, images: int | None = None
) -> int:
    """Whole batches in one epoch.

    Args:
        source: of pictures.
        batch_size: pictures per step.
        images: pictures per epoch; `None` for all that there are. Cameras need it.

    Raises:
        DataError: the batch is larger than an epoch or than the data set, or nobody knows
            how long an epoch is.
    """
    pictures = _pictures_in(source) if images is None else images
    if pictures is None:
        raise DataError(
            f"{source.name} has no end: give the pictures of an epoch (run: --images N)."
        )
    present = len(source) if isinstance(source, PictureSource) else pictures
    if min(pictures, present) < batch_size:
        raise DataError(
            f"a batch of {batch_size} is larger than the data set: {source.name} gives "
            f"{min(pictures, present)} picture(s) per epoch. Add pictures, or export the "
            "package with a smaller batch size."
        )
    return pictures // batch_size


def _pictures_in(source: PictureSource | FrameSource) -> int | None:
    if isinstance(source, FrameSource):
        return source.frame_count if isinstance(source, VideoFile) else None
    return len(source)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """A batch in the making."""

    step: int
    epoch: int
    order: NDArray[np.int64]  # the epoch's permutation
    start: int  # of the batch in `order`
    images: Images


class _PictureBatches:
    """The jobs of a `PictureSource`: parts read and augment, the end replaces what is bad."""

    def __init__(
        self,
        source: PictureSource,
        maker: ViewMaker,
        steps: range,
        batch_size: int,
        seed: int,
        threads: int,
    ) -> None:
        self._source = source
        self._maker = maker
        self._steps = steps
        self._batch_size = batch_size
        self._seed = seed
        self._per_epoch = steps_per_epoch(source, batch_size)
        self._part_size = -(-batch_size // threads)
        self._tally = Tally(source.name, one_pass=len(source))

    def jobs(self, flag: StopFlag) -> Iterator[Job[ViewBatch]]:
        """One job per step."""
        ordered_epoch = None
        for step in self._steps:
            epoch, place = divmod(step - 1, self._per_epoch)
            if epoch != ordered_epoch:
                order = epoch_order(self._seed, epoch, len(self._source))
                ordered_epoch = epoch
            plan = _Plan(
                step=step,
                epoch=epoch,
                order=order,
                start=place * self._batch_size,
                images=self._maker.allocate(self._batch_size),
            )
            starts = range(0, self._batch_size, self._part_size)
            parts = [partial(self._fill_from, plan, start, flag) for start in starts]
            yield Job(parts, partial(self._finish, plan))

    def _fill_from(self, plan: _Plan, first: int, flag: StopFlag) -> list[tuple[int, Skipped]]:
        """Fill the slots of one part; gives those that could not be."""
        slots = range(self._batch_size)[first : first + self._part_size]
        pictures = plan.order[plan.start :][slots.start : slots.stop].tolist()
        scratch = self._maker.scratch()
        unfilled = []
        for slot, picture, numbers in zip(
            slots, pictures, self._maker.numbers(plan.epoch, pictures), strict=True
        ):
            flag.check()
            if (bad := self._fill(plan, slot, picture, numbers, scratch)) is not None:
                unfilled.append((slot, bad))
        return unfilled

    def _fill(
        self,
        plan: _Plan,
        slot: int,
        picture: int,
        numbers: Numbers,
        scratch: Sequence[HueScratch],
    ) -> Skipped | None:
        try:
            image = self._source.read(picture)
        except UnreadablePicture as error:
            return Skipped(key=self._source.key(picture), reason=str(error))
        self._maker.fill(plan.images, slot, image, numbers, scratch)
        return None

    def _finish(self, plan: _Plan, parts: list[list[tuple[int, Skipped]]]) -> ViewBatch:
        """Replace what could not be read, in the order of the slots."""
        unfilled = list(chain.from_iterable(parts))
        pictures = plan.order[plan.start : plan.start + self._batch_size].tolist()
        spare = (
            int(plan.order[place % len(plan.order)])
            for place in count(plan.start + self._batch_size)
        )
        self._tally.readable(self._batch_size - len(unfilled))
        skipped = []
        for slot, first in unfilled:
            bad: Skipped | None = first
            while bad is not None:  # ends: the tally raises long before all were tried
                skipped.append(bad)
                self._tally.unreadable(bad)
                pictures[slot] = next(spare)
                (numbers,) = self._maker.numbers(plan.epoch, [pictures[slot]])
                bad = self._fill(plan, slot, pictures[slot], numbers, self._maker.scratch())
            self._tally.readable(1)
        return ViewBatch(
            step=plan.step,
            epoch=plan.epoch,
            pictures=tuple(pictures),
            images=plan.images,
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
) -> Iterator[Iterator[ViewBatch]]:
    with closing(source.frames()) as frames:

        def jobs(flag: StopFlag) -> Iterator[Job[ViewBatch]]:
            pool = FramePool(
                _until(flag, frames),
                batch_size=batch_size,
                short_side_px=_FRAME_OVERSIZE * maker.largest_px,
                seed=seed,
            )
            for step in steps:
                make = partial(_frame_batch, pool, maker, step, steps.start - 1, flag)
                yield Job([make], _only)

        # one thread: the pool is drawn from in the order of the steps
        with in_order(jobs, threads=1, ahead=prefetch) as batches:
            yield batches


def _frame_batch(
    pool: FramePool, maker: ViewMaker, step: int, epoch: int, flag: StopFlag
) -> ViewBatch:
    drawn = pool.draw()
    pictures = [number for number, _ in drawn]
    images = maker.allocate(len(drawn))
    scratch = maker.scratch()
    for slot, ((_, frame), numbers) in enumerate(
        zip(drawn, maker.numbers(epoch, pictures), strict=True)
    ):
        flag.check()
        maker.fill(images, slot, frame, numbers, scratch)
    return ViewBatch(
        step=step, epoch=epoch, pictures=tuple(pictures), images=images, skipped=()
    )


def _until(flag: StopFlag, frames: Iterator[Image]) -> Iterator[Image]:
    for frame in frames:
        flag.check()
        yield frame


def _only(parts: list[ViewBatch]) -> ViewBatch:
    (batch,) = parts
    return batch
