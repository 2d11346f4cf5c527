"""Nearest pictures within a set and mean distances to them, against their definition."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.evaluation import knn
from edge_runtime.evaluation.neighbours import (
    least_typical,
    neighbours_bytes,
    neighbours_within,
)

STEP = 2.0**-30  # of distances


def neighbours_slowly(features, neighbours):
    """The definition, one pair at a time: (distance, row) of the nearest. Never optimise."""
    nearest = []
    for row, one in enumerate(features.astype(np.float64)):
        others = []
        for other_row, other in enumerate(features.astype(np.float64)):
            lengths = np.linalg.norm(one) * np.linalg.norm(other)
            cosine = (one @ other) / lengths if lengths else 0.0
            if other_row != row:
                others.append((1 - round(cosine / STEP) * STEP, other_row))
        nearest.append(sorted(others)[:neighbours])
    return nearest


def in_blocks(features, neighbours, test_rows, train_rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "TEST_ROWS", test_rows)
        patch.setattr(knn, "TRAIN_ROWS", train_rows)
        return neighbours_within(features, neighbours)


@st.composite
def feature_rows(draw):
    """Few directions, so that there are many duplicates, ties and rows of zeros."""
    count, width = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    numbers = st.lists(st.integers(-2, 2), min_size=count * width, max_size=count * width)
    return np.array(draw(numbers), np.float32).reshape(count, width)


@settings(deadline=None, max_examples=60)
@given(
    features=feature_rows(),
    neighbours=st.integers(1, 35),
    test_rows=st.integers(1, 35),
    train_rows=st.integers(1, 35),
)
def test_neighbours_are_those_of_the_definition(features, neighbours, test_rows, train_rows):
    found = in_blocks(features, neighbours, test_rows, train_rows)
    expected = neighbours_slowly(features, neighbours)
    assert found.rows.tolist() == [[row for _, row in each] for each in expected]
    distances = [[distance for distance, _ in each] for each in expected]
    assert found.distances.dtype == np.float32
    # float32 keeps 24 bits of a distance
    np.testing.assert_allclose(found.distances, distances, rtol=1e-7, atol=STEP)
    if len(features) > 1:
        means = np.mean(distances, axis=1)
        np.testing.assert_allclose(found.mean_distances, means, rtol=1e-7, atol=STEP)


@settings(deadline=None, max_examples=60)
@given(
    features=feature_rows(),
    neighbours=st.integers(1, 35),
    test_rows=st.integers(1, 35),
    train_rows=st.integers(1, 35),
)
def test_the_size_of_the_blocks_changes_nothing(features, neighbours, test_rows, train_rows):
    whole = neighbours_within(features, neighbours)
    parts = in_blocks(features, neighbours, test_rows, train_rows)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_real_features_in_several_blocks():
    features = np.random.default_rng(0).normal(size=(700, 12)).astype(np.float32)
    found = neighbours_within(features, 5)  # three blocks of rows
    expected = neighbours_slowly(features, 5)
    assert found.rows.tolist() == [[row for _, row in each] for each in expected]


def test_duplicates_have_distance_zero_and_the_first_come_first():
    picture = np.array([[0.3, 0.1, 0.7]], np.float32)
    features = picture * np.array([[1.0], [3.0], [7.0], [0.1], [2.0]], np.float32)
    found = neighbours_within(features, 2)
    assert found.rows.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    assert not found.distances.any()
    assert not found.mean_distances.any()
    assert not np.signbit(found.distances).any()


def test_fewer_pictures_than_neighbours():
    features = np.eye(3, dtype=np.float32)
    found = neighbours_within(features, 10)
    assert found.rows.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert found.mean_distances.tolist() == [1, 1, 1]


def test_a_single_picture_has_no_neighbours():
    found = neighbours_within(np.ones((1, 4), np.float32), 10)
    assert found.rows.shape == found.distances.shape == (1, 0)
    assert np.isnan(found.mean_distances).tolist() == [True]
    assert least_typical(found.mean_distances, 10).tolist() == []


def test_the_least_typical_are_far_from_all_and_ties_keep_their_order():
    features = np.array(
        [[1, 0], [1, 0.1], [-1, 0], [1, 0.1], [0, -1], [0, 0], [0, 0]], np.float32
    )
    means = neighbours_within(features, 2).mean_distances
    order = sorted(range(7), key=lambda row: (-means[row], row))
    assert least_typical(means, 7).tolist() == order
    assert least_typical(means, 100).tolist() == order
    assert least_typical(means, 3).tolist() == order[:3]
    assert order[:4] == [2, 4, 5, 6]  # all at distance 1


def test_memory_is_that_of_the_prediction_and_not_of_all_pairs():
    features = np.random.default_rng(0).normal(size=(4_000, 8)).astype(np.float32)
    tracemalloc.start()
    try:
        found = neighbours_within(features, 50)
        least_typical(found.mean_distances, 10)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # all similarities at once would be 128 MB, their keys as much again
    assert peak_bytes < neighbours_bytes(4_000, 8, 50) < 20e6
