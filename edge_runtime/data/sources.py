"""What a source of pictures is: the seam between where pictures lie and how views are made.

A picture is uint8 (H, W, 3), RGB, upright, H and W its own.
"""

from collections.abc import Generator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError

Image: TypeAlias = NDArray[np.uint8]


class UnreadablePicture(DataError):  # noqa: N818 - what it is, not that it is an error
    """One picture cannot be read; the message says why. The others may be fine."""


class SourceLostError(DataError):
    """A camera or a video stopped giving pictures in the middle of its work."""


@runtime_checkable
class PictureSource(Protocol):
    """Pictures in a fixed order, each readable at any time and from any thread."""

    @property
    def name(self) -> str:
        """What the user called it."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty where pictures have no labels."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(len(self),) int64 indices into `classes`, or `None`."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name of a picture, for messages; always printable."""

    def read(self, index: int) -> Image:
        """Decode a picture.

        Raises:
            UnreadablePicture: it is damaged or gone.
        """


@runtime_checkable
class FrameSource(Protocol):
    """Pictures that come by and cannot be asked for again."""

    @property
    def name(self) -> str:
        """What the user called it."""

    def frames(self) -> Generator[Image, None, None]:
        """Pictures without end, from now on. Closing the iterator frees the device.

        Raises:
            DataError: it gives no pictures at all.
            SourceLostError: it stopped giving pictures.
        """
