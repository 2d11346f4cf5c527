"""Reading pictures for views: reduced as far as views allow, within a limit on memory."""

import io
import math
import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_pictures import GROUPS, PLAIN, jpeg, png, smooth_picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.data import UnreadablePicture, centred_batches, open_source, view_batches
from edge_runtime.data.augmentation import NUMBERS, augment, centre_view, crop_box
from edge_runtime.data.decode import decode_picture
from edge_runtime.data.decoding_cost import Resolution, reduction_of, resolutions_of
from edge_runtime.data.header import PictureHeader, header_of
from edge_runtime.data.pipeline import CancelFlag, Cancelled, worker_count
from edge_runtime.data.reading import MemoryGate, PictureReader
from edge_runtime.package.manifest import AugmentationSpec, ViewGroup

MIB = 1 << 20
sides = st.integers(1, 4000)
unit = st.floats(0, 1, exclude_max=True)


def header(width: int, height: int, kind: str = "JPEG") -> PictureHeader:
    return PictureHeader(kind=kind, width=width, height=height, channels=3)


@given(
    sides,
    sides,
    st.integers(1, 256),
    st.floats(0.01, 1),
    st.lists(unit, min_size=22, max_size=22),
)
def test_a_reduction_leaves_every_view_twice_its_pixels(
    width, height, size_px, min_area, numbers
) -> None:
    spec = AugmentationSpec(min_area=min_area)
    needed = resolutions_of([ViewGroup(name="a", size_px=size_px, views=(spec,))])
    reduction = reduction_of(header(width, height), needed)
    if reduction > 1:
        box = crop_box(
            math.ceil(width / reduction), math.ceil(height / reduction), spec, numbers
        )
        assert min(box.width, box.height) >= 2 * size_px - 1  # crops are whole pixels


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(5000, 4000, 8), (3584, 4000, 8), (3583, 4000, 4), (896, 896, 2), (895, 896, 1)],
)
def test_a_centre_view_allows_the_largest_reduction(width, height, expected) -> None:
    assert reduction_of(header(width, height), [Resolution(224, None)]) == expected


def test_the_view_that_needs_most_decides() -> None:
    needed = [Resolution(32, 0.5), Resolution(96, 0.05), Resolution(224, None)]
    # 0.05 of 12 megapixels, 4:3: at least 670 px
    assert reduction_of(header(4000, 3000), needed) == 2
    assert reduction_of(header(4000, 3000), needed[:1]) == 8


def test_only_jpegs_are_reduced() -> None:
    assert reduction_of(header(4000, 3000, "PNG"), [Resolution(8, None)]) == 1


def textured(height: int, width: int) -> np.ndarray:
    """Spots of 100 px."""
    noise = np.random.default_rng(0).integers(
        0, 256, (height // 100, width // 100, 3), dtype=np.uint8
    )
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_reduced_crop_is_close_to_the_whole_one(reduction, progressive) -> None:
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0, "progressive": progressive}
    Image.fromarray(textured(803, 1198)).save(file, "JPEG", **options)
    whole = decode_picture(file.getvalue())
    reduced = decode_picture(file.getvalue(), reduction=reduction)
    assert reduced.shape == (math.ceil(803 / reduction), math.ceil(1198 / reduction), 3)
    spec = AugmentationSpec(min_area=0.5, max_area=0.5, flip=0.0, jitter=0.0, grayscale=0.0)
    numbers = np.random.default_rng(1).random((20, NUMBERS)).tolist()
    views = np.empty((2, 20, 32, 32, 3), dtype=np.uint8)
    for number, view, other in zip(numbers, *views, strict=True):
        augment(whole, spec, number, view, np.empty((2, 32, 32, 3), np.float32))
        augment(reduced, spec, number, other, np.empty((2, 32, 32, 3), np.float32))
    difference = views[0].astype(int) - views[1]
    # Levels vary by 63. What differs is the position, by up to a pixel of the reduced picture:
    # crops begin and end at whole pixels.
    assert np.abs(difference).mean() < 63 / 8
    assert np.abs(difference.mean((0, 1, 2))).max() < 1


