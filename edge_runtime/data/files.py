"""Pictures in files, each of which is a file or a part of one."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.decode import decode_picture
from edge_runtime.data.header import read_header
from edge_runtime.data.naming import LeftOut, printable_name, utf8_name
from edge_runtime.data.sources import FrameSource, Image, PictureSource, UnreadablePicture
from edge_runtime.reading import open_regular

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

    def __init__(
        self, name: str, places: Iterable[Place], left_out: LeftOut | None = None
    ) -> None:
        """Sort the pictures by name, and label them by their folders.

        Args:
            name: of the folder or archive.
            places: of the pictures; read once.
            left_out: complete when all places were read.
        """
        self.name = printable_name(name)
        self._places = sorted(places)
        self.left_out = left_out.text() if left_out else ""  # for people
        classes, self.labels = class_labels([place.name for place in self._places])
        self.classes = [printable_name(one) for one in classes]

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> str:
        """Path of a picture inside the folder or archive, printable."""
        return printable_name(self._places[index].name)

    def path(self, index: int) -> str:
        """Path of a picture inside the folder or archive, as `utf8_name` reads it."""
        return utf8_name(self._places[index].name)

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
        with open_descriptor(place.file) as file:
            yield EncodedPicture(file, place)

    def read(self, index: int) -> Image:
        """Decode a picture."""
        with self.open(index) as encoded:
            return encoded.decode()


@contextmanager
def open_descriptor(path: str) -> Iterator[int]:
    """A descriptor of a regular file, as `reading.open_regular` opens it.

    Raises:
        UnreadablePicture: it is something else, or cannot be opened.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise _cannot_read(error) from error
    with file:
        yield file.fileno()


class EncodedPicture:
    """A picture in an open file, whose header is known."""

    def __init__(self, file: int, place: Place) -> None:
        """Read the header.

        Args:
            file: descriptor of a regular file, open as long as this is used.
            place: of the picture.

        Raises:
            UnreadablePicture: it is too large; errors of `read_header`.
        """
        self._file, self._offset = file, place.offset
        size = os.fstat(file).st_size - place.offset
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


def _cannot_read(error: OSError) -> UnreadablePicture:
    return UnreadablePicture(f"the file cannot be read: {error.strerror}")


def left_out_of(source: PictureSource | FrameSource) -> str:
    """What looks like a picture in a source and is not read, in one line; may be empty."""
    return source.left_out if isinstance(source, PictureFiles) else ""


def class_labels(names: Sequence[str]) -> tuple[Sequence[str], NDArray[np.int64] | None]:
    """Classes and labels of pictures by the folders they are in.

    Folders that all pictures share are skipped as long as there is a sub-folder; the next
    folder is the class. If any picture is in no folder, there are no labels.

    Returns:
        The sorted classes and (len(names),) int64 indices into them; or `()` and `None`.
    """
    folders = [posixpath.dirname(name) for name in names]
    parts = {folder: PurePosixPath(folder).parts for folder in set(folders)}
    depth = 0
    while (
        all(len(path) > depth + 1 for path in parts.values())
        and len({path[depth] for path in parts.values()}) == 1
    ):
        depth += 1
    if any(len(path) <= depth for path in parts.values()):
        return (), None
    classes = sorted({path[depth] for path in parts.values()})
    number = {name: label for label, name in enumerate(classes)}
    labels = [number[parts[folder][depth]] for folder in folders]
    return classes, np.array(labels, dtype=np.int64)
