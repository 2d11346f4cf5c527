"""The nearest pictures of each picture of a set, and how typical each is of the set.

    distance(i, j)   = 1 - cos(features of i, features of j), from 0 to 2
    mean_distance(i) = mean of distance(i, j) over the K pictures j nearest to i, without i

A large mean distance marks a picture that is like few others. The sum over the K nearest,
which gives the same order, is the outlier score of Angiulli and Pizzuti, "Fast outlier
detection in high dimensional spaces", PKDD 2002. That of Ramaswamy, Rastogi and Shim,
"Efficient algorithms for mining outliers from large data sets", SIGMOD 2000, is the distance
to the K-th alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.evaluation import knn

# N pictures, D width, K neighbours


class Neighbours(NamedTuple):
    """The K nearest other pictures of each of N, and the mean distance to them."""

    rows: NDArray[np.int64]  # (N, K), the nearest first
    distances: NDArray[np.float32]  # (N, K)
    mean_distances: NDArray[np.float32]  # (N,); NaN where there is no other picture


def neighbours_within(features: NDArray[np.float32], neighbours: int) -> Neighbours:
    """Compare each picture with all others, some rows at a time.

    Args:
        features: (N, D), N of at least 1. Lengths do not matter, only directions; a row of
            zeros has distance 1 from all.
        neighbours: K; N - 1 where that is less.

    Returns:
        The same for the same input: of equal distances, the lower row comes first. Distances
        have steps of 2**-30, so those of equal pictures are 0.
    """
    count = len(features)
    kept = min(neighbours, count - 1)
    rows = np.empty((count, kept), np.int64)
    distances = np.empty((count, kept), np.float32)
    mean_distances = np.full(count, np.nan, np.float32)
    for first in range(0, count, knn.TEST_ROWS):
        some = slice(first, first + knn.TEST_ROWS)
        best = knn.nearest(features[some], features, kept + 1)
        others = _others(best.rows, first)
        shape = len(others), kept  # (<= TEST_ROWS, K)
        distance = (1 - best.similarity[others]).reshape(shape)
        rows[some], distances[some] = best.rows[others].reshape(shape), distance
        if kept:
            mean_distances[some] = distance.mean(axis=1)
    return Neighbours(rows, distances, mean_distances)


def _others(rows: NDArray[np.int64], first: int) -> NDArray[np.bool_]:
    """(B, K + 1) nearest rows of rows `first`, `first` + 1, ... -> which K of them to keep.

    A picture is among its own nearest, unless it has more than K duplicates before it or no
    direction; then the last one goes.
    """
    others: NDArray[np.bool_] = rows != np.arange(first, first + len(rows))[:, None]
    others[others.all(axis=1), -1] = False
    return others


def least_typical(mean_distances: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """(N,) -> (<= top,) rows of the largest mean distances, the largest first.

    Of equal ones, the lower row comes first. A picture without any other is neither typical
    nor not: its distance is NaN, and it is left out.
    """
    order = np.argsort(-mean_distances, kind="stable")  # NaN comes last
    return order[: min(top, int(np.isfinite(mean_distances).sum()))]


def neighbours_bytes(pictures: int, width: int, neighbours: int) -> int:
    """The most that `neighbours_within` and `least_typical` allocate."""
    results_bytes = pictures * (12 * neighbours + 4)
    order_bytes = 16 * pictures
    choice_bytes = 48 * knn.TEST_ROWS * (neighbours + 1)
    nearest_bytes = knn.knn_bytes(width, neighbours + 1)
    return results_bytes + max(order_bytes, choice_bytes + nearest_bytes)
