"""Draws that depend on the crops: the law of the second view's patches, and its limits."""

import math
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
from crops import some_crops
from data_pictures import GROUPS
from test_data_overlap import WHOLE, uncovered_slowly

from edge_runtime.data import open_source, view_batches
from edge_runtime.data.draws import draw_inputs, waiting_times
from edge_runtime.data.overlap import Crop
from edge_runtime.data.randomness import random_words
from edge_runtime.package.manifest import DrawSpec, NonOverlap


def spec_of(kept: int = 2, population: int = 4, power: float = 3.0) -> DrawSpec:
    return DrawSpec(
        input="keep.global",
        views=2,
        kept=kept,
        population=population,
        non_overlap=NonOverlap(group="global", power=power),
    )


def drawn(spec: DrawSpec, crops: np.ndarray, pictures=None) -> np.ndarray:
    pictures = range(crops.shape[1]) if pictures is None else pictures
    of_group = {"global": crops}
    inputs = draw_inputs([spec], seed=0, epoch=1, pictures=pictures, crops=of_group)
    return inputs[spec.input]


def repeated(first: Crop, second: Crop, pictures: int) -> np.ndarray:
    return np.tile(np.array([first, second], dtype=np.int32)[:, None], (1, pictures, 1))


def chances_slowly(weights: list[float], kept: int) -> dict[tuple[int, ...], float]:
    """Probabilities of subsets: one patch after the other, by weight among those left."""
    chances: Counter[tuple[int, ...]] = Counter()
    for order in permutations(range(len(weights)), kept):
        chance, left = 1.0, sum(weights)
        for patch in order:
            chance *= weights[patch] / left if left > 0 else 0.0
            left -= weights[patch]
        chances[tuple(sorted(order))] += chance
    return chances


def assert_frequencies(rows: np.ndarray, chances: dict[tuple[int, ...], float]) -> None:
    """Within five standard deviations of a binomial count: 99.999 % if the law holds."""
    counts = Counter(map(tuple, rows.tolist()))
    assert sum(counts[subset] for subset in chances) == len(rows)
    for subset, chance in chances.items():
        bound = 5 * math.sqrt(len(rows) * chance * (1 - chance)) + 1e-9
        assert abs(counts[subset] - len(rows) * chance) <= bound, subset


def sample(weights: list[float], kept: int, draws: int = 20_000) -> np.ndarray:
    count = len(weights)
    words = random_words(3, "t", epoch=0, pictures=range(draws), views=1, count=count)[0]
    with np.errstate(all="raise"):
        times = waiting_times(words, np.array([weights] * draws))
    return np.sort(np.argsort(times, axis=1)[:, :kept], axis=1)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_patches_are_taken_one_after_the_other_by_weight(kept) -> None:
    weights = [1.0, 0.5, 0.125, 0.001]
    assert_frequencies(sample(weights, kept), chances_slowly(weights, kept))


def test_patches_without_weight_fill_up_evenly() -> None:
    """Patch 2 first, then one of the three others."""
    rows = sample([0.0, 0.0, 1e-60, 0.0], 2)
    assert_frequencies(rows, {(0, 2): 1 / 3, (1, 2): 1 / 3, (2, 3): 1 / 3})


def test_without_any_weight_all_patches_are_alike() -> None:
    subsets = list(combinations(range(4), 2))
    assert_frequencies(sample([0.0] * 4, 2), dict.fromkeys(subsets, 1 / 6))


def test_the_second_views_patches_follow_the_law_of_the_first_ones() -> None:
    """For each choice of the first view, the weights are the cubes of the uncovered shares."""
    first, second = Crop(0, 0, 20, 20, flipped=False), Crop(5, 2, 24, 16, flipped=True)
    rows = drawn(spec_of(), repeated(first, second, 40_000))
    subsets = list(combinations(range(4), 2))
    assert_frequencies(rows[0], dict.fromkeys(subsets, 1 / 6))
    for subset in subsets:
        shares = uncovered_slowly(first, second, list(subset), 2)
        those = rows[1][(rows[0] == subset).all(axis=1)]
        assert len(those) > 5000
        assert_frequencies(those, chances_slowly([share**3 for share in shares], 2))


