"""All views of a picture, for the view groups of a training package."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.augmentation import NUMBERS, augment
from edge_runtime.data.colour import HueScratch
from edge_runtime.data.overlap import Crop, Crops
from edge_runtime.data.randomness import uniforms
from edge_runtime.data.sources import Image
from edge_runtime.package.manifest import ViewGroup

Images: TypeAlias = dict[str, NDArray[np.uint8]]  # "images.<group>": (V, B, S, S, 3)
Numbers: TypeAlias = list[list[float]]  # [view][number], of one picture


class Views(NamedTuple):
    """The views of a batch, and what each shows of its picture."""

    images: Images
    crops: Crops


class ViewMaker:
    """Makes the views of one run. Immutable: any thread may use it."""

    def __init__(self, groups: Sequence[ViewGroup], seed: int) -> None:
        self._groups = groups
        self._seed = seed
        self._views = sum(len(group.views) for group in groups)
        self.largest_px = max(group.size_px for group in groups)

    def allocate(self, pictures: int) -> Views:
        """Empty arrays for a batch."""
        images, crops = {}, {}
        for group in self._groups:
            shape = (len(group.views), pictures, group.size_px, group.size_px, 3)
            images[f"images.{group.name}"] = np.empty(shape, dtype=np.uint8)
            crops[group.name] = np.empty((*shape[:2], len(Crop._fields)), dtype=np.int32)
        return Views(images, crops)

    def scratch(self) -> list[HueScratch]:
        """The buffers that one thread needs for `fill`."""
        return [
            np.empty((2, group.size_px, group.size_px, 3), dtype=np.float32)
            for group in self._groups
        ]

    def numbers(self, epoch: int, pictures: Sequence[int]) -> list[Numbers]:
        """The random numbers of each picture; views are counted over all groups."""
        drawn = uniforms(
            self._seed,
            "augmentation",
            epoch=epoch,
            pictures=pictures,
            views=self._views,
            count=NUMBERS,
        )
        numbers: list[Numbers] = drawn.swapaxes(0, 1).tolist()
        return numbers

    def fill(
        self,
        batch: Views,
        slot: int,
        picture: Image,
        numbers: Numbers,
        scratch: Sequence[HueScratch],
    ) -> None:
        """Write all views of a picture into `slot` of the batch."""
        of_views = iter(numbers)
        for group, hue in zip(self._groups, scratch, strict=True):
            views, crops = batch.images[f"images.{group.name}"], batch.crops[group.name]
            for number, spec in enumerate(group.views):
                view = views[number, slot]
                crops[number, slot] = augment(picture, spec, next(of_views), view, hue)