@pytest.mark.parametrize("stripe_px", [3, 5, 7])
def test_a_reduction_adds_no_stripes(stripe_px) -> None:
    """With one pixel per pixel of the view, they had a deviation of 5 to 26 levels."""
    picture = np.zeros((1788, 1788, 3), dtype=np.uint8)
    picture[:, np.arange(1788) % stripe_px < stripe_px / 2] = 255
    content = jpeg(picture)
    reduction = reduction_of(header_of(content), [Resolution(224, None)])
    assert reduction > 1
    views = np.empty((2, 224, 224, 3), dtype=np.uint8)
    for view, factor in zip(views, (1, reduction), strict=True):
        centre_view(decode_picture(content, reduction=factor), view)
    assert views[1].std() < max(4.5, 1.5 * views[0].std())
    assert np.abs(views[0].astype(int) - views[1]).max() <= 6


@pytest.mark.parametrize("way", range(1, 9))
def test_a_reduced_picture_is_upright(way) -> None:
    exif = Image.Exif()
    exif[0x0112] = way
    file = io.BytesIO()
    Image.fromarray(smooth_picture(64, 96)).save(file, "JPEG", exif=exif, quality=95)
    whole, reduced = (decode_picture(file.getvalue(), reduction=n) for n in (1, 4))
    assert reduced.shape == ((24, 16, 3) if way >= 5 else (16, 24, 3))
    expected = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(reduced.astype(int), expected.astype(int), rtol=0, atol=6)


def folder_of(folder: Path, **contents: bytes) -> str:
    for name, content in contents.items():
        (folder / f"{name}.jpg").write_bytes(content)
    return str(folder)


def read(reader: PictureReader, index: int = 0) -> np.ndarray:
    pictures: list[np.ndarray] = []
    reader.read(index, CancelFlag(), pictures.append)
    return pictures[0]


def test_a_reader_reduces_and_a_source_does_not(tmp_path) -> None:
    content = jpeg(smooth_picture(200, 300))
    source = open_source(folder_of(tmp_path, a=content))
    assert read(PictureReader(source, [Resolution(16, None)])).shape == (50, 75, 3)
    np.testing.assert_array_equal(source.read(0), decode_picture(content))
    small = read(PictureReader(source, [Resolution(128, None)]))
    np.testing.assert_array_equal(small, source.read(0))


def test_a_picture_that_needs_more_than_the_limit_is_unreadable(tmp_path) -> None:
    source = open_source(folder_of(tmp_path, a=png(np.zeros((1000, 2000, 3), np.uint8))))
    reader = PictureReader(source, [Resolution(32, None)], limit_bytes=10 * MIB)
    message = "it needs 11 MiB to be decoded, more than the 10 MiB that this run has"
    with pytest.raises(UnreadablePicture, match=message):
        read(reader)
    assert read(PictureReader(source, [], limit_bytes=12 * MIB)).shape == (1000, 2000, 3)


def test_without_a_limit_a_large_picture_is_read_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.data.reading.SHARED_BYTES", 1)
    names = [f"p{number}" for number in range(8)]
    content = jpeg(smooth_picture(20, 20))
    source = open_source(folder_of(tmp_path, **dict.fromkeys(names, content)))
    reading, most = [], []

    def use(picture) -> None:
        reading.append(1)
        most.append(len(reading))
        time.sleep(0.002)
        reading.pop()

    reader = PictureReader(source, [Resolution(16, None)])
    threads = [
        threading.Thread(target=reader.read, args=(index, CancelFlag(), use))
        for index in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1] * 8


