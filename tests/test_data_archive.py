"""Archives that are damaged, cut or hostile: named with the byte, never pictures lost."""

import errno
import io
import os
import tarfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from data_pictures import keys, png, smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.data import open_source
from edge_runtime.data.archive import DamagedTarError, read_tar
from edge_runtime.errors import DataError

BLOCK = 512
PICTURES = 40
PICTURE = png(smooth_picture(12, 12))
ENTRY_BYTES = BLOCK + -(-len(PICTURE) // BLOCK) * BLOCK


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def picture(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), PICTURE


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


WHOLE = tar_of(*(picture(f"{number:02}.png") for number in range(PICTURES)))
CHECKSUM = range(148, 156)  # in a header
MIDDLE = PICTURES // 2 * ENTRY_BYTES  # the header of picture 20


def opened(folder: Path, content: bytes):
    path = folder / "p.tar"
    path.write_bytes(content)
    return open_source(str(path))


def replaced(content: bytes, position: int, new: bytes) -> bytes:
    return content[:position] + new + content[position + len(new) :]


DAMAGES = {
    "a bit flipped in a header": replaced(WHOLE, MIDDLE + 3, bytes([WHOLE[MIDDLE + 3] ^ 4])),
    "a header of zeros": replaced(WHOLE, MIDDLE, bytes(BLOCK)),
    "zeros in a header": replaced(WHOLE, MIDDLE, bytes(200)),
    "cut before a header": WHOLE[:MIDDLE],
    "cut inside a header": WHOLE[: MIDDLE + 100],
    "an entry overwritten": replaced(WHOLE, MIDDLE, b"\xa5" * ENTRY_BYTES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_refused_with_its_byte(tmp_path, damage) -> None:
    """It gave 20 of 40 pictures, and exit code 0."""
    message = (
        rf"p\.tar is damaged: at byte {MIDDLE} .*\. 20 picture\(s\) come before that\. "
        "Copy or make it again; or unpack"
    )
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, DAMAGES[damage])
    assert caught.value.exit_code == 6


def test_an_entry_that_is_cut_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=rf"at byte {MIDDLE} is an entry of {len(PICTURE)} b"):
        opened(tmp_path, WHOLE[: MIDDLE + BLOCK + 7])


def test_what_follows_the_end_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"zeros, as at the end, but more data.* 40 picture"):
        opened(tmp_path, WHOLE + WHOLE)  # as by `cat`
    with pytest.raises(DataError, match="more data"):
        opened(tmp_path, WHOLE + b"x")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, PICTURES * ENTRY_BYTES - 1), st.integers(0, 7))
def test_no_flipped_bit_loses_a_picture_without_a_word(tmp_path_factory, place, bit) -> None:
    content = replaced(WHOLE, place, bytes([WHOLE[place] ^ 1 << bit]))
    folder = tmp_path_factory.mktemp("flip")
    if place % ENTRY_BYTES in CHECKSUM:  # the number may stay the same: " 1\0 " or "01\0!"
        with suppress(DataError):
            assert len(opened(folder, content)) == PICTURES
    elif place % ENTRY_BYTES < BLOCK:
        with pytest.raises(DataError, match=r"damaged|not an uncompressed"):
            opened(folder, content)
    else:  # in a picture, which is then unreadable, or in the padding
        assert len(opened(folder, content)) == PICTURES


@settings(max_examples=60, deadline=None)
@given(st.integers(1, PICTURES * ENTRY_BYTES))
def test_no_cut_loses_a_picture_without_a_word(tmp_path_factory, size) -> None:
    with pytest.raises(DataError, match=r"damaged|not an uncompressed"):
        opened(tmp_path_factory.mktemp("cut"), WHOLE[:size])


@pytest.mark.parametrize("kept", [BLOCK, 2 * BLOCK])
def test_an_archive_may_lack_its_padding(tmp_path, kept) -> None:
    assert len(opened(tmp_path, WHOLE[: PICTURES * ENTRY_BYTES + kept])) == PICTURES


def test_a_long_hole_after_the_end_is_not_read(tmp_path) -> None:
    path = tmp_path / "p.tar"
    path.write_bytes(WHOLE)
    os.truncate(path, 1 << 40)
    start_s = time.monotonic()
    assert len(open_source(str(path))) == PICTURES
    assert time.monotonic() - start_s < 5


