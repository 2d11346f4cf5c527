"""Every picture once, in order, for evaluation and embedding."""

import logging
import os
import threading

import cv2
import numpy as np
import pytest
from data_pictures import (
    FlatFrames,
    FlatPictures,
    colour_of,
    png,
    smooth_picture,
    write_pictures,
)

from edge_runtime.data import (
    SourceLostError,
    centred_batches,
    centred_decoding_bytes,
    open_source,
    picture_count,
    picture_name,
    require_labels,
)
from edge_runtime.data.listing import open_folder
from edge_runtime.errors import DataError


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_all_pictures_come_in_order_with_their_numbers(threads) -> None:
    batches = list(centred_batches(FlatPictures(23), 8, 5, threads=threads))
    assert [len(views) for views, _ in batches] == [5, 5, 5, 5, 3]
    views = np.concatenate([views for views, _ in batches])
    numbers = np.concatenate([numbers for _, numbers in batches])
    assert views.shape == (23, 8, 8, 3)
    assert views.dtype == np.uint8
    assert numbers.dtype == np.int64
    assert numbers.tolist() == list(range(23))
    assert [tuple(view[0, 0].tolist()) for view in views] == [colour_of(i) for i in range(23)]


def test_digits_are_seen_as_they_are() -> None:
    source = open_source("digits:test")
    views, _ = next(centred_batches(source, 16, 10, threads=1))
    np.testing.assert_array_equal(views[4], source.read(4))


def test_unreadable_pictures_are_skipped_and_named(caplog) -> None:
    source = FlatPictures(200, bad=[3, 4, 5, 150])
    with caplog.at_level(logging.WARNING):
        batches = list(centred_batches(source, 8, 3, threads=2))
    good = [i for i in range(200) if i not in (3, 4, 5, 150)]
    numbers = np.concatenate([numbers for _, numbers in batches])
    views = np.concatenate([views for views, _ in batches])
    assert numbers.tolist() == good
    assert [tuple(view[0, 0].tolist()) for view in views] == [colour_of(i) for i in good]
    assert min(len(views) for views, _ in batches) == 2  # a batch of bad ones is left out
    assert "picture 150 cannot be read and is skipped: it was made bad" in caplog.text


def test_too_many_unreadable_pictures_are_an_error() -> None:
    source = FlatPictures(50, bad=[1, 2, 3])
    with pytest.raises(DataError, match=r"flat: 3 of the 50 pictures.*5% of 50"):
        list(centred_batches(source, 8, 10, threads=1))


def test_bad_pictures_may_lie_together() -> None:
    source = FlatPictures(400, bad=range(60, 80))
    batches = list(centred_batches(source, 8, 10, threads=1))
    assert sum(len(numbers) for _, numbers in batches) == 380


@pytest.mark.parametrize("source", [FlatPictures(5), FlatFrames()])
def test_without_labels_there_is_nothing_to_evaluate(source) -> None:
    with pytest.raises(DataError, match=r"has no labels.*one sub-folder per class"):
        require_labels(source)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    batches = centred_batches(FlatPictures(500, read_s=0.002), 8, 50, threads=2)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_a_picture_above_the_limit_on_decoding_is_skipped(tmp_path, caplog) -> None:
    for label in ("cat", "dog"):
        write_pictures(tmp_path / label, [f"{n}.png" for n in range(30)])
    (tmp_path / "dog/huge.png").write_bytes(png(smooth_picture(3000, 3000)))
    source = open_folder(tmp_path)
    needed = centred_decoding_bytes(source, 16, threads=1)
    assert needed > 3000 * 3000 * 3
    for limit, read in ((needed, 61), (8 << 20, 60)):
        batches = centred_batches(source, 16, 8, threads=1, decoding_limit_bytes=limit)
        assert sum(len(numbers) for _, numbers in batches) == read
    assert "dog/huge.png cannot be read and is skipped: it needs" in caplog.text


@pytest.mark.parametrize("images", [1, 7, 23, 10**9])
def test_only_the_first_pictures_are_read(images) -> None:
    source = FlatPictures(23)
    batches = list(centred_batches(source, 8, 5, images=images, threads=1))
    numbers = np.concatenate([numbers for _, numbers in batches])
    assert numbers.tolist() == list(range(min(images, 23)))
    assert sorted(source.reads) == numbers.tolist()
    assert picture_count(source, images) == len(numbers)


FRAMES = 11


@pytest.fixture
def video(tmp_path) -> str:
    """Frame i is grey of level 20 * i, with a white edge left and right of the centre."""
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 32))
    for number in range(FRAMES):
        frame = np.full((32, 64, 3), 20 * number, dtype=np.uint8)
        frame[:, :16] = frame[:, 48:] = 255
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize(("images", "seen"), [(None, FRAMES), (4, 4), (30, FRAMES)])
def test_a_video_is_read_once_from_its_beginning(video, images, seen, caplog) -> None:
    batches = list(centred_batches(open_source(video), 8, 4, images=images, threads=3))
    views = np.concatenate([views for views, _ in batches])
    numbers = np.concatenate([numbers for _, numbers in batches])
    assert numbers.tolist() == list(range(seen))
    assert numbers.dtype == np.int64
    # the centre alone; the codec keeps grey within some levels
    levels = views[:, 2:6, 2:6].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 20 * np.arange(seen), atol=6)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("header", "seen", "said"),
    [
        (5, 5, "has more than the 5 frames of its header"),
        (30, FRAMES, "11 of the 30 frames of its header can be read"),
    ],
)
def test_a_wrong_number_of_frames_is_reported(video, header, seen, said, caplog) -> None:
    source = open_source(video)
    source.frame_count = header
    assert picture_count(source) == header
    batches = list(centred_batches(source, 8, 4, threads=1))
    assert sum(len(numbers) for _, numbers in batches) == seen
    assert said in caplog.text


def test_a_video_of_unknown_length_needs_a_number(video) -> None:
    source = open_source(video)
    source.frame_count = None
    with pytest.raises(DataError, match=r"does not say how many frames.*--images N"):
        centred_batches(source, 8, 4, threads=1)
    ((views, _),) = centred_batches(source, 8, 4, images=3, threads=1)
    assert len(views) == 3


def test_a_video_that_is_gone_is_an_error(video) -> None:
    source = open_source(video)
    os.unlink(video)
    with pytest.raises(SourceLostError, match="cannot be read any more"):
        list(centred_batches(source, 8, 4, threads=1))


def test_leaving_a_video_early_ends_the_thread(video) -> None:
    before = threading.active_count()
    batches = centred_batches(open_source(video), 8, 2, threads=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_frames_that_nobody_keeps_are_refused() -> None:
    with pytest.raises(DataError, match=r"frames keeps no pictures.*Save them to a folder"):
        centred_batches(FlatFrames(), 8, 2, images=10, threads=1)


def test_pictures_are_found_again_by_their_names(tmp_path, video) -> None:
    names = [b"a/b.png", b"a/\xff \xe2\x80\xae.png"]
    for name in names:
        write_pictures(tmp_path / "p", [os.fsdecode(name)])
    source = open_folder(tmp_path / "p")
    found = [picture_name(source, number) for number in range(2)]
    assert [name.encode("utf-8", "surrogateescape") for name in found] == sorted(names)
    assert source.key(1) == r"a/\xff \u202e.png"
    assert picture_name(open_source("digits"), 3) == "digits 3"
    assert picture_name(open_source(video), 3) == "frame 3"
