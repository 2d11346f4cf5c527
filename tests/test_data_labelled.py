"""Labelled batches for evaluation."""

import logging
import threading

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

from edge_runtime.data import labelled_batches, labelled_decoding_bytes, open_source
from edge_runtime.data.listing import open_folder
from edge_runtime.errors import DataError


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_all_pictures_come_in_order_with_their_labels(threads) -> None:
    batches = list(labelled_batches(FlatPictures(23, labelled=True), 8, 5, threads=threads))
    assert [len(views) for views, _ in batches] == [5, 5, 5, 5, 3]
    views = np.concatenate([views for views, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    assert views.shape == (23, 8, 8, 3)
    assert views.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [index % 2 for index in range(23)]
    assert [tuple(view[0, 0].tolist()) for view in views] == [colour_of(i) for i in range(23)]


def test_digits_are_seen_as_they_are() -> None:
    source = open_source("digits:test")
    views, labels = next(labelled_batches(source, 16, 10, threads=1))
    np.testing.assert_array_equal(views[4], source.read(4))
    assert labels.tolist() == list(range(10))


def test_unreadable_pictures_are_skipped_and_named(caplog) -> None:
    source = FlatPictures(200, bad=[3, 4, 5, 150], labelled=True)
    with caplog.at_level(logging.WARNING):
        batches = list(labelled_batches(source, 8, 3, threads=2))
    good = [i for i in range(200) if i not in (3, 4, 5, 150)]
    labels = np.concatenate([labels for _, labels in batches])
    views = np.concatenate([views for views, _ in batches])
    assert labels.tolist() == [i % 2 for i in good]
    assert [tuple(view[0, 0].tolist()) for view in views] == [colour_of(i) for i in good]
    assert min(len(views) for views, _ in batches) == 2  # a batch of bad ones is left out
    assert "picture 150 cannot be read and is skipped: it was made bad" in caplog.text


def test_too_many_unreadable_pictures_are_an_error() -> None:
    source = FlatPictures(50, bad=[1, 2, 3], labelled=True)
    with pytest.raises(DataError, match=r"flat: 3 of the 50 pictures.*5% of 50"):
        list(labelled_batches(source, 8, 10, threads=1))


def test_bad_pictures_may_lie_together() -> None:
    source = FlatPictures(400, bad=range(60, 80), labelled=True)
    batches = list(labelled_batches(source, 8, 10, threads=1))
    assert sum(len(labels) for _, labels in batches) == 380


@pytest.mark.parametrize("source", [FlatPictures(5), FlatFrames()])
def test_without_labels_there_is_nothing_to_evaluate(source) -> None:
    with pytest.raises(DataError, match=r"has no labels.*one sub-folder per class"):
        labelled_batches(source, 8, 2, threads=1)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    batches = labelled_batches(
        FlatPictures(500, labelled=True, read_s=0.002), 8, 50, threads=2
    )
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_a_picture_above_the_limit_on_decoding_is_skipped(tmp_path, caplog) -> None:
    for label in ("cat", "dog"):
        write_pictures(tmp_path / label, [f"{n}.png" for n in range(30)])
    (tmp_path / "dog/huge.png").write_bytes(png(smooth_picture(3000, 3000)))
    source = open_folder(tmp_path)
    needed = labelled_decoding_bytes(source, 16, threads=1)
    assert needed > 3000 * 3000 * 3
    for limit, read in ((needed, 61), (8 << 20, 60)):
        batches = labelled_batches(source, 16, 8, threads=1, decoding_limit_bytes=limit)
        assert sum(len(labels) for _, labels in batches) == read
    assert "dog/huge.png cannot be read and is skipped: it needs" in caplog.text
