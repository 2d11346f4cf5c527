"""Pictures in files: a folder, or a .tar that is read in place.

Pictures are recognised by the extension of their name, in upper or lower case; hidden files
and folders are skipped. They are sorted by name (code points), on every file system.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.decode import decode_picture
from edge_runtime.data.sources import Image, UnreadablePicture
from edge_runtime.errors import DataError

EXTENSIONS = (
    ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip


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

    def read(self, index: int) -> Image:
        """Decode a picture."""
        place = self._places[index]
        try:
            with open(place.file, "rb") as file:
                file.seek(place.offset)
                content = file.read(-1 if place.size is None else place.size)
        except OSError as error:
            raise UnreadablePicture(f"the file cannot be read: {error.strerror}") from error
        return decode_picture(content)


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
