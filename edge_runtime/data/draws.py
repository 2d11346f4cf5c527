"""Random choices of the host for the graphs of a rung: the patches that each view keeps."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.overlap import Crops, uncovered
from edge_runtime.data.randomness import Words, random_words, unit_interval
from edge_runtime.package.manifest import DrawSpec, NonOverlap

_LEAST_WEIGHT = 1e-200  # below those of all patches that are not covered


def draw_inputs(
    draws: Sequence[DrawSpec],
    *,
    seed: int,
    epoch: int,
    pictures: Sequence[int],
    crops: Crops,
) -> dict[str, NDArray[np.int32]]:
    """Token indices for the graphs of a rung.

    The K tokens with the smallest random words are kept, so rungs with the same input name and
    population get nested subsets: another keep-ratio changes no other choice. Only where a
    draw says `non_overlap`, the second view's tokens are weighted by what the first view does
    not show of them.

    Args:
        draws: of one rung.
        seed: of the run.
        epoch: pass over the data set.
        pictures: B, of the batch; `ViewBatch.pictures`.
        crops: of the same pictures; `ViewBatch.crops`.

    Returns:
        Per input name, int32 (views, B, kept): rows are sorted subsets of `range(population)`,
        independent of the rest of the batch.
    """
    drawn = {}
    for spec in draws:
        words = random_words(
            seed,
            f"draw.{spec.input}",
            epoch=epoch,
            pictures=pictures,
            views=spec.views,
            count=spec.population,
        )
        kept = _smallest(words, spec.kept)
        if spec.non_overlap is not None:
            weights = _second_view_weights(spec.non_overlap, crops, kept[0], spec.population)
            kept[1] = _smallest(waiting_times(words[1], weights), spec.kept)
        drawn[spec.input] = kept
    return drawn


def _second_view_weights(
    law: NonOverlap, crops: Crops, first_kept: NDArray[np.int32], patches: int
) -> NDArray[np.float64]:
    """Weight of each patch of the second view: what the first does not show, to a power.

    Args:
        law: the view group and the power.
        crops: by view group.
        first_kept: (B, K), patches of the first view.
        patches: N, of a view.

    Returns:
        (B, N), in [0, 1].
    """
    shares = uncovered(crops[law.group], first_kept, math.isqrt(patches))
    return np.power(shares, law.power)


def waiting_times(words: Words, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponentially distributed times, with the weights as rates.

    The K smallest are a sample without replacement that takes one after the other, each with
    a probability proportional to its weight among those that are left (Efraimidis and Spirakis
    2006, "Weighted random sampling with a reservoir"). Weights of 0 count as one that is below
    all others: such patches are taken last, all with the same probability.

    Args:
        words: (..., N) random.
        weights: (..., N), 0 or from 1e-60 to 1.
    """
    return -np.log1p(-unit_interval(words)) / np.maximum(weights, _LEAST_WEIGHT)


def _smallest(keys: NDArray[np.uint64] | NDArray[np.float64], kept: int) -> NDArray[np.int32]:
    """The ascending places of the `kept` smallest of the last axis."""
    chosen = np.argpartition(keys, kept - 1, axis=-1)[..., :kept]
    return np.sort(chosen, axis=-1).astype(np.int32)
