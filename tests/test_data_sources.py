"""Folders, archives, the embedded digits: which are read, in which order, with which label."""

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_pictures import keys, png, smooth_picture, write_pictures

import edge_runtime.data.digits as digits_module
from edge_runtime.data import PictureSource, UnreadablePicture, open_source
from edge_runtime.data.files import class_labels
from edge_runtime.errors import DataError


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture_bytes(seed: int) -> bytes:
    return png(smooth_picture(12, 12, seed))


def test_a_folder_is_walked_in_the_order_of_names(tmp_path) -> None:
    names = ["b/2.png", "b/10.png", "a/deep/er/x.JPG", "a/z.jpeg", "B/1.Png", "c.tiff/9.webp"]
    source = open_source(str(write_pictures(tmp_path, names)))
    assert isinstance(source, PictureSource)
    assert keys(source) == sorted(names)
    assert source.name == str(tmp_path)
    index = keys(source).index("a/z.jpeg")
    np.testing.assert_array_equal(
        source.read(index), smooth_picture(12, 12, names.index("a/z.jpeg"))
    )


def test_hidden_and_other_files_are_left_out(tmp_path) -> None:
    names = ["a/1.png", "a/.2.png", ".cache/3.png", "a/notes.txt", "a/._1.png", "a/png"]
    assert keys(open_source(str(write_pictures(tmp_path, names)))) == ["a/1.png"]


def test_class_folders_are_labels(tmp_path) -> None:
    names = ["cat/1.png", "cat/more/2.png", "ant/1.png", "dog/1.png"]
    source = open_source(str(write_pictures(tmp_path, names)))
    assert list(source.classes) == ["ant", "cat", "dog"]
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["1.png", "2.png"], [], None),
        (["cat/1.png", "2.png"], [], None),
        (["all/cat/1.png", "all/dog/x/1.png"], ["cat", "dog"], [0, 1]),
        (["all/train/cat/1.png", "all/train/dog/1.png"], ["cat", "dog"], [0, 1]),
        (["cat/1.png", "cat/2.png"], ["cat"], [0, 0]),
        (["all/cat/1.png", "all/2.png"], ["all"], [0, 0]),
        ([], [], None),
    ],
)
def test_the_class_is_the_first_folder_that_differs(names, classes, labels) -> None:
    named, numbers = class_labels(names)
    assert list(named) == classes
    assert (None if numbers is None else numbers.tolist()) == labels or not names


def test_links_are_followed_but_not_in_circles(tmp_path) -> None:
    write_pictures(tmp_path / "far", ["1.png"])
    write_pictures(tmp_path / "near", ["cat/1.png"])
    (tmp_path / "near/dog").symlink_to(tmp_path / "far")
    (tmp_path / "near/cat/up").symlink_to(tmp_path / "near")
    (tmp_path / "near/cat/same").symlink_to(tmp_path / "near/cat")
    (tmp_path / "near/puppy").symlink_to(tmp_path / "far")  # once is enough
    assert keys(open_source(str(tmp_path / "near"))) == ["cat/1.png", "dog/1.png"]


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"\xff.png")
    with open(raw, "wb") as file:
        file.write(picture_bytes(0))
    source = open_source(str(tmp_path))
    assert keys(source) == ["\\xff.png"]
    assert source.read(0).shape == (12, 12, 3)


def test_a_removed_picture_is_unreadable(tmp_path) -> None:
    source = open_source(str(write_pictures(tmp_path, ["1.png", "2.png"])))
    (tmp_path / "2.png").unlink()
    with pytest.raises(UnreadablePicture, match="cannot be read: No such file"):
        source.read(1)


def test_an_archive_equals_the_folder_it_was_made_from(tmp_path) -> None:
    names = ["dog/2.png", "cat/1.png", "cat/.hidden.png", "cat/readme.txt"]
    folder = write_pictures(tmp_path / "pictures", names)
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(folder, arcname=".")
    unpacked, packed = open_source(str(folder)), open_source(str(tmp_path / "p.tar"))
    assert keys(packed) == keys(unpacked) == ["cat/1.png", "dog/2.png"]
    assert packed.labels.tolist() == [0, 1]
    for index in range(2):
        np.testing.assert_array_equal(packed.read(index), unpacked.read(index))


