"""How far a picture is reduced while it is decoded, and what memory that takes.

Both follow from its header and from the views alone, so they are the same in every run.
Units: pixels and bytes.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from edge_runtime.data.augmentation import MAX_ASPECT
from edge_runtime.data.header import PictureHeader
from edge_runtime.package.manifest import ViewGroup

_REDUCTIONS = (8, 4, 2)  # of width and height, that JPEG decoders offer
# Pixels of a reduced picture per pixel of a view, along a side. Reducing aliases, and the
# resizing after it removes that only where it still shrinks.
_SPARE = 2


class Resolution(NamedTuple):
    """What a view needs of a picture: its smallest part has `size_px` on every side."""

    size_px: int
    min_area: float | None  # of a random part; `None`: the largest centred square

    def reduction(self, width: int, height: int) -> float:
        """How far a picture of this size may be reduced; below 1, not at all."""
        side_px: float = min(width, height)
        if self.min_area is not None:
            side_px = min(side_px, math.sqrt(self.min_area * width * height / MAX_ASPECT))
        return side_px / (_SPARE * self.size_px)


def resolutions_of(groups: Iterable[ViewGroup]) -> frozenset[Resolution]:
    """What the views of a training package need."""
    return frozenset(
        Resolution(group.size_px, spec.min_area) for group in groups for spec in group.views
    )


def reduction_of(header: PictureHeader, resolutions: Iterable[Resolution]) -> int:
    """The largest factor, 1 to 8, that leaves every view two pixels per pixel of its own.

    1 for a picture that is no JPEG: other decoders read every pixel before they reduce.
    """
    if header.kind != "JPEG":
        return 1
    most = min(one.reduction(header.width, header.height) for one in resolutions)
    return next((factor for factor in _REDUCTIONS if factor <= most), 1)


def decoding_peak_bytes(header: PictureHeader, file_bytes: int, reduction: int = 1) -> int:
    """The most memory that reading and decoding a picture takes, its result included.

    Args:
        header: of the picture.
        file_bytes: size of its file, which is read as a whole.
        reduction: of width and height.
    """
    pixels = -(-header.width // reduction) * -(-header.height // reduction)
    stored = pixels * header.channels * header.sample_bytes
    # OpenCV's result is copied into an array of numpy when the decoder has ended.
    decoding = stored + max(stored, header.working_bytes)
    shallow = pixels * header.channels if header.sample_bytes > 1 else 0
    rgb = 3 * pixels if header.channels != 3 else 0
    return file_bytes + max(decoding, stored + shallow + rgb)
