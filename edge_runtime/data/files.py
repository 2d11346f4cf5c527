"""Pictures in files: a folder, or a .tar that is read in place.

Pictures are recognised by the extension of their name, in upper or lower case; hidden files
and folders are skipped. They are sorted by name (code points), on every file system.
"""

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.decode import decode_picture
from edge_runtime.data.header import read_header
from edge_runtime.data.sources import Image, UnreadablePicture
from edge_runtime.errors import DataError

EXTENSIONS = (
    ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip


MAX_FILE_BYTES = 1 << 30  # of one picture
_HEAD_BYTES = 1 << 14  # read at once, because most headers are shorter


class Place(NamedTuple):
    """Where the bytes of one picture are."""

    name: str  # relative to the folder or inside the archive, with "/"
    file: str
    offset: int
    size: int | None  # None: to the end of the file


class PictureFiles:
    """A `PictureSource` over parts of files.

    No file stays open between two reads, so threads share nothing.
    """

    def __init__(self, name: str, places: Sequence[Place]) -> None:
        self.name = name
        self._places = sorted(places)
        self.classes, self.labels = class_labels([place.name for place in self._places])

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> str:
        """Path of a picture inside the folder or archive."""
        # a name that is not UTF-8 would break the terminal or the event file
        return os.fsencode(self._places[index].name).decode("utf-8", "backslashreplace")

    def file_sizes(self) -> list[int]:
        """Bytes of every picture's file; 0 where it is gone."""
        return [_file_bytes(place) for place in self._places]

    @contextmanager
    def open(self, index: int) -> Iterator["EncodedPicture"]:
        """Open a picture and read its header.

        Raises:
            UnreadablePicture: it is gone, no regular file or too large; errors of
                `read_header`.
        """
        place = self._places[index]
        try:
            # Opening a FIFO would wait for its writer.
            file = os.open(place.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_read(error) from error
        try:
            yield EncodedPicture(file, place)
        finally:
            os.close(file)

    def read(self, index: int) -> Image:
        """Decode a picture."""
        with self.open(index) as encoded:
            return encoded.decode()


class EncodedPicture:
    """A picture in an open file, whose header is known."""

    def __init__(self, file: int, place: Place) -> None:
        """Read the header.

        Args:
            file: descriptor, open as long as this is used.
            place: of the picture.

        Raises:
            UnreadablePicture: it is no regular file or too large; errors of `read_header`.
        """
        self._file, self._offset = file, place.offset
        size = _regular_size(file) - place.offset
        self.file_bytes = max(0, size if place.size is None else min(size, place.size))
        if self.file_bytes > MAX_FILE_BYTES:
            raise UnreadablePicture(
                f"its file has {self.file_bytes / 2**20:.0f} MiB, more than the "
                f"{MAX_FILE_BYTES / 2**20:.0f} MiB that are read"
            )
        self._head = self._read(0, _HEAD_BYTES)
        self.header = read_header(self._read_at)

    def decode(self, reduction: int = 1) -> Image:
        """Decode it; arguments and errors of `decode_picture`."""
        content = self._read_at(0, self.file_bytes)
        return decode_picture(content, header=self.header, reduction=reduction)

    def _read_at(self, position: int, count: int) -> bytes:
        end = min(position + count, self.file_bytes)
        if end <= len(self._head):
            return self._head[position:end]
        return self._read(position, count)

    def _read(self, position: int, count: int) -> bytes:
        count = min(count, self.file_bytes - position)
        if count <= 0:
            return b""
        try:
            return os.pread(self._file, count, self._offset + position)
        except OSError as error:
            raise _cannot_read(error) from error


def _file_bytes(place: Place) -> int:
    if place.size is not None:
        return place.size
    try:
        return os.stat(place.file).st_size
    except OSError:
        return 0


def _regular_size(file: int) -> int:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadablePicture("it is not a regular file")
    return status.st_size


def _cannot_read(error: OSError) -> UnreadablePicture:
    return UnreadablePicture(f"the file cannot be read: {error.strerror}")


def open_folder(folder: Path) -> PictureFiles:
    """Pictures of a folder and of all its sub-folders, links included.

    Raises:
        DataError: a folder cannot be listed, or there are no pictures.
    """
    return _not_empty(PictureFiles(str(folder), list(_walk(folder))), "folder")


def open_tar(archive: Path) -> PictureFiles:
    """Pictures of an uncompressed .tar; of two entries with the same name, the later one.

    Raises:
        DataError: it is not a complete .tar, or has no pictures.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            places = {
                name: Place(name, str(archive), member.offset_data, member.size)
                for member in tar
                if member.isreg() and not member.issparse()
                if _is_picture(name := str(PurePosixPath(member.name)))
            }
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{archive} is not a complete uncompressed .tar ({error}). "
            "Copy it again, or unpack it and give the folder."
        ) from error
    return _not_empty(PictureFiles(str(archive), list(places.values())), "archive")


def class_labels(names: Sequence[str]) -> tuple[Sequence[str], NDArray[np.int64] | None]:
    """Classes and labels of pictures by the folders they are in.

    Folders that all pictures share are skipped as long as there is a sub-folder; the next
    folder is the class. If any picture is in no folder, there are no labels.

    Returns:
        The sorted classes and (len(names),) int64 indices into them; or `()` and `None`.
    """
    folders = [PurePosixPath(name).parent.parts for name in names]
    depth = 0
    while (
        all(len(parts) > depth + 1 for parts in folders)
        and len({parts[depth] for parts in folders}) == 1
    ):
        depth += 1
    if any(len(parts) <= depth for parts in folders):
        return (), None
    of_pictures = [parts[depth] for parts in folders]
    classes = sorted(set(of_pictures))
    number = {name: label for label, name in enumerate(classes)}
    return classes, np.array([number[name] for name in of_pictures], dtype=np.int64)


def _walk(root: Path) -> Iterator[Place]:
    seen = {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_cannot_list):
        visited = []
        for name in sorted(subfolders):
            target = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and target not in seen:  # a link may form a cycle
                seen.add(target)
                visited.append(name)
        subfolders[:] = visited
        below = PurePosixPath(os.path.relpath(folder, root))
        for name in files:
            if _is_picture(name):
                yield Place(str(below / name), os.path.join(folder, name), 0, None)


def _cannot_list(error: OSError) -> None:
    raise DataError(
        f"{error.filename} cannot be listed: {error.strerror}. Grant access or move it away."
    ) from error


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in EXTENSIONS


def _not_empty(source: PictureFiles, kind: str) -> PictureFiles:
    if not len(source):
        raise DataError(
            f"{source.name} has no pictures: the {kind} was searched with all its sub-folders "
            f"for files named {' '.join(EXTENSIONS)}. Give one that has some."
        )
    return source
