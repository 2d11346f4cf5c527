"""Names of files: which are read, which are left out and named, how they are printed."""

import logging
import os
import subprocess
import time
import unicodedata
from pathlib import Path

import pytest
from data_pictures import keys, png, smooth_picture, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.data import open_source
from edge_runtime.data.naming import printable_name
from edge_runtime.errors import DataError

PICTURE = png(smooth_picture(12, 12))


@pytest.mark.parametrize(
    "extension",
    [
        ".jpg",
        ".JPG",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".JFIF",
        ".Png",
        ".TIF",
        ".webp",
        ".gif",
        ".bmp",
    ],
)
def test_every_usual_ending_is_read(tmp_path, extension) -> None:
    source = open_source(str(write_pictures(tmp_path, [f"a{extension}"])))
    assert source.read(0).shape == (12, 12, 3)


OTHERS = ["a/1.heic", "a/2.HEIC", "a/3.heic", "b/4.heic", "x.avif", "x.DNG", "x.cr2", "f.mp4"]
OTHERS_TEXT = (
    ".avif files: 1 (x.avif); .cr2 files: 1 (x.cr2); .dng files: 1 (x.DNG); "
    ".heic files: 4 (a/1.heic, a/2.HEIC, a/3.heic, ...); .mp4 files: 1 (f.mp4)"
)


def sorted_walk(monkeypatch) -> None:
    """Folders list their files in any order; the first names are then any."""
    walk = os.walk

    def ordered(*args, **options):
        for folder, subfolders, files in walk(*args, **options):
            subfolders.sort()
            yield folder, subfolders, sorted(files)

    monkeypatch.setattr(os, "walk", ordered)


def test_pictures_that_are_not_decoded_are_counted_and_named(
    tmp_path, monkeypatch, caplog
) -> None:
    sorted_walk(monkeypatch)
    folder = write_pictures(tmp_path / "p", [*OTHERS, "ok.png", "a/notes.txt"])
    with caplog.at_level(logging.WARNING):
        source = open_source(str(folder))
    assert keys(source) == ["ok.png"]
    assert sorted(source.left_out.split("; ")) == sorted(OTHERS_TEXT.split("; "))
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: not read: {source.left_out}"
    ]


def test_they_are_named_where_nothing_else_is_left(tmp_path) -> None:
    folder = write_pictures(tmp_path / "p", ["IMG_1.HEIC"])
    with pytest.raises(
        DataError, match=r"no pictures: .* Not read: \.heic files: 1 \(IMG_1\.H"
    ):
        open_source(str(folder))


def test_folders_of_the_system_are_left_out_and_named(tmp_path) -> None:
    names = [
        "cat/1.png", "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "lost+found/2.png",
        ".Trash-1000/files/3.png", "__MACOSX/._1.png", "$RECYCLE.BIN/4.png", "cat/._1.png",
    ]  # fmt: skip
    folder = write_pictures(tmp_path / "p", names)
    source = open_source(str(folder))
    assert keys(source) == ["cat/1.png"]
    assert list(source.classes) == ["cat"]
    assert source.left_out.startswith("folders of the system: 4 (")
    assert source.left_out.endswith(
        "; hidden folders: 1 (.Trash-1000); hidden pictures: 1 (cat/._1.png)"
    )
    packed = tmp_path / "p.tar"
    subprocess.run(["tar", "-cf", packed, "-C", folder, "."], check=True)
    source = open_source(str(packed))
    assert keys(source) == ["cat/1.png"]
    assert "of the system" in source.left_out
    assert "hidden" in source.left_out


def refused(monkeypatch, *names: str) -> None:
    """Root may list every folder."""
    scandir = os.scandir

    def refuse(path):
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_left_out_and_named(tmp_path, monkeypatch) -> None:
    write_pictures(tmp_path / "p", ["cat/1.png", "private/2.png"])
    refused(monkeypatch, "private")
    source = open_source(str(tmp_path / "p"))
    assert keys(source) == ["cat/1.png"]
    assert source.left_out == "folders that cannot be listed: 1 (private)"


def test_a_source_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch) -> None:
    write_pictures(tmp_path / "p", ["cat/1.png"])
    refused(monkeypatch, "p")
    with pytest.raises(DataError, match=r"p cannot be listed: Permission denied\. Grant"):
        open_source(str(tmp_path / "p"))


NAMES = {
    "plain é 写真.png": "plain é 写真.png",
    "\x1b[31mred.png": "\\x1b[31mred.png",
    "two\nlines\r.png": "two\\nlines\\r.png",
    "\u202egnp.exe": "\\u202egnp.exe",
    "bell\a\x7f\x9b.png": "bell\\x07\\x7f\\x9b.png",
    os.fsdecode(b"\xff.png"): "\\xff.png",
    "\ud800.png": "\\ud800.png",
    "nul\0.png": "nul\\x00.png",
    "\u2028line\u2029.png": "\\u2028line\\u2029.png",
    "zero\u200bwidth\ufeff.png": "zero\\u200bwidth\\ufeff.png",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_made_printable_name(name) -> None:
    assert printable_name(name) == NAMES[name]


@given(st.text(st.characters()) | st.binary().map(os.fsdecode))
def test_any_name_is_one_line_that_can_be_encoded(name) -> None:
    text = printable_name(name)
    assert text.encode().decode() == text
    assert not {unicodedata.category(one) for one in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable_name(text) == text


def test_names_of_pictures_classes_and_sources_are_printable(tmp_path) -> None:
    folder = write_pictures(
        tmp_path / "a\x1b[31m", ["x\u202e/1\n.png", "y\a/2.png", "y\a/3\x9b.heic"]
    )
    source = open_source(str(folder))
    assert source.name == f"{tmp_path}/a\\x1b[31m"
    assert keys(source) == ["x\\u202e/1\\n.png", "y\\x07/2.png"]
    assert list(source.classes) == ["x\\u202e", "y\\x07"]
    assert source.left_out == ".heic files: 1 (y\\x07/3\\x9b.heic)"
    assert source.read(0).shape == (12, 12, 3)
    for name in ("gone\x1b", "gone\n.tar", "a\x1b[31m/\ud800"):
        with pytest.raises(DataError) as caught:
            open_source(str(tmp_path / name))
        assert caught.value.args[0].isprintable()


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(write_pictures(tmp_path, ["1.png"]))
    with pytest.raises(DataError, match=r"the name of the pictures is empty\. Give a f"):
        open_source("")


@pytest.mark.parametrize("name", ["p.tar", "p.mp4", "p"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/dev/null", "/proc/kmsg"])
def test_what_is_neither_a_folder_nor_a_file_is_refused_at_once(tmp_path, name, kind) -> None:
    path = tmp_path / name
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    start_s = time.monotonic()
    with pytest.raises(
        DataError, match=rf"{name} is (neither a folder nor a reg|empty\. Give)"
    ):
        open_source(str(path))
    assert time.monotonic() - start_s < 1


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("x" * 5000, "File name too long"),
        ("a\0b", "embedded null (byte|character)"),
        ("camera:" + "9" * 30, "no such file or folder"),
        ("/dev/null/p.tar", "Not a directory"),
    ],
)
def test_names_that_no_file_can_have_are_errors_of_the_user(spec, reason) -> None:
    with pytest.raises(DataError, match=reason):
        open_source(spec)


def test_a_link_to_a_folder_of_its_own_is_no_circle(tmp_path) -> None:
    folder = write_pictures(tmp_path / "p", ["cat/1.png"])
    (folder / "again").symlink_to(folder)
    assert keys(open_source(str(folder))) == ["cat/1.png"]
