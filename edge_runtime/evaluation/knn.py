"""Nearest pictures by cosine similarity of frozen features, and classification by them.

The usual metric of self-supervised learning: each of the k most similar training pictures
votes for its class with weight exp(similarity / temperature).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 20
TEMPERATURE = 0.07

# Less than 20 MiB of similarities, keys and directions of 768 numbers, whatever the number of
# pictures. Larger blocks are slower: they do not fit into a cache.
TEST_ROWS = 256
TRAIN_ROWS = 1024

# A similarity in steps of 2**-30 and a picture index fit into one 64-bit key. The steps are
# far above the rounding of a float64 product: equal pictures tie on every machine.
SIMILARITY_STEPS = float(1 << 30)
INDEX_MASK = (1 << 32) - 1

# R training pictures, E test pictures, C classes, D width, K neighbours


class Nearest(NamedTuple):
    """The most similar training pictures of each test picture, best first."""

    similarity: NDArray[np.float64]  # (E, K) cosines, in steps of 2**-30
    rows: NDArray[np.int64]  # (E, K)


def knn_accuracy(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of test pictures, in [0, 1], whose neighbours vote for the correct class.

    Args:
        train_features: (R, D). Lengths do not matter, only directions.
        train_labels: (R,) class indices from 0.
        test_features: (E, D).
        test_labels: (E,).
        neighbours: k; all training pictures where there are fewer.
        temperature: of the votes.

    Returns:
        The same number for the same input: equal similarities go to the lower training index,
        equal votes to the lower class.
    """
    classes = int(train_labels.max()) + 1
    correct = 0
    for first in range(0, len(test_features), TEST_ROWS):
        rows = slice(first, first + TEST_ROWS)
        best = nearest(test_features[rows], train_features, neighbours)  # (rows, K)
        votes = _votes(best, train_labels, classes, temperature)  # (rows, C)
        correct += int((votes.argmax(axis=1) == test_labels[rows]).sum())
    return correct / len(test_features)


def knn_bytes(width: int, neighbours: int = NEIGHBOURS) -> int:
    """The most that `nearest` allocates for `TEST_ROWS` pictures of that width, or a vote.

    A block of similarities, their product, keys and the keys that are partitioned; the
    directions of a block in float64, twice while they are made.
    """
    keys = TRAIN_ROWS + neighbours
    return 8 * (4 * TEST_ROWS * keys + 2 * (TEST_ROWS + TRAIN_ROWS) * width)


def nearest(test: NDArray[np.float32], train: NDArray[np.float32], neighbours: int) -> Nearest:
    """The `neighbours` most similar rows of `train` for each row of `test`.

    Args:
        test: (E, D), `TEST_ROWS` at most, since all of them are compared at once.
        train: (R, D).
        neighbours: K; all of `train` where it has fewer.

    Returns:
        The same for the same input: equal similarities go to the lower index. A row of zeros
        is similar to nothing: its cosine is 0.
    """
    test_directions = _directions(test)
    best = np.empty((len(test), 0), np.int64)
    for first in range(0, len(train), TRAIN_ROWS):
        similarity = test_directions @ _directions(train[first : first + TRAIN_ROWS]).T
        keys = np.rint(similarity * SIMILARITY_STEPS).astype(np.int64)  # (E, <= TRAIN_ROWS)
        keys <<= 32
        keys |= INDEX_MASK - np.arange(first, first + keys.shape[1])
        keys = np.concatenate([best, keys], axis=1)
        kept = min(neighbours, keys.shape[1])
        keys.partition(keys.shape[1] - kept, axis=1)
        best = keys[:, -kept:].copy()  # a view would hold the whole block
    keys = np.sort(best, axis=1)[:, ::-1]
    return Nearest((keys >> 32) / SIMILARITY_STEPS, INDEX_MASK - (keys & INDEX_MASK))


def _directions(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays, similar to nothing."""
    features_64 = features.astype(np.float64)
    length = np.linalg.norm(features_64, axis=1, keepdims=True)
    length[length == 0] = 1
    features_64 /= length
    return features_64


def _votes(
    best: Nearest, labels: NDArray[np.int64], classes: int, temperature: float
) -> NDArray[np.float64]:
    """(rows, K) pictures -> (rows, C) summed votes, from the nearest to the farthest."""
    # the shift cancels, and cannot overflow
    weight = np.exp((best.similarity - 1) / temperature)
    votes = np.zeros((len(weight), classes))
    np.add.at(votes, (np.arange(len(weight))[:, None], labels[best.rows]), weight)
    return votes
