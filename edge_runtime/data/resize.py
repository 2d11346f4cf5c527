"""Antialiased resizing of parts of pictures, by Pillow.

OpenCV's bilinear interpolation reads the four nearest pixels, however much it shrinks, so fine
stripes turn into coarse ones. Pillow's widens its triangle with the step between two pixels of
the result. torchvision and timm resize with the same filter.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling, fromarray

from edge_runtime.data.sources import Image

_STRIP_BYTES = 1 << 18  # stays in the processor's cache


class Box(NamedTuple):
    """Part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


def resize_into(view: Image, picture: Image, box: Box) -> None:
    """Resize a part of a picture into `view`, uint8 (h, w, 3).

    The same as Pillow's `resize((w, h), BILINEAR, box)` of the whole picture. At the sides of
    the box, the filter also sees the pixels outside.
    """
    high, wide = view.shape[:2]
    rows = _seen(box.top, box.height, high, picture.shape[0])
    columns = _seen(box.left, box.width, wide, picture.shape[1])
    part = picture[rows, columns]
    left, top = box.left - columns.start, box.top - rows.start
    right, bottom = left + box.width, top + box.height
    strip_rows = max(1, _STRIP_BYTES // part[0].nbytes)
    if len(part) > strip_rows:
        # Pillow, too, shrinks across first and rounds. In strips, its copies of the picture,
        # with four bytes per pixel, are small.
        narrow = np.empty((len(part), wide, 3), dtype=np.uint8)
        for start in range(0, len(part), strip_rows):
            strip = part[start : start + strip_rows]
            size = wide, len(strip)
            narrow[start : start + strip_rows] = _resized(
                strip, size, (left, 0, right, size[1])
            )
        part, left, right = narrow, 0, wide
    view[:] = _resized(part, (wide, high), (left, top, right, bottom))


def _resized(
    part: Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    return np.asarray(fromarray(part).resize(size, Resampling.BILINEAR, box=box))


def _seen(start: int, length: int, result_px: int, available: int) -> slice:
    """The pixels that the filter reads for a part of a side."""
    reach = math.ceil(max(1.0, length / result_px))
    return slice(max(0, start - reach), min(available, start + length + reach))
