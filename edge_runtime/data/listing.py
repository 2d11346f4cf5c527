"""Lists the pictures of a folder, or of a .tar that is read in place.

Pictures are recognised by the extension of their name, in upper or lower case. They are sorted
by name (code points), on every file system. Hidden files and folders, those of the system, and
pictures of kinds that are not decoded are left out, counted and named.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.data.archive import DamagedTarError, TarEntry, read_tar
from edge_runtime.data.files import PictureFiles, Place, open_descriptor
from edge_runtime.data.naming import EXTENSIONS, LeftOut, printable_name
from edge_runtime.data.sources import UnreadablePicture
from edge_runtime.errors import DataError

logger = logging.getLogger(__name__)

_LONGEST_CHAIN = 8  # of links to links


def open_folder(folder: Path) -> PictureFiles:
    """Pictures of a folder and of all its sub-folders, links included.

    Raises:
        DataError: it cannot be listed, or there are no pictures.
    """
    left_out = LeftOut()
    places = _walk(folder, left_out)
    return _not_empty(PictureFiles(str(folder), places, left_out), "folder")


def open_tar(archive: Path) -> PictureFiles:
    """Pictures of an uncompressed .tar; of two entries with the same name, the later one.

    Raises:
        DataError: it is damaged or no .tar, or has no pictures.
    """
    entries: dict[str, Place | str] = {}  # files, and targets of links
    left_out = LeftOut()
    try:
        with open_descriptor(str(archive)) as file:
            for entry in read_tar(file):
                _add(entries, entry, str(archive), left_out)
    except DamagedTarError as error:
        raise _damaged(archive, error, entries) from error
    except (UnreadablePicture, OSError) as error:
        raise DataError(f"{printable_name(str(archive))}: {error}") from error
    places = _places(entries, left_out)
    return _not_empty(PictureFiles(str(archive), places, left_out), "archive")


def _add(
    entries: dict[str, Place | str], entry: TarEntry, archive: str, left_out: LeftOut
) -> None:
    name = entry.name
    if not entry.is_sparse:
        entries[name] = entry.target or Place(name, archive, entry.offset, entry.size)
        return
    entries.pop(name, None)
    if left_out.takes_file(name):
        left_out.add("files with holes", name)


def _places(entries: dict[str, Place | str], left_out: LeftOut) -> Iterator[Place]:
    for name, entry in entries.items():
        if not left_out.takes_file(name):
            continue
        if place := _linked(entry, entries):
            yield place if place is entry else place._replace(name=name)
        else:
            left_out.add("links to what is not in the archive", name)


def _linked(entry: Place | str, entries: dict[str, Place | str]) -> Place | None:
    """The file that an entry is, or that its links lead to."""
    for _ in range(_LONGEST_CHAIN):
        if isinstance(entry, Place):
            return entry
        if entry not in entries:
            break
        entry = entries[entry]
    return None


def _damaged(
    archive: Path, error: DamagedTarError, entries: dict[str, Place | str]
) -> DataError:
    what = "damaged" if error.offset else "not an uncompressed .tar, or damaged"
    before = sum(1 for _ in _places(entries, LeftOut()))
    return DataError(
        f"{printable_name(str(archive))} is {what}: at byte {error.offset} is {error}. "
        f"{before} picture(s) come before that. Copy or make it again; or unpack what "
        "`tar -xf` can save of it, and give the folder."
    )


def _walk(root: Path, left_out: LeftOut) -> Iterator[Place]:
    def cannot_list(error: OSError) -> None:
        if error.filename == str(root):
            raise DataError(
                f"{printable_name(str(root))} cannot be listed: {error.strerror}. Grant "
                "access, or give another folder."
            ) from error
        below = os.path.relpath(error.filename, root)
        left_out.add("folders that cannot be listed", below)

    seen = {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=cannot_list):
        below = os.path.relpath(folder, root)
        prefix = "" if below == os.curdir else f"{below}/"
        visited = []
        for name in sorted(subfolders):
            target = os.path.realpath(os.path.join(folder, name))
            # A link may form a cycle.
            if target not in seen and left_out.takes_folder(prefix + name):
                seen.add(target)
                visited.append(name)
        subfolders[:] = visited
        for name in files:
            if left_out.takes_file(prefix + name):
                yield Place(prefix + name, os.path.join(folder, name), 0, None)


def _not_empty(source: PictureFiles, kind: str) -> PictureFiles:
    if not len(source):
        others = f" Not read: {source.left_out}." if source.left_out else ""
        raise DataError(
            f"{source.name} has no pictures: the {kind} was searched with all its sub-folders "
            f"for files named {' '.join(EXTENSIONS)}.{others} Give one that has some."
        )
    if source.left_out:
        logger.warning("%s: not read: %s", source.name, source.left_out)
    return source
