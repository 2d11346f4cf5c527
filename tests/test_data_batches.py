"""Batches of views: independent of threads, repeatable, and losses are reported."""

import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from data_pictures import GROUPS, PLAIN, FlatFrames, FlatPictures, SmoothPictures, colour_of

from edge_runtime.data import (
    Skipped,
    SourceLostError,
    open_source,
    steps_per_epoch,
    view_batches,
)
from edge_runtime.data.resize import Box, resize_into
from edge_runtime.data.unreadable import ReadStatistics
from edge_runtime.errors import DataError
from edge_runtime.package.manifest import ViewGroup

PLAIN_GROUPS = (ViewGroup(name="a", size_px=4, views=(PLAIN,)),)


def batches_of(source, groups=GROUPS, first_step=1, last_step=7, **changes) -> list:
    settings = {"batch_size": 4, "seed": 3, "threads": 1} | changes
    with view_batches(
        source, groups, first_step=first_step, last_step=last_step, **settings
    ) as batches:
        return list(batches)


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert (one.step, one.epoch, one.pictures) == (other.step, other.epoch, other.pictures)
        assert one.skipped == other.skipped
        assert one.images.keys() == other.images.keys()
        for name, images in one.images.items():
            np.testing.assert_array_equal(images, other.images[name])
        assert one.crops.keys() == other.crops.keys()
        for name, crops in one.crops.items():
            np.testing.assert_array_equal(crops, other.crops[name])


def test_a_batch_has_an_array_per_group() -> None:
    batch = batches_of(open_source("digits"), last_step=1)[0]
    shapes = {name: (images.shape, images.dtype) for name, images in batch.images.items()}
    assert shapes == {
        "images.global": ((2, 4, 16, 16, 3), np.uint8),
        "images.local": ((1, 4, 8, 8, 3), np.uint8),
    }
    first, second = batch.images["images.global"]
    assert (first != second).any((1, 2, 3)).all()  # each picture has two different views
    assert {name: (crops.shape, crops.dtype) for name, crops in batch.crops.items()} == {
        "global": ((2, 4, 5), np.int32),
        "local": ((1, 4, 5), np.int32),
    }


def test_crops_belong_to_their_pictures_and_views() -> None:
    """Pictures of different sizes; two cannot be read. Each view is that of its crop."""
    plain = replace(PLAIN, min_area=0.3, flip=0.5)
    groups = (ViewGroup(name="a", size_px=4, views=(plain, plain)),)
    source = SmoothPictures(60, bad={3, 8})
    flips = set()
    for batch in batches_of(source, groups, last_step=14):
        assert not {3, 8} & set(batch.pictures)
        for slot, picture in enumerate(batch.pictures):
            image = source.read(picture)
            for view in range(2):
                left, top, width, height, flipped = batch.crops["a"][view, slot].tolist()
                wanted = np.empty((4, 4, 3), dtype=np.uint8)
                resize_into(wanted, image, Box(left, top, width, height))
                flips.add(flipped)
                np.testing.assert_array_equal(
                    batch.images["images.a"][view, slot], wanted[:, :: 1 - 2 * flipped]
                )
    assert flips == {0, 1}


@pytest.mark.parametrize("changes", [{"threads": 4}, {"threads": 3}, {"threads": None}])
def test_threads_do_not_change_the_batches(changes) -> None:
    source = open_source("digits")
    assert_same(batches_of(source), batches_of(source, **changes))


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_prefetching_does_not_change_the_batches(prefetch) -> None:
    source = open_source("digits")
    assert_same(batches_of(source), batches_of(source, prefetch=prefetch, threads=2))


@pytest.mark.parametrize("first_step", [2, 7, 12])
def test_a_resumed_start_continues_with_the_same_bytes(first_step) -> None:
    source = SmoothPictures(22)
    whole = batches_of(source, last_step=12)
    resumed = batches_of(source, first_step=first_step, last_step=12)
    assert_same(whole[first_step - 1 :], resumed)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_resumed_start_replaces_the_same_pictures(threads) -> None:
    source = FlatPictures(100, bad=[2, 9, 17])
    whole = batches_of(source, last_step=60, groups=PLAIN_GROUPS)
    assert sum(len(batch.skipped) for batch in whole) >= 6
    resumed = batches_of(
        source, first_step=11, last_step=60, groups=PLAIN_GROUPS, threads=threads
    )
    assert_same(whole[10:], resumed)


def test_steps_are_counted_from_one_and_the_last_is_included() -> None:
    batches = batches_of(FlatPictures(8), first_step=2, last_step=5)
    assert [(batch.step, batch.epoch) for batch in batches] == [(2, 0), (3, 1), (4, 1), (5, 2)]