def test_the_later_of_two_entries_counts(tmp_path) -> None:
    path = tmp_path / "p.tar"
    write_tar(path, {"a.png": picture_bytes(0)})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("./a.png")
        info.size = len(picture_bytes(1))
        tar.addfile(info, io.BytesIO(picture_bytes(1)))
    source = open_source(str(path))
    assert len(source) == 1
    np.testing.assert_array_equal(source.read(0), smooth_picture(12, 12, 1))


def test_an_archive_is_read_from_many_threads(tmp_path) -> None:
    members = {f"{seed:03}.png": picture_bytes(seed) for seed in range(40)}
    source = open_source(str(write_tar(tmp_path / "p.tar", members)))
    with ThreadPoolExecutor(8) as executor:
        pictures = list(executor.map(source.read, list(range(40)) * 5))
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, smooth_picture(12, 12, index % 40))


def test_an_archive_that_shrank_gives_unreadable_pictures(tmp_path) -> None:
    path = write_tar(tmp_path / "p.tar", {"a.png": picture_bytes(0)})
    source = open_source(str(path))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UnreadablePicture, match="truncated"):
        source.read(0)


def cut_tar(folder: Path) -> Path:
    path = write_tar(folder / "cut.tar", {"a.png": bytes(5000), "b.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    return path


def gzipped_tar(folder: Path) -> Path:
    with tarfile.open(folder / "zipped.tar", "w:gz"):
        return folder / "zipped.tar"


def empty_folder(folder: Path) -> Path:
    write_pictures(folder / "empty", [".hidden.png", "a.txt"])
    return folder / "empty"


def file_of(name: str):
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(b"?")
        return folder / name

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: folder / "missing",
            r"missing: no such file or folder\. Give a folder",
        ),
        (empty_folder, r"empty has no pictures: the folder was searched.*\.jpg"),
        (
            lambda folder: write_tar(folder / "p.tar", {"a.txt": b""}),
            "the archive was searched",
        ),
        (
            cut_tar,
            r"cut\.tar is not an uncompressed \.tar, or damaged: at byte 0 is an entry of",
        ),
        (
            gzipped_tar,
            r"zipped\.tar is not an uncompressed \.tar, or damaged: .* Copy or make it",
        ),
        (file_of("p.tar.gz"), r"p\.tar\.gz is compressed.*Unpack it"),
        (file_of("p.png"), "p.png is a single picture. Give the folder"),
        (file_of("p.parquet"), r"p\.parquet is of an unknown kind\. Give a folder.*camera:N"),
        (file_of("p.mp4"), r"p\.mp4: no frame of this video can be decoded"),
        (lambda _: "camera:front", "camera:front: no such file or folder"),
        (lambda _: "digits:validation", "digits:validation: no such file.*digits:test"),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path, make, message) -> None:
    with pytest.raises(DataError, match=message):
        open_source(str(make(tmp_path)))


def test_digits_are_split_between_writers() -> None:
    train, test = open_source("digits"), open_source("digits:test")
    assert (len(train), len(test)) == (1415, 382)
    assert list(train.classes) == list("0123456789")
    # Every form starts with 0 to 9, three times; so does the test part
    assert test.labels[:30].tolist() == list(range(10)) * 3
    assert np.bincount(test.labels).min() > 30


def test_a_digit_is_bright_on_black_and_known_by_its_neighbours() -> None:
    train, test = open_source("digits"), open_source("digits:test")
    picture = train.read(0)
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() > 240
    assert train.key(3) == "digits 3"
    known = np.stack([train.read(index) for index in range(1415)]).reshape(1415, -1) / 255
    queries = np.stack([test.read(index) for index in range(40)]).reshape(40, -1) / 255
    distances = ((queries[:, None, ::3] - known[None, :, ::3]) ** 2).sum(-1)
    assert (train.labels[distances.argmin(1)] == test.labels[:40]).mean() > 0.9


def test_digits_are_small_and_say_where_they_come_from() -> None:
    folder = Path(digits_module.__file__).parent
    assert (folder / "digits.npz").stat().st_size < 80_000
    for text in ((folder / "digits.txt").read_text(), digits_module.__doc__):
        assert "Alpaydin" in text
        assert "CC BY 4.0" in text
        assert "1,415" in text


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    theirs = datasets.load_digits()
    with np.load(Path(digits_module.__file__).with_name("digits.npz")) as ours:
        np.testing.assert_array_equal(ours["dots"], theirs.images)
        np.testing.assert_array_equal(ours["labels"], theirs.target)


def test_opencv_starts_no_threads() -> None:
    assert cv2.getNumThreads() == 1
