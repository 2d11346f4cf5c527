"""Opens the source of pictures that the user named."""

import os
import re
from pathlib import Path

from edge_runtime.data.digits import Digits
from edge_runtime.data.files import EXTENSIONS, open_folder, open_tar
from edge_runtime.data.live import Camera, VideoFile
from edge_runtime.data.sources import FrameSource, PictureSource
from edge_runtime.errors import DataError
from edge_runtime.storage import StrPath

VIDEO_EXTENSIONS = (
    ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"
)  # fmt: skip
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
    if camera := re.fullmatch(r"camera:(\d+)", spec, re.ASCII):
        return Camera(int(camera[1]))
    path = Path(spec)
    if os.path.isdir(spec):
        return open_folder(path)
    if not os.path.exists(spec):  # unlike Path.exists, false for any name
        raise DataError(f"{spec}: no such file or folder. Give {_KNOWN}.")
    return _open_file(path)


def _open_file(path: Path) -> PictureSource | FrameSource:
    extension = path.suffix.lower()
    if extension == ".tar":
        return open_tar(path)
    if extension in VIDEO_EXTENSIONS:
        return VideoFile(path)
    if extension in EXTENSIONS:
        raise DataError(f"{path} is a single picture. Give the folder that contains it.")
    if extension in _COMPRESSED:
        raise DataError(
            f"{path} is compressed, so pictures in it cannot be read one by one. "
            "Unpack it and give the folder, or make a plain .tar of it."
        )
    raise DataError(f"{path} is of an unknown kind. Give {_KNOWN}.")
