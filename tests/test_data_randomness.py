"""Random numbers: those of numpy's Philox, whatever they are drawn together with."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.data.draws import draw_inputs
from edge_runtime.data.randomness import (
    epoch_order,
    purpose_key,
    random_words,
    uniforms,
)
from edge_runtime.package.manifest import DrawSpec

indices = st.integers(0, 2**63 - 1)
uniform_draws = partial(draw_inputs, crops={})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=indices,
    pictures=st.lists(indices, min_size=1, max_size=4),
    views=st.integers(1, 3),
    count=st.integers(1, 11),
)
def test_words_are_those_of_numpys_philox(seed, epoch, pictures, views, count) -> None:
    words = random_words(seed, "a", epoch=epoch, pictures=pictures, views=views, count=count)
    assert words.shape == (views, len(pictures), count)
    for view in range(views):
        for row, picture in enumerate(pictures):
            slowly = np.random.Philox(
                key=np.array([seed % 2**64, purpose_key("a")], dtype=np.uint64),
                counter=np.array([0, view, picture, epoch], dtype=np.uint64),
            ).random_raw(count)
            np.testing.assert_array_equal(words[view, row], slowly)


def test_every_coordinate_gives_other_numbers() -> None:
    def draw(seed=1, purpose="a", epoch=2, picture=3):
        words = random_words(seed, purpose, epoch=epoch, pictures=[picture], views=2, count=2)
        return set(words.ravel().tolist())

    drawn = [draw(), draw(seed=2), draw(purpose="b"), draw(epoch=3), draw(picture=4)]
    assert len(set.union(*drawn)) == 5 * 4


def test_uniforms_are_in_range_and_even() -> None:
    numbers = uniforms(0, "a", epoch=0, pictures=range(500), views=2, count=10)
    assert numbers.dtype == np.float64
    assert 0 <= numbers.min() < numbers.max() < 1
    # 10,000 numbers: six standard errors of the mean of a uniform variable
    assert abs(numbers.mean() - 0.5) < 6 * math.sqrt(1 / 12 / numbers.size)


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_an_order_is_a_permutation(seed, epoch, pictures) -> None:
    assert sorted(epoch_order(seed, epoch, pictures).tolist()) == list(range(pictures))


def test_every_epoch_has_a_different_order() -> None:
    orders = {tuple(epoch_order(5, epoch, 50).tolist()) for epoch in range(20)}
    assert len(orders) == 20


def token_draw(**changes) -> DrawSpec:
    return DrawSpec(**({"input": "keep", "views": 2, "kept": 3, "population": 8} | changes))


def test_draws_are_sorted_subsets() -> None:
    drawn = uniform_draws([token_draw()], seed=0, epoch=0, pictures=range(100))["keep"]
    assert drawn.dtype == np.int32
    assert drawn.shape == (2, 100, 3)
    assert (np.diff(drawn) > 0).all()  # ascending, so nothing twice
    assert drawn.min() == 0
    assert drawn.max() == 7


def test_a_draw_does_not_depend_on_the_batch() -> None:
    together = uniform_draws([token_draw()], seed=4, epoch=6, pictures=[9, 2, 7])["keep"]
    for row, picture in enumerate([9, 2, 7]):
        alone = uniform_draws([token_draw()], seed=4, epoch=6, pictures=[picture])["keep"]
        np.testing.assert_array_equal(together[:, row], alone[:, 0])


def test_every_subset_is_equally_likely() -> None:
    spec = token_draw(views=2, kept=2, population=5)
    counts: dict[tuple[int, int], int] = {}
    draws = 0
    for seed in range(40):
        rows = uniform_draws([spec], seed=seed, epoch=seed % 3, pictures=range(50))["keep"]
        for row in rows.reshape(-1, 2).tolist():
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
            draws += 1
    share = 1 / math.comb(5, 2)
    # Five standard deviations of a binomial count: all ten hold with 99.999 % if it is fair
    bound = 5 * math.sqrt(draws * share * (1 - share))
    assert len(counts) == 10
    assert max(abs(count - draws * share) for count in counts.values()) < bound


def test_inputs_and_views_draw_apart() -> None:
    both = [
        token_draw(input="a", kept=8, population=16),
        token_draw(input="b", kept=8, population=16),
    ]
    drawn = uniform_draws(both, seed=0, epoch=0, pictures=range(30))
    rows = np.concatenate([drawn["a"], drawn["b"]])  # (4, 30, 8)
    equal = [(rows[i] == rows[j]).all(-1).sum() for i in range(4) for j in range(i)]
    assert sum(equal) == 0  # by chance one in 12,870 rows


def test_keeping_fewer_tokens_keeps_some_of_the_same() -> None:
    more = uniform_draws([token_draw(kept=6)], seed=0, epoch=0, pictures=range(20))["keep"]
    fewer = uniform_draws([token_draw(kept=2)], seed=0, epoch=0, pictures=range(20))["keep"]
    assert all(
        set(few) < set(many)
        for few, many in zip(
            fewer.reshape(-1, 2).tolist(), more.reshape(-1, 6).tolist(), strict=True
        )
    )


@pytest.mark.parametrize("population", [1, 4])
def test_keeping_all_is_the_whole_range(population) -> None:
    spec = token_draw(kept=population, population=population)
    drawn = uniform_draws([spec], seed=0, epoch=0, pictures=[3])["keep"]
    assert drawn.tolist() == [[list(range(population))]] * 2