def test_the_second_view_of_equal_crops_is_the_complement() -> None:
    rows = drawn(spec_of(kept=8, population=16), repeated(WHOLE, WHOLE, 50))
    both = np.sort(np.concatenate([rows[0], rows[1]], axis=1), axis=1)
    assert (both == np.arange(16)).all()


@pytest.mark.parametrize("kept", [1, 5, 8, 9, 13, 16])
def test_rows_are_sorted_subsets_whatever_is_covered(kept) -> None:
    crops = np.concatenate(
        [
            some_crops(GROUPS, range(40))["global"],
            repeated(WHOLE, WHOLE, 10),  # fewer than `kept` have a weight
            repeated(WHOLE, Crop(4, 4, 2, 2, flipped=True), 10),  # perhaps none has
            repeated(Crop(0, 0, 4, 4, flipped=False), Crop(20, 20, 9, 4, flipped=True), 10),
        ],
        axis=1,
    )
    with np.errstate(all="raise"):
        rows = drawn(spec_of(kept=kept, population=16), crops)
    assert rows.dtype == np.int32
    assert rows.shape == (2, 70, kept)
    assert (np.diff(rows, axis=2) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < 16


def test_the_first_view_is_drawn_as_without_a_law() -> None:
    crops = some_crops(GROUPS, range(30))["global"]
    plain = DrawSpec(input="keep.global", views=2, kept=5, population=16)
    wanted = draw_inputs([plain], seed=0, epoch=1, pictures=range(30), crops={})["keep.global"]
    actual = drawn(spec_of(kept=5, population=16), crops)
    np.testing.assert_array_equal(actual[0], wanted[0])
    assert (actual[1] != wanted[1]).any()
    # To the power 0 all weights are 1
    uniform = drawn(spec_of(kept=5, population=16, power=0.0), crops)
    np.testing.assert_array_equal(uniform, wanted)


def test_a_draw_does_not_depend_on_the_batch() -> None:
    pictures = [9, 2, 7]
    crops = some_crops(GROUPS, pictures)["global"]
    spec = spec_of(kept=5, population=16)
    together = drawn(spec, crops, pictures)
    for row, picture in enumerate(pictures):
        alone = drawn(spec, crops[:, row : row + 1], [picture])
        np.testing.assert_array_equal(together[:, row], alone[:, 0])


def draws_of_steps(first_step: int = 1, **settings) -> list[list]:
    """The draws of the steps up to 6, as the training loop makes them."""
    settings = {"threads": 1, **settings}
    with view_batches(
        open_source("digits"),
        GROUPS,
        batch_size=4,
        seed=3,
        first_step=first_step,
        last_step=6,
        **settings,
    ) as batches:
        return [
            draw_inputs(
                [spec_of(kept=5, population=16)],
                seed=3,
                epoch=batch.epoch,
                pictures=batch.pictures,
                crops=batch.crops,
            )["keep.global"].tolist()
            for batch in batches
        ]


def test_draws_do_not_depend_on_threads_prefetching_or_interruptions() -> None:
    whole = draws_of_steps()
    assert len({str(rows) for rows in whole}) == 6
    assert draws_of_steps(threads=4, prefetch=5) == draws_of_steps(prefetch=0) == whole
    assert draws_of_steps(first_step=4) == whole[3:]


def test_views_of_this_law_overlap_less_than_random_ones() -> None:
    """The uncovered share of the second view's patches, at the authors' keep-ratio."""
    crops = some_crops(GROUPS, range(500))["global"]

    def mean_share(power: float) -> float:
        rows = drawn(spec_of(kept=4, population=16, power=power), crops)
        means = []
        for one, two, first, second in zip(*crops, *rows, strict=True):
            shares = uncovered_slowly(Crop(*one), Crop(*two), first.tolist(), 4)
            means.append(np.mean([shares[patch] for patch in second]))
        return float(np.mean(means))

    assert mean_share(0.0) < mean_share(3.0) - 0.02 < mean_share(10.0)