def header(**fields: bytes) -> bytes:
    """A header with raw fields, and the right checksum."""
    places = {"name": 0, "size": 124, "type": 156, "linkname": 157, "more": 482}
    block = bytearray(tarfile.TarInfo("b.png").tobuf(tarfile.GNU_FORMAT))
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def pax(records: bytes) -> bytes:
    padded = records + bytes(-len(records) % BLOCK)
    return header(type=b"x", size=octal(len(records))) + padded


END = bytes(2 * BLOCK)
FIRST = WHOLE[:ENTRY_BYTES]
NOT_THERE = "an entry of {} bytes, which the file does not have"
UNCLEAR = "an extended header that cannot be understood"
HOSTILE = {  # headers, and why they are refused
    "a size of 2^63": (
        header(size=b"\x80" + (1 << 63).to_bytes(11, "big")), NOT_THERE.format(1 << 63)
    ),
    "a size of 2^87": (header(size=b"\x80" + b"\x7f" * 11), NOT_THERE.format(r"\d+")),
    "a negative size": (header(size=b"\xff" * 12), NOT_THERE.format(-1)),
    "a size of minus one header": (
        header(size=b"\xff" * 10 + b"\xfe\0"), NOT_THERE.format(-512)
    ),
    "no number": (header(size=b"a picture..."), "no header of an entry"),
    "a pax header of 8 GB": (
        header(type=b"x", size=octal(8**11 - 1)), NOT_THERE.format(8**11 - 1)
    ),
    "a long name of 8 GB": (
        header(type=b"L", size=octal(8**11 - 1)), NOT_THERE.format(8**11 - 1)
    ),
    "a pax header of 2 MB": (
        pax(b"700016 comment=%b\n" % (b"x" * 700_000) * 3), "an extended header of 2100048 by"
    ),
    "a pax size that is no number": (pax(b"12 size=big\n") + FIRST, "size that is no number"),
    "a pax size of 2^63": (
        pax(b"28 size=9223372036854775808\n") + FIRST, NOT_THERE.format(1 << 63)
    ),
    "a pax record of no length": (pax(b"0 path=a.png\n") + FIRST, UNCLEAR),
    "a pax record that is too long": (pax(b"999 path=a.png\n") + FIRST, UNCLEAR),
    "a pax record without a value": (pax(b"7 path\n") + FIRST, UNCLEAR),
    "a name of 5000 letters": (
        pax(b"5011 path=" + b"n" * 5000 + b"\n") + FIRST, "a name of 5000 characters"
    ),
    "pax headers without an entry": (
        pax(b"14 path=a.png\n") * 3000, "no header of an entry"  # what follows them
    ),
    "holes without an end": (header(type=b"S", more=b"\x01"), NOT_THERE.format(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_at_once(tmp_path, name) -> None:
    start_s = time.monotonic()
    tracemalloc.start()
    try:
        content, reason = HOSTILE[name]
        with pytest.raises(DataError, match=rf"is damaged: at byte \d+ is .*{reason}"):
            opened(tmp_path, FIRST + content + b"\x01" * BLOCK)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start_s < 2


@settings(max_examples=200, deadline=None)
@given(
    st.binary(min_size=0, max_size=300),
    st.integers(0, 3 * BLOCK),
    st.sampled_from([content for content, _ in HOSTILE.values()]),
)
def test_no_archive_gives_another_error(tmp_path_factory, noise, place, block) -> None:
    path = tmp_path_factory.mktemp("any") / "p.tar"
    path.write_bytes(replaced(block + FIRST + END, place, noise))
    with path.open("rb") as file, suppress(DamagedTarError):
        for entry in read_tar(file.fileno()):
            assert 0 <= entry.size <= path.stat().st_size - entry.offset


LONG = "/".join(["a folder with a long name"] * 12) + "/é.png"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", [LONG, "é/ü.png", f"{'x' * 99}/{'y' * 90}.png"])
def test_long_and_foreign_names_are_read_in_every_format(tmp_path, form, name) -> None:
    content = tar_of(picture("a.png"), picture(name), picture("z.png"), form=form)
    assert keys(opened(tmp_path, content)) == sorted(["a.png", name, "z.png"])


def test_a_pax_size_counts(tmp_path) -> None:
    """As for files of more than 8 GB, whose header has no room for the size."""
    large = pax(b"%d size=%d\n" % (9 + len(str(len(PICTURE))), len(PICTURE)))
    padded = PICTURE + bytes(-len(PICTURE) % BLOCK)
    source = opened(tmp_path, large + header(size=octal(0)) + padded + FIRST + END)
    assert keys(source) == ["00.png", "b.png"]
    assert source.read(1).shape == (12, 12, 3)


def test_links_lead_to_their_pictures(tmp_path) -> None:
    content = tar_of(
        link("before.png", "far/1.png", tarfile.LNKTYPE),
        picture("far/1.png"),
        link("near/hard.png", "./far/1.png", tarfile.LNKTYPE),
        link("near/soft.png", "../far/1.png", tarfile.SYMTYPE),
        link("near/chain.png", "soft.png", tarfile.SYMTYPE),
        (tarfile.TarInfo("far/blob"), PICTURE),
        link("near/blob.png", "far/blob", tarfile.LNKTYPE),
    )
    source = opened(tmp_path, content)
    assert keys(source) == [
        "before.png",
        "far/1.png",
        "near/blob.png",
        "near/chain.png",
        "near/hard.png",
        "near/soft.png",
    ]
    for index in range(len(source)):
        assert source.read(index).shape == (12, 12, 3)


def test_links_that_lead_nowhere_are_named(tmp_path) -> None:
    content = tar_of(
        picture("1.png"),
        link("self.png", "self.png", tarfile.SYMTYPE),
        link("one.png", "two.png", tarfile.LNKTYPE),
        link("two.png", "one.png", tarfile.LNKTYPE),
        link("out.png", "/etc/passwd", tarfile.SYMTYPE),
    )
    source = opened(tmp_path, content)
    assert keys(source) == ["1.png"]
    assert source.left_out == (
        "links to what is not in the archive: 4 (self.png, one.png, two.png, ...)"
    )


def test_files_with_holes_are_named(tmp_path) -> None:
    sparse = pax(b"22 GNU.sparse.major=1\n25 GNU.sparse.name=s.png\n") + FIRST
    old = header(type=b"S", name=b"old.png\0")
    source = opened(tmp_path, sparse + old + FIRST + END)
    assert keys(source) == ["00.png"]
    assert source.left_out == "files with holes: 2 (s.png, old.png)"


def test_a_file_with_holes_replaces_an_earlier_one(tmp_path) -> None:
    sparse = header(type=b"S", name=b"00.png\0")
    source = opened(tmp_path, FIRST + sparse + WHOLE[ENTRY_BYTES : 2 * ENTRY_BYTES] + END)
    assert keys(source) == ["01.png"]
    assert source.left_out == "files with holes: 1 (00.png)"


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_the_size_of_what_has_no_content_is_skipped(tmp_path, kind) -> None:
    header_only = header(type=kind, name=b"other\0", size=octal(5 * BLOCK))
    assert keys(opened(tmp_path, header_only + FIRST + END)) == ["00.png"]


def test_a_global_header_names_no_entry(tmp_path) -> None:
    record = b"14 path=a.png\n"
    whole = header(type=b"g", size=octal(len(record))) + record.ljust(BLOCK, b"\0")
    assert keys(opened(tmp_path, whole + FIRST + END)) == ["00.png"]


def test_many_entries_take_little_memory(tmp_path) -> None:
    """tarfile keeps about 2 kB per entry."""
    count = 5000
    path = tmp_path / "p.tar"
    with path.open("wb") as file:
        for number in range(count):
            file.write(header(name=b"%08d.png\0" % number, size=octal(0)))
        file.write(END)
    tracemalloc.start()
    try:
        source = open_source(str(path))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == count
    assert kept < 350 * count
    assert peak < 600 * count


def test_a_disk_that_fails_is_no_traceback(tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "p.tar").write_bytes(WHOLE)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match=r"p\.tar: .*Input/output error"):
        open_source(str(tmp_path / "p.tar"))