def test_a_gate_lets_through_what_fits() -> None:
    gate, flag = MemoryGate(10), CancelFlag()
    held, most = [], []

    def work(bytes_: int) -> None:
        for _ in range(20):
            with gate.hold(bytes_, flag):
                held.append(bytes_)
                most.append(sum(held))
                time.sleep(0.0005)
                held.remove(bytes_)

    threads = [threading.Thread(target=work, args=(size,)) for size in (3, 4, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert 6 < max(most) <= 10  # some at the same time, never too many


def test_a_gate_frees_what_a_failed_block_held() -> None:
    gate, flag = MemoryGate(10), CancelFlag()
    with pytest.raises(ZeroDivisionError), gate.hold(10, flag):
        raise ZeroDivisionError
    with gate.hold(10, flag):
        pass


def test_waiting_at_a_gate_ends_with_the_run() -> None:
    gate, flag = MemoryGate(10), CancelFlag()
    ended = []

    def wait() -> None:
        try:
            with gate.hold(5, flag):
                ended.append("held")
        except Cancelled:
            ended.append("cancelled")

    with gate.hold(8, flag):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        assert ended == []
        flag.set()
        thread.join(5)
    assert ended == ["cancelled"]


def test_a_limit_skips_pictures_and_names_them_whatever_the_threads(tmp_path) -> None:
    contents = {f"p{number:02}": png(smooth_picture(30, 30, number)) for number in range(40)}
    contents["p07"] = png(np.zeros((1500, 1500, 3), np.uint8))
    source = open_source(folder_of(tmp_path, **contents))

    def batches(threads: int) -> list:
        with view_batches(
            source,
            GROUPS,
            batch_size=8,
            seed=0,
            first_step=1,
            last_step=10,
            threads=threads,
            decoding_limit_bytes=8 * MIB,
        ) as made:
            return list(made)

    first, second = batches(1), batches(3)
    skipped = [one for batch in first for one in batch.skipped]
    assert {one.key for one in skipped} == {"p07.jpg"}
    assert "13 MiB to be decoded, more than the 8 MiB" in skipped[0].reason
    for one, other in zip(first, second, strict=True):
        assert one.skipped == other.skipped
        for name, images in one.images.items():
            np.testing.assert_array_equal(images, other.images[name])


def test_evaluation_reduces_to_its_view(tmp_path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg(smooth_picture(200, 300)))
    source = open_source(str(tmp_path))
    ((views, _),) = centred_batches(source, 32, 2, threads=1)
    expected = np.empty((32, 32, 3), dtype=np.uint8)
    centre_view(decode_picture(jpeg(smooth_picture(200, 300)), reduction=2), expected)
    np.testing.assert_array_equal(views[0], expected)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, endless])
def test_what_is_no_regular_file_is_unreadable_at_once(tmp_path, make) -> None:
    make(tmp_path / "a.jpg")
    source = open_source(str(tmp_path))
    start_s = time.monotonic()
    with pytest.raises(UnreadablePicture, match="it is not a regular file"):
        source.read(0)
    assert time.monotonic() - start_s < 1


def test_a_huge_file_is_not_read(tmp_path) -> None:
    content = jpeg(smooth_picture(20, 20))
    (tmp_path / "a.jpg").write_bytes(content)
    os.truncate(tmp_path / "a.jpg", 5 << 30)
    with pytest.raises(UnreadablePicture, match="5120 MiB, more than the 1024 MiB that are"):
        open_source(str(tmp_path)).read(0)


@pytest.mark.parametrize(
    ("cpus", "expected"), [(0.5, 1), (2.0, 1), (3.9, 1), (4.0, 2), (64.0, 4)]
)
def test_workers_are_half_of_the_processors_that_may_be_used(
    monkeypatch, cpus, expected
) -> None:
    monkeypatch.setattr("edge_runtime.data.pipeline.usable_cpus", lambda: cpus)
    assert worker_count(None) == expected
    assert worker_count(3) == 3


def test_a_plain_view_needs_the_whole_picture() -> None:
    group = ViewGroup(name="a", size_px=48, views=(PLAIN, PLAIN))
    assert resolutions_of([group]) == {Resolution(48, 1.0)}
    assert (
        reduction_of(header_of(jpeg(smooth_picture(240, 320))), resolutions_of([group])) == 2
    )
