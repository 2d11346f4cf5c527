"""Video files and cameras, whose frames cannot be read again.

A resumed run continues with new frames.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2

from edge_runtime.data.decode import to_rgb
from edge_runtime.data.naming import printable_name
from edge_runtime.data.sources import Image, SourceLostError
from edge_runtime.device import process_tree_rss_bytes
from edge_runtime.errors import DataError

# A decoder holds some frames per thread, and by default has a thread per processor.
_DECODER_THREADS = 2
_MEASURED_FRAMES = 12  # by then a decoder has filled its buffers
_LEAST_FRAMES = (
    4  # that a decoder is taken to hold, if memory freed before hides what it needs
)


class Capture(Protocol):
    """What `cv2.VideoCapture` is used for."""

    def read(self) -> tuple[bool, Any]:
        """(True, BGR frame), or (False, anything) if there is none."""

    def release(self) -> None:
        """Free the device or the file."""


class VideoFile:
    """A `FrameSource` that starts again at its end."""

    def __init__(self, path: Path) -> None:
        """Decode its first frames: to check that it can be read, and what memory that takes.

        Raises:
            DataError: OpenCV cannot decode a frame, or open a file of this name.
        """
        self.name = printable_name(str(path))
        self._path = str(path)
        _require_utf8(self._path)
        before_bytes = rss_bytes = process_tree_rss_bytes()
        size: tuple[int, int] | None = None
        capture = _open_video(self._path)
        frame_count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        with closing(_read_all(capture)) as frames:
            for frame in islice(frames, _MEASURED_FRAMES):
                size = frame.shape[1], frame.shape[0]
                rss_bytes = max(rss_bytes, process_tree_rss_bytes())
        if size is None:
            raise DataError(
                f"{self.name}: no frame of this video can be decoded. Convert it, for example "
                "to H.264 in .mp4, or give its frames as a folder of pictures."
            )
        self.frame_count = frame_count if frame_count > 0 else None  # of its header
        self.frame_size = size  # width, height
        frame_bytes = 3 * size[0] * size[1]
        # A frame is still in use while the next one is copied.
        grown_bytes = rss_bytes - before_bytes + frame_bytes
        self.decoder_bytes = max(_LEAST_FRAMES * frame_bytes, grown_bytes)

    def frames(self) -> Generator[Image, None, None]:
        """Endless frames."""
        while True:
            seen = 0
            with closing(self.frames_once()) as frames:
                for frame in frames:
                    seen += 1
                    yield frame
            if not seen:
                raise SourceLostError(f"{self.name}: the video cannot be read any more.")

    def frames_once(self) -> Generator[Image, None, None]:
        """From the first frame to the last; none if the file is gone."""
        return _read_all(_open_video(self._path))


class Camera:
    """A `FrameSource` of live camera frames."""

    def __init__(
        self, number: int, *, open_capture: Callable[[int], Capture] = cv2.VideoCapture
    ) -> None:
        self.name = f"camera:{number}"
        self._number = number
        self._open_capture = open_capture

    def frames(self) -> Generator[Image, None, None]:
        """Frames until the camera is lost."""
        seen = 0
        with closing(_read_all(self._open_capture(self._number))) as frames:
            for frame in frames:
                seen += 1
                yield frame
        if seen:
            raise SourceLostError(
                f"{self.name} gives no more pictures after {seen} frames. Check its cable and "
                "power; a resumed run continues with new frames."
            )
        raise DataError(
            f"{self.name} gives no pictures. Check that it is connected, that no other "
            "program uses it, and that this user may open video devices."
        )


def _require_utf8(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{printable_name(path)}: OpenCV opens only names in UTF-8. Rename the video."
        ) from error


def _open_video(path: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(path, cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, _DECODER_THREADS])
    if not capture.isOpened():  # readers of OpenCV other than FFmpeg may refuse the setting
        capture = cv2.VideoCapture(path)
    # Phones store upright videos turned, with the angle beside them.
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _read_all(capture: Capture) -> Generator[Image, None, None]:
    try:
        while True:
            has_frame, frame = capture.read()
            if not has_frame:
                return
            yield to_rgb(frame)
    finally:
        capture.release()
