"""Crops of pictures that do not exist, for draws that depend on them."""

from collections.abc import Sequence

import numpy as np

from edge_runtime.data.overlap import Crops
from edge_runtime.data.randomness import random_words
from edge_runtime.package.manifest import ViewGroup


def some_crops(groups: Sequence[ViewGroup], pictures: Sequence[int]) -> Crops:
    """Random crops of pictures of 32 px, the same with every version of numpy."""
    return {group.name: _of_group(group, pictures) for group in groups}


def _of_group(group: ViewGroup, pictures: Sequence[int]) -> np.ndarray:
    words = random_words(
        0, "crops", epoch=0, pictures=pictures, views=len(group.views), count=5
    )
    starts, sizes, flips = words[..., :2] % 16, 4 + words[..., 2:4] % 13, words[..., 4:] % 2
    return np.concatenate([starts, sizes, flips], axis=-1).astype(np.int32)
