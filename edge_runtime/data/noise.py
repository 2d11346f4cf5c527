"""Noise instead of pictures, to measure the cost of a step before there are any."""

from collections.abc import Sequence

import numpy as np

from edge_runtime.data.sources import Image


class Noise:
    """A `PictureSource` of noise, (size, size, 3), the same for the same index."""

    name = "noise"
    classes: Sequence[str] = ()
    labels = None

    def __init__(self, pictures: int, size_px: int) -> None:
        self._pictures, self._size_px = pictures, size_px

    def __len__(self) -> int:
        return self._pictures

    def key(self, index: int) -> str:
        """Number of the picture."""
        return f"{self.name} {index}"

    def read(self, index: int) -> Image:
        """The noise of this index."""
        shape = (self._size_px, self._size_px, 3)
        return np.random.default_rng(index).integers(0, 256, size=shape, dtype=np.uint8)
