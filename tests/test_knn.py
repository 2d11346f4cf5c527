"""kNN against its definition, its ties, and its memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.evaluation import knn
from edge_runtime.evaluation.knn import knn_accuracy


def votes_slowly(train, train_labels, picture, neighbours, temperature):
    """The definition, one test picture at a time. Never optimise this."""
    similarities = []
    for index, other in enumerate(train):
        lengths = np.linalg.norm(picture) * np.linalg.norm(other)
        similarities.append((-(picture @ other) / lengths if lengths else 0.0, index))
    votes = {}
    for negative, index in sorted(similarities)[:neighbours]:
        label = int(train_labels[index])
        votes[label] = votes.get(label, 0.0) + np.exp(-negative / temperature)
    return votes


def accuracy_slowly(train, train_labels, test, test_labels, neighbours, temperature):
    right = 0
    for picture, label in zip(test.astype(np.float64), test_labels, strict=True):
        votes = votes_slowly(
            train.astype(np.float64), train_labels, picture, neighbours, temperature
        )
        right += int(min(votes, key=lambda c: (-votes[c], c)) == label)
    return right / len(test)


def clusters(seed, train_count, test_count, width=6, classes=4, spread=1.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, train_count + test_count)
    features = centres[labels] + spread * rng.normal(size=(len(labels), width))
    features = features.astype(np.float32)
    return (
        features[:train_count],
        labels[:train_count],
        features[train_count:],
        labels[train_count:],
    )


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    neighbours=st.sampled_from([1, 3, 20, 500]),
    temperature=st.sampled_from([0.07, 1.0]),
)
def test_accuracy_equals_its_definition(seed, neighbours, temperature):
    data = clusters(seed, 70, 40)
    expected = accuracy_slowly(*data, neighbours, temperature)
    assert knn_accuracy(*data, neighbours=neighbours, temperature=temperature) == expected


def test_blocks_do_not_change_the_answer(monkeypatch):
    data = clusters(3, 70, 40)
    whole = knn_accuracy(*data)
    assert 0.5 < whole < 1  # a case that can differ
    monkeypatch.setattr(knn, "TEST_ROWS", 7)
    monkeypatch.setattr(knn, "TRAIN_ROWS", 9)
    assert knn_accuracy(*data) == whole == accuracy_slowly(*data, 20, 0.07)


def test_lengths_do_not_matter():
    train, train_labels, test, test_labels = clusters(5, 70, 40)
    scale = np.random.default_rng(0).uniform(0.1, 50, (70, 1)).astype(np.float32)
    assert knn_accuracy(train * scale, train_labels, test, test_labels) == knn_accuracy(
        train, train_labels, test, test_labels
    )


@pytest.mark.parametrize("train_rows", [4096, 2])
def test_equal_similarities_go_to_the_lower_index(monkeypatch, train_rows):
    monkeypatch.setattr(knn, "TRAIN_ROWS", train_rows)
    picture = np.array([[0.3, 0.1, 0.7]], np.float32)
    train = picture * np.array([[1.0], [3.0], [7.0], [0.1]], np.float32)  # one direction
    labels = np.array([2, 1, 1, 0])
    for neighbours, winner in [(1, 2), (2, 1), (3, 1)]:  # (2 against 1, 1: the lower class)
        accuracy = knn_accuracy(
            train, labels, picture, np.array([winner]), neighbours=neighbours
        )
        assert accuracy == 1.0, (neighbours, winner)


def test_nearer_neighbours_weigh_more_when_the_temperature_is_low():
    test = np.array([[1.0, 0.0]], np.float32)
    train = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.1]], np.float32)
    labels = np.array([0, 1, 1])
    assert knn_accuracy(train, labels, test, np.array([0]), temperature=0.07) == 1.0
    assert knn_accuracy(train, labels, test, np.array([1]), temperature=10.0) == 1.0


def test_a_picture_without_features_is_not_an_error():
    train, train_labels, test, test_labels = clusters(1, 30, 5)
    train[0] = 0
    test[:] = 0
    accuracy = knn_accuracy(train, train_labels, test, test_labels)
    assert accuracy == accuracy_slowly(train, train_labels, test, test_labels, 20, 0.07)


def test_memory_does_not_grow_with_the_training_pictures():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(12_000, 4)).astype(np.float32)
    test = rng.normal(size=(1_100, 4)).astype(np.float32)
    tracemalloc.start()
    try:
        knn_accuracy(train, np.arange(12_000) % 10, test, np.zeros(1_100, np.int64))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # all similarities at once would be 106 MB, their keys as much again
    assert peak_bytes < 20e6
