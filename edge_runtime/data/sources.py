"""Protocols of picture sources: the interface between storage and augmentation.

A picture is uint8 (H, W, 3), RGB, upright, of any size.
"""

from collections.abc import Generator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError

Image: TypeAlias = NDArray[np.uint8]


class UnreadablePicture(DataError):  # noqa: N818 - a property of the picture
    """One picture cannot be read; the message says why. The others may be fine."""


class SourceLostError(DataError):
    """A camera or a video stopped giving pictures during a run."""


@runtime_checkable
class PictureSource(Protocol):
    """Pictures in a fixed order, each readable at any time and from any thread."""

    @property
    def name(self) -> str:
        """The name that the user gave it."""

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
    """Pictures that arrive once and cannot be read again."""

    @property
    def name(self) -> str:
        """The name that the user gave it."""

    def frames(self) -> Generator[Image, None, None]:
        """Endless pictures, from now on. Closing the iterator frees the device.

        Raises:
            DataError: it gives no picture.
            SourceLostError: it stopped giving pictures.
        """