def test_an_epoch_takes_every_picture_once_and_drops_the_rest() -> None:
    batches = batches_of(FlatPictures(22), last_step=10, groups=PLAIN_GROUPS)
    epochs = [
        [picture for batch in batches if batch.epoch == epoch for picture in batch.pictures]
        for epoch in (0, 1)
    ]
    for pictures in epochs:
        assert len(pictures) == 20
        assert Counter(pictures).most_common(1)[0][1] == 1
    assert epochs[0] != epochs[1]


def test_images_belong_to_their_pictures() -> None:
    for batch in batches_of(FlatPictures(300), groups=PLAIN_GROUPS, threads=3, batch_size=50):
        colours = batch.images["images.a"][0, :, 0, 0].tolist()
        assert [tuple(colour) for colour in colours] == [colour_of(i) for i in batch.pictures]


def test_views_do_not_depend_on_the_batch_they_are_in() -> None:
    source = open_source("digits")

    def views(batch_size) -> dict[int, bytes]:
        return {
            picture: batch.images["images.global"][:, slot].tobytes()
            for batch in batches_of(source, batch_size=batch_size, last_step=60 // batch_size)
            for slot, picture in enumerate(batch.pictures)
        }

    assert views(12) == views(5)


def test_every_epoch_and_seed_has_different_views() -> None:
    def first_views(seed) -> set[bytes]:
        batches = batches_of(SmoothPictures(8), batch_size=8, last_step=2, seed=seed)
        return {
            batch.images["images.global"][view, batch.pictures.index(7)].tobytes()
            for batch in batches
            for view in (0, 1)
        }

    assert len(first_views(0) | first_views(1)) == 8


def test_an_unreadable_picture_is_replaced_by_the_next_after_the_batch() -> None:
    good = batches_of(FlatPictures(22), last_step=5, groups=PLAIN_GROUPS)
    order = [picture for batch in good for picture in batch.pictures]
    bad = {order[5], order[6], order[8]}  # in the second batch, in the third
    batches = batches_of(
        FlatPictures(22, bad=bad), last_step=2, groups=PLAIN_GROUPS, threads=2
    )
    assert batches[0].pictures == good[0].pictures
    assert batches[0].skipped == ()
    assert batches[1].pictures == (order[4], order[9], order[10], order[7])
    assert [(one.key, one.reason) for one in batches[1].skipped] == [
        (f"picture {picture}", "it was made bad") for picture in (order[5], order[8], order[6])
    ]
    assert batches[1].images["images.a"][0, 1, 0, 0].tolist() == list(colour_of(order[9]))


def test_few_unreadable_pictures_do_not_end_a_run() -> None:
    batches = batches_of(FlatPictures(100, bad=range(3)), last_step=75, groups=PLAIN_GROUPS)
    assert len(batches) == 75
    assert not {picture for batch in batches for picture in batch.pictures} & set(range(3))


@pytest.mark.parametrize("threads", [1, 3])
def test_too_many_unreadable_pictures_end_the_run_and_are_named(threads) -> None:
    source = FlatPictures(1000, bad=range(80))
    seen = []
    message = (
        r"flat: 51 of the \d+ pictures tried so far cannot be read; 5% of 1000 are allowed\. "
        r"Repair or remove them\. The first:(\n  picture \d\d?: it was made bad){5}$"
    )
    with (
        pytest.raises(DataError, match=message),
        view_batches(
            source,
            PLAIN_GROUPS,
            batch_size=10,
            seed=0,
            first_step=1,
            last_step=100,
            threads=threads,
        ) as batches,
    ):
        seen.extend(batch.step for batch in batches)
    assert len(seen) >= 40  # of the 1000, 64 in a hundred hold 51 bad ones


def test_five_percent_are_not_more_than_five_percent() -> None:
    statistics = ReadStatistics("flat", one_pass=1000)
    bad = Skipped(key="a", reason="b")
    statistics.readable(70)
    for _ in range(50):  # side by side, as the pictures of one broken folder are
        statistics.unreadable(bad)
    with pytest.raises(DataError, match="51 of the 121 pictures"):
        statistics.unreadable(bad)


def test_a_small_set_is_judged_as_a_whole() -> None:
    source = FlatPictures(20, bad=[1, 2])
    with pytest.raises(DataError, match=r"2 of the \d+ pictures .*; 5% of 20 are allowed"):
        batches_of(source, last_step=10, groups=PLAIN_GROUPS)


def test_a_folder_of_bad_pictures_ends_at_once() -> None:
    source = FlatPictures(50_000, bad=range(50_000))
    with pytest.raises(DataError, match="100 of the 100 pictures"):
        batches_of(source, last_step=10, groups=PLAIN_GROUPS)
    assert len(source.reads) < 200


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_of_a_worker_reaches_the_consumer(threads) -> None:
    source = FlatPictures(40, error=ZeroDivisionError("inside"))
    with pytest.raises(ZeroDivisionError, match="inside"):
        batches_of(source, threads=threads)
    assert data_threads() == []


def test_work_is_done_on_the_pipelines_threads() -> None:
    source = FlatPictures(40, read_s=0.001)
    batches_of(source, threads=2)
    assert {name.rpartition("_")[0] for name in source.threads} == {"edge-train-data"}
    assert len(source.threads) == 2


def data_threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("edge-train-data")
    ]


