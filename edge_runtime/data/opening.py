"""Opens the source of pictures that the user named."""

import os
import re
import stat
from pathlib import Path

from edge_runtime.data.digits import Digits
from edge_runtime.data.listing import open_folder, open_tar
from edge_runtime.data.live import Camera, VideoFile
from edge_runtime.data.naming import EXTENSIONS, VIDEO_EXTENSIONS, printable_name
from edge_runtime.data.sources import FrameSource, PictureSource
from edge_runtime.errors import DataError
from edge_runtime.storage import StrPath

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".txz", ".zst", ".zip", ".7z")
_KNOWN = (
    "a folder of pictures, a .tar of pictures, a video file "
    f"({' '.join(VIDEO_EXTENSIONS)}), camera:N, digits or digits:test"
)


def open_source(spec: StrPath) -> PictureSource | FrameSource:
    """Open a folder, a .tar, a video file, `camera:N`, `digits` or `digits:test`.

    The words take precedence: a folder of that name is `./digits`. A camera is opened when its
    frames are read.

    Raises:
        DataError: it does not exist, is of an unknown kind, or has no pictures.
    """
    spec = os.fspath(spec)
    if spec == "digits":
        return Digits("train")
    if spec == "digits:test":
        return Digits("test")
    if camera := re.fullmatch(r"camera:(\d{1,9})", spec, re.ASCII):
        return Camera(int(camera[1]))
    if not spec:  # a path would mean the current folder
        raise DataError(f"the name of the pictures is empty. Give {_KNOWN}.")
    status = _status(spec)
    if stat.S_ISDIR(status.st_mode):
        return open_folder(Path(spec))
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{printable_name(spec)} is neither a folder nor a regular file. Give {_KNOWN}."
        )
    if not status.st_size:  # so are the endless files of the kernel in /proc
        raise DataError(f"{printable_name(spec)} is empty. Give {_KNOWN}.")
    return _open_file(Path(spec))


def _status(spec: str) -> os.stat_result:
    """Of the file or folder that a name, or the link of that name, leads to."""
    try:
        return os.stat(spec)
    except FileNotFoundError:
        reason = "no such file or folder"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # a name that no file can have
        reason = str(error)
    raise DataError(f"{printable_name(spec)}: {reason}. Give {_KNOWN}.")


def _open_file(path: Path) -> PictureSource | FrameSource:
    extension, name = path.suffix.lower(), printable_name(str(path))
    if extension == ".tar":
        return open_tar(path)
    if extension in VIDEO_EXTENSIONS:
        return VideoFile(path)
    if extension in EXTENSIONS:
        raise DataError(f"{name} is a single picture. Give the folder that contains it.")
    if extension in _COMPRESSED:
        raise DataError(
            f"{name} is compressed, so pictures in it cannot be read one by one. "
            "Unpack it and give the folder, or make a plain .tar of it."
        )
    raise DataError(f"{name} is of an unknown kind. Give {_KNOWN}.")
