"""What names of files say: which are pictures, which are left out, and how to print them."""

import os
from collections import Counter, defaultdict
from contextlib import suppress

from edge_runtime.printable import printable

EXTENSIONS = (
    ".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
VIDEO_EXTENSIONS = (
    ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"
)  # fmt: skip
# Pictures of kinds that are not decoded.
_OTHER_EXTENSIONS = (
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k",
    ".jp2", ".jxl", ".nef", ".orf", ".psd", ".raf", ".raw", ".rw2", ".svg", ".tga",
)  # fmt: skip
# Thumbnails, deleted files and attributes, which systems keep beside the user's own.
_SYSTEM_FOLDERS = frozenset(
    {
        "#recycle", "$RECYCLE.BIN", "@Recycle", "@eaDir", "System Volume Information",
        "__MACOSX", "lost+found",
    }
)  # fmt: skip
_COUNTED = frozenset({*_OTHER_EXTENSIONS, *VIDEO_EXTENSIONS})
_NAMED = 3  # of each kind


class LeftOut:
    """Counts what looks like a picture and is not read, by kind; the first ones are named."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, name: str) -> None:
        """Count one; `kind` is a plural."""
        self._counts[kind] += 1
        if len(self._first[kind]) < _NAMED:
            self._first[kind].append(printable_name(name))

    def takes_file(self, path: str) -> bool:
        """Whether a file is a picture that is read; `path` is relative, with "/"."""
        extension = os.path.splitext(path)[1].lower()
        if extension not in EXTENSIONS:
            if extension in _COUNTED:
                self.add(f"{extension} files", path)
            return False
        return all(self._takes(part, "pictures", path) for part in path.split("/"))

    def takes_folder(self, path: str) -> bool:
        """Whether a folder is searched for pictures."""
        return self._takes(os.path.basename(path), "folders", path)

    def _takes(self, part: str, what: str, path: str) -> bool:
        if part.startswith("."):
            self.add(f"hidden {what}", path)
        elif part in _SYSTEM_FOLDERS:
            self.add(f"{what} of the system", path)
        else:
            return True
        return False

    def text(self) -> str:
        """In one line; empty if nothing is left out."""
        return "; ".join(
            f"{kind}: {count} ({', '.join(self._first[kind])}{', ...' * (count > _NAMED)})"
            for kind, count in sorted(self._counts.items())
        )


def utf8_name(name: str) -> str:
    """The name of a file as UTF-8; other bytes are surrogate escapes.

    In a locale that is not UTF-8, Python has read the bytes of the name differently.
    """
    with suppress(UnicodeEncodeError):  # not the name of a file
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    return name


def printable_name(name: str) -> str:
    """`printable` for the name of a file."""
    return printable(utf8_name(name))