def test_leaving_in_the_middle_of_a_batch_is_prompt() -> None:
    source = FlatPictures(1000, read_s=0.01)
    with view_batches(
        source,
        PLAIN_GROUPS,
        batch_size=30,
        seed=0,
        first_step=1,
        last_step=9,
        threads=2,
    ) as batches:
        next(batches)
        read = len(source.reads)
    # each thread ends its picture, and may have been about to begin the next
    assert len(source.reads) <= read + 2
    assert data_threads() == []


def test_the_number_of_batches_ahead_is_bounded() -> None:
    source = FlatPictures(1000)
    with view_batches(
        source,
        PLAIN_GROUPS,
        batch_size=5,
        seed=0,
        first_step=1,
        last_step=100,
        threads=2,
        prefetch=2,
    ) as batches:
        next(batches)
        give_up_s = time.monotonic() + 10
        while len(source.reads) < 15 and time.monotonic() < give_up_s:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(source.reads) == 5 * (1 + 2)


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    message = r"a batch of 30 is larger than the data set: flat gives 22 picture\(s\)"
    with pytest.raises(DataError, match=message):
        view_batches(
            FlatPictures(22),
            GROUPS,
            batch_size=30,
            seed=0,
            first_step=1,
            last_step=1,
            threads=1,
        )
    with pytest.raises(DataError, match=message):
        steps_per_epoch(FlatPictures(22), 30)
    with pytest.raises(DataError, match=r"flat gives 7 picture\(s\) per epoch"):
        steps_per_epoch(FlatPictures(22), 8, images=7)


def test_steps_per_epoch_are_whole_batches() -> None:
    assert steps_per_epoch(FlatPictures(22), 4) == 5
    assert steps_per_epoch(FlatPictures(22), 4, images=50) == 12
    assert steps_per_epoch(FlatFrames(), 8, images=20) == 2
    with pytest.raises(DataError, match="frames has no end: give the pictures of an epoch"):
        steps_per_epoch(FlatFrames(), 8)


def test_live_frames_come_mixed_numbered_and_augmented() -> None:
    source = FlatFrames()
    batches = batches_of(source, groups=PLAIN_GROUPS, last_step=5, batch_size=8, threads=4)
    assert [(batch.step, batch.epoch) for batch in batches] == [(n, 0) for n in range(1, 6)]
    pictures = [picture for batch in batches for picture in batch.pictures]
    assert len(set(pictures)) == 40
    for batch in batches:
        colours = batch.images["images.a"][0, :, 0, 0].tolist()
        assert [tuple(colour) for colour in colours] == [colour_of(i) for i in batch.pictures]
    assert source.closed
    assert data_threads() == []


def test_live_frames_are_mixed_alike_for_one_seed() -> None:
    assert_same(batches_of(FlatFrames()), batches_of(FlatFrames(), prefetch=0))


def test_a_lost_camera_is_reported_after_the_batches_it_gave() -> None:
    source = FlatFrames(end=50, error=SourceLostError("camera:0 gives no more pictures"))
    seen = []
    with (
        pytest.raises(SourceLostError, match="camera:0 gives no more"),
        view_batches(
            source, GROUPS, batch_size=8, seed=0, first_step=1, last_step=99, threads=1
        ) as batches,
    ):
        seen.extend(batch.step for batch in batches)
    assert seen == [1, 2, 3]  # 32 frames fill the pool, 18 more are two batches
    assert data_threads() == []


def test_leaving_a_slow_camera_is_prompt_and_closes_it() -> None:
    source = FlatFrames(frame_s=0.01)

    def wait_for_a_batch(batches) -> None:
        with suppress(Exception):  # it never comes
            next(batches)

    with view_batches(
        source, GROUPS, batch_size=500, seed=0, first_step=1, last_step=9, threads=1
    ) as batches:
        reader = threading.Thread(target=wait_for_a_batch, args=(batches,))
        reader.start()
        time.sleep(0.1)
        given = source.given
    assert source.given <= given + 1  # of the 1,000 that fill the pool
    assert source.closed
    assert data_threads() == []
    reader.join(10)
    assert not reader.is_alive()
