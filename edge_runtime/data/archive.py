"""Entries of an uncompressed .tar, whose headers are not trusted. Unit: bytes.

Python's tarfile decodes each header, but does not walk through the archive: at a damaged
header it ends as if the archive did, it keeps an object per entry, and what a header announces
it reads into memory.
"""

import errno
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_MOST_EXTENDED_BYTES = 1 << 20  # of a header that extends the next one
_LONGEST_NAME = 4096  # PATH_MAX of Linux
_READ_BYTES = 1 << 20  # at once
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NAMES = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]{1,200})=")
_PAX_SPARSE = "GNU.sparse."
# Kinds without content, whatever size their header has.
_WITHOUT_CONTENT = frozenset(
    {
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
    }
)
_HAS_MORE, _SPARSE_HAS_MORE = 482, 504  # flags of the old GNU sparse format


class DamagedTarError(Exception):
    """An archive cannot be read on from a header."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


class TarEntry(NamedTuple):
    """A file or a link in an archive."""

    name: str  # without "./"
    target: str | None  # name of the entry that a link points to
    offset: int  # of the file's content
    size: int
    is_sparse: bool  # its content has holes, which are not stored


def read_tar(file: int) -> Iterator[TarEntry]:
    """Files and links of an archive, one by one, in its order.

    Args:
        file: descriptor of a regular file.

    Raises:
        DamagedTarError: a header is damaged, or announces more than there is; the archive has
            no end mark, or something follows it.
        OSError: it cannot be read.
    """
    end = os.fstat(file).st_size
    position = 0
    extended: dict[str, str] = {}  # fields that replace those of the next header
    while True:
        header = _header(file, position)
        if header is None:
            _require_zeros(file, position, end)
            return
        content = position + _BLOCK
        if header.type == tarfile.GNUTYPE_SPARSE:
            content = _after_sparse_headers(file, position)
        size = header.size
        is_extension = header.type in (*_PAX_TYPES, *_LONG_NAMES, tarfile.XGLTYPE)
        if not is_extension and "size" in extended:
            size = _size(extended["size"], position)
        stored = 0 if header.type in _WITHOUT_CONTENT else size
        if stored < 0 or content + stored > end:
            raise DamagedTarError(
                position, f"an entry of {stored} bytes, which the file does not have"
            )
        if is_extension:
            extended.update(_extension(file, header.type, content, stored, position))
        else:
            if header.isreg() or header.issym() or header.islnk():
                yield _entry(header, extended, content, size)
            extended = {}
        position = content + -(-stored // _BLOCK) * _BLOCK


def _header(file: int, position: int) -> tarfile.TarInfo | None:
    """The header at a position; `None` for the end mark, a block of zeros."""
    block = os.pread(file, _BLOCK, position)
    if not block:
        raise DamagedTarError(position, "the end of the file, without an end mark")
    if len(block) < _BLOCK:
        raise DamagedTarError(position, "the end of the file, inside a header")
    if not any(block):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedTarError(position, f"no header of an entry ({error})") from error


def _require_zeros(file: int, start: int, end: int) -> None:
    """Only zeros may follow the end mark."""
    position = start
    while position < end:
        try:
            position = os.lseek(file, position, os.SEEK_DATA)  # holes may be huge
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                return
            raise
        block = os.pread(file, _READ_BYTES, position)
        if block.count(0) < len(block):
            raise DamagedTarError(start, "zeros, as at the end, but more data after them")
        position += max(1, len(block))


def _after_sparse_headers(file: int, position: int) -> int:
    """Where the content of an entry in the old GNU sparse format begins."""
    has_more = os.pread(file, 1, position + _HAS_MORE) != b"\0"
    position += _BLOCK
    while has_more:
        # Behind the end of the file, nothing is read.
        has_more = os.pread(file, 1, position + _SPARSE_HAS_MORE) not in (b"\0", b"")
        position += _BLOCK
    return position


def _extension(
    file: int, kind: bytes, content: int, size: int, position: int
) -> dict[str, str]:
    """Fields of the next entry, in a header before it that extends it."""
    if kind == tarfile.XGLTYPE:  # of all entries that follow: no name and no size
        return {}
    if size > _MOST_EXTENDED_BYTES:
        raise DamagedTarError(position, f"an extended header of {size} bytes")
    block = os.pread(file, size, content)
    if kind in _LONG_NAMES:
        fields = {_LONG_NAMES[kind]: os.fsdecode(block.partition(b"\0")[0])}
    else:
        fields = dict(_pax_records(block, position))
    for key in ("path", "linkpath"):
        if len(fields.get(key, "")) > _LONGEST_NAME:
            raise DamagedTarError(position, f"a name of {len(fields[key])} characters")
    return fields


def _pax_records(block: bytes, position: int) -> Iterator[tuple[str, str]]:
    start = 0
    while start < len(block) and block[start]:
        found = _PAX_RECORD.match(block, start)
        length = int(found[1]) if found else 0
        if found is None or not found.end() < start + length <= len(block):
            raise DamagedTarError(position, "an extended header that cannot be understood")
        value = block[found.end() : start + length - 1]  # it ends with a line break
        yield found[2].decode("utf-8", "replace"), os.fsdecode(value)
        start += length


def _size(text: str, position: int) -> int:
    if not re.fullmatch(r"\d{1,20}", text, re.ASCII):
        raise DamagedTarError(position, "an extended header with a size that is no number")
    return int(text)


def _entry(
    header: tarfile.TarInfo, extended: dict[str, str], offset: int, size: int
) -> TarEntry:
    sparse_name = extended.get(f"{_PAX_SPARSE}name")
    name = posixpath.normpath(sparse_name or extended.get("path") or header.name)
    target = None
    if header.issym() or header.islnk():
        target = extended.get("linkpath") or header.linkname
        if header.issym():  # relative to its folder; a hard link names the entry
            target = posixpath.join(posixpath.dirname(name), target)
        target = posixpath.normpath(target)
    is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(
        key.startswith(_PAX_SPARSE) for key in extended
    )
    return TarEntry(name, target, offset, size, is_sparse)
