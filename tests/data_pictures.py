"""Pictures and sources for the tests of the data part."""

import io
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from edge_runtime.data import PictureSource, UnreadablePicture
from edge_runtime.package.manifest import AugmentationSpec, ViewGroup

PLAIN = AugmentationSpec(min_area=1.0, flip=0.0, jitter=0.0, grayscale=0.0)
RICH = AugmentationSpec(min_area=0.2, blur=0.5, solarize=0.2)
GROUPS = (
    ViewGroup(name="global", size_px=16, views=(RICH, RICH)),
    ViewGroup(name="local", size_px=8, views=(RICH,)),
)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A colourful picture without detail, so that lossy files stay close to it."""
    dots = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(dots, (width, height), interpolation=cv2.INTER_LINEAR)


def jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture[:, :, ::-1])[1].tobytes()


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def keys(source: PictureSource) -> list[str]:
    """The names of all pictures, in their order."""
    return [source.key(index) for index in range(len(source))]


def write_pictures(folder: Path, names: Sequence[str], size_px: int = 12) -> Path:
    """A different lossless picture per name."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(smooth_picture(size_px, size_px, seed)))
    return folder


class FlatPictures:
    """A `PictureSource` whose picture i has one colour, given by i; some are unreadable."""

    name = "flat"

    def __init__(
        self,
        count: int,
        *,
        bad: Sequence[int] = (),
        labelled: bool = False,
        read_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self._count, self._bad, self._read_s, self._error = count, set(bad), read_s, error
        self.classes = ["even", "odd"] if labelled else []
        self.labels = np.arange(count, dtype=np.int64) % 2 if labelled else None
        self.reads: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return f"picture {index}"

    def read(self, index: int) -> np.ndarray:
        self.reads.append(index)
        self.threads.add(threading.current_thread().name)
        if self._error is not None:
            raise self._error
        if index in self._bad:
            raise UnreadablePicture("it was made bad")
        time.sleep(self._read_s)
        return np.full((20, 20, 3), colour_of(index), dtype=np.uint8)


class SmoothPictures(FlatPictures):
    """The same with detail, so that all views differ."""

    def read(self, index: int) -> np.ndarray:
        super().read(index)
        return smooth_picture(20, 20, index)


def colour_of(index: int) -> tuple[int, int, int]:
    return index % 251, index // 251, 7


class FlatFrames:
    """A `FrameSource` whose frame i has the colour of i; ends with `error`, or never."""

    name = "frames"

    def __init__(
        self, *, end: int | None = None, error: Exception | None = None, frame_s: float = 0.0
    ) -> None:
        self._end, self._error, self._frame_s = end, error, frame_s
        self.given = 0
        self.closed = False

    def frames(self) -> Generator[np.ndarray, None, None]:
        try:
            while self._end is None or self.given < self._end:
                time.sleep(self._frame_s)
                self.given += 1
                yield np.full((40, 60, 3), colour_of(self.given - 1), dtype=np.uint8)
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True
