"""How much of a view's patches another view of the same picture shows.

Letters: V views, B pictures, K kept patches, N = side * side patches of a view, row by row.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

# By view group: (V, B, 5) int32, rows as `Crop`
Crops: TypeAlias = Mapping[str, NDArray[np.int32]]

_LEAST_SHARE = 1e-6  # the sum of a patch's parts may differ from 1 by rounding


class Crop(NamedTuple):
    """The part of a picture that a view shows, in pixels of the picture as it was decoded."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool  # from left to right


def uncovered(
    crops: NDArray[np.int32], first_kept: NDArray[np.int32], side: int
) -> NDArray[np.float64]:
    """The share of each patch of the second view that no kept patch of the first shows.

    Patches of one view do not overlap, so the shares that they cover add up; and as their
    sides are parallel, an area is the product of a length across and a length down.

    Args:
        crops: (2, B, 5), of both views.
        first_kept: (B, K), patches of the first view, each at most once.
        side: patches along the side of a view.

    Returns:
        (B, N) in [0, 1]; shares below 1e-6 are 0.
    """
    first, second = crops.astype(np.int64)
    kept = np.zeros((len(first_kept), side * side))
    np.put_along_axis(kept, first_kept.astype(np.int64), 1, axis=1)
    across = _covered(first[:, 0::2], second[:, 0::2], side)  # left, width, flipped
    down = _covered(first[:, 1:4:2], second[:, 1:4:2], side)  # top, height
    covered = down @ kept.reshape(-1, side, side) @ across.transpose(0, 2, 1)
    share = 1 - covered.reshape(len(kept), -1)
    return np.where(share < _LEAST_SHARE, 0.0, share)


def _covered(
    first: NDArray[np.int64], second: NDArray[np.int64], side: int
) -> NDArray[np.float64]:
    """The share of each patch of the second view within each of the first, along one axis.

    Args:
        first: (B, 2 or 3): start, length, and whether the view is flipped.
        second: the same.
        side: S.

    Returns:
        (B, S of the second view, S of the first).
    """
    starts, others = _starts(second, side)[:, :, None], _starts(first, side)[:, None]
    length, other_length = second[:, 1, None, None], first[:, 1, None, None]
    shared = np.minimum(starts + length, others + other_length) - np.maximum(starts, others)
    shares: NDArray[np.float64] = np.maximum(shared, 0) / length
    return shares


def _starts(axis: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Where each patch of a view starts, (B, side): in parts of a pixel, `side` to a pixel.

    A patch is then as long as its view is in pixels, and all numbers are whole.
    """
    places = np.arange(side)
    if axis.shape[1] == 3:
        places = np.where(axis[:, 2:] == 1, side - 1 - places, places)
    return side * axis[:, :1] + axis[:, 1:2] * places
