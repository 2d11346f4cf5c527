"""The linear probe against scikit-learn and against finite differences."""

import logging
import tracemalloc
from collections import deque

import numpy as np
import pytest

from edge_runtime.evaluation import linear
from edge_runtime.evaluation.linear import fit_probe, linear_accuracy, minimise


def clusters(seed, count, width=12, classes=4, spread=1.5):
    """Overlapping classes; features of very different scales and offsets."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    labels[:classes] = np.arange(classes)
    features = centres[labels] + spread * rng.normal(size=(count, width))
    scales = 10.0 ** np.linspace(-3, 3, width)
    return ((features + 5) * scales).astype(np.float32), labels


@pytest.mark.parametrize("l2", [0.1, 1.0, 50.0])
@pytest.mark.parametrize("classes", [3, 7])
def test_probe_equals_scikit_learn(l2, classes):
    models = pytest.importorskip("sklearn.linear_model")
    features, labels = clusters(0, 300, classes=classes)
    test, _ = clusters(1, 200, classes=classes)
    probe = fit_probe(features, labels, l2=l2)

    inputs = (features.astype(np.float64) - features.mean(0, np.float64)) / features.std(
        0, dtype=np.float64
    )
    oracle = models.LogisticRegression(C=1 / l2, tol=1e-9, max_iter=5000).fit(inputs, labels)
    # The mean loss curves by at least l2 / N = 1/3000 in every direction, so a gradient of
    # 1e-6 leaves at most 3e-3; far less in the directions that matter.
    np.testing.assert_allclose(probe.weights.T, oracle.coef_, atol=3e-3)
    np.testing.assert_allclose(probe.bias, oracle.intercept_, atol=3e-3)
    test_inputs = (test - probe.mean) / probe.deviation
    assert (probe.predict(test) == oracle.predict(test_inputs)).all()


def test_gradient_equals_finite_differences():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(9, 3)), rng.integers(0, 4, 9)
    point = rng.normal(size=(4, 4))
    _, gradient = linear._loss_and_gradient(point, inputs, labels, 2.0)
    for index in range(point.size):
        shift = np.zeros(point.size)
        shift[index] = 1e-5
        shift = shift.reshape(point.shape)
        above, _ = linear._loss_and_gradient(point + shift, inputs, labels, 2.0)
        below, _ = linear._loss_and_gradient(point - shift, inputs, labels, 2.0)
        # central differences: error of the order of the squared shift
        assert gradient[index] == pytest.approx((above - below) / 2e-5, abs=1e-8)


def test_large_scores_do_not_overflow():
    inputs, labels = np.array([[1000.0], [-1000.0]]), np.array([0, 0])
    point = np.array([[1.0, -1.0], [0.0, 0.0]])
    loss, gradient = linear._loss_and_gradient(point, inputs, labels, 0.0)
    assert loss == 1000.0  # the second picture's score is 2000 too low, the first is right
    assert gradient.tolist() == [500.0, -500.0, -0.5, 0.5]


def test_accuracy_is_the_share_of_correct_answers():
    features, labels = clusters(0, 300)
    test, test_labels = clusters(1, 200)
    expected = (fit_probe(features, labels).predict(test) == test_labels).mean()
    assert 0.5 < expected < 1
    assert linear_accuracy(features, labels, test, test_labels) == expected


def test_same_input_gives_the_same_probe():
    features, labels = clusters(0, 300)
    first, second = fit_probe(features, labels), fit_probe(features, labels)
    assert first.weights.tobytes() == second.weights.tobytes()


def test_constant_features_change_nothing():
    features, labels = clusters(0, 200)
    constant = np.full((200, 1), 0.1, np.float32)
    constant[0] = np.nextafter(np.float32(0.1), np.float32(1))  # rounding noise
    wider = np.concatenate([features, constant, np.zeros((200, 1), np.float32)], axis=1)
    np.testing.assert_allclose(
        fit_probe(wider, labels).weights[:-2], fit_probe(features, labels).weights, atol=1e-3
    )


def test_separable_classes_stay_finite():
    features = np.repeat(np.eye(3, dtype=np.float32) * 1000, 5, axis=0)
    labels = np.repeat(np.arange(3), 5)
    assert linear_accuracy(features, labels, features, labels) == 1.0


def test_one_class_is_not_an_error():
    features = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    labels = np.zeros(5, np.int64)
    assert linear_accuracy(features, labels, features, labels) == 1.0


def direction_slowly(gradient, history):
    """The definition: BFGS updates of the inverse curvature as a matrix."""
    step, change = history[-1]
    identity = np.eye(len(gradient))
    inverse = identity * (step @ change) / (change @ change)
    for step, change in history:
        shift = identity - np.outer(step, change) / (step @ change)
        inverse = shift @ inverse @ shift.T + np.outer(step, step) / (step @ change)
    return -inverse @ gradient


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_direction_equals_its_definition(pairs):
    rng = np.random.default_rng(pairs)
    curvature = rng.normal(size=(6, 9))
    curvature = curvature @ curvature.T
    history = deque((step, curvature @ step) for step in rng.normal(size=(pairs, 6)))
    gradient = rng.normal(size=6)
    direction = linear._newton_direction(gradient, history)
    np.testing.assert_allclose(direction, direction_slowly(gradient, history), rtol=1e-9)


def test_minimise_finds_the_bottom_of_a_badly_scaled_bowl():
    curvature = 10.0 ** np.linspace(-1, 2, 20)
    bottom = np.linspace(-2, 2, 20)

    def bowl(point):
        away = point - bottom
        return float((curvature * away**2).sum() / 2), curvature * away

    point = minimise(bowl, np.zeros(20), tolerance=1e-8)
    np.testing.assert_allclose(point, bottom, atol=1e-8 / curvature.min())


def test_too_few_iterations_are_reported(caplog):
    features, labels = clusters(0, 100)
    inputs = (features - features.mean(0)) / features.std(0)

    def loss(point):
        return linear._loss_and_gradient(point.reshape(13, 4), inputs, labels, 1.0)

    with caplog.at_level(logging.WARNING):
        minimise(loss, np.zeros(52), max_iterations=2)
    assert "after 2 iterations" in caplog.text


def test_blocks_of_rows_give_the_same_probe(monkeypatch):
    features, labels = clusters(0, 300)
    whole = fit_probe(features, labels)
    monkeypatch.setattr(linear, "BLOCK_VALUES", 50)
    blocks = fit_probe(features, labels)
    # only the order of additions differs, in each of some hundred iterations
    np.testing.assert_allclose(blocks.weights, whole.weights, rtol=1e-6, atol=1e-9)
    assert (blocks.predict(features) == whole.predict(features)).all()


def test_memory_is_that_of_the_inputs_and_a_block(monkeypatch):
    monkeypatch.setattr(linear, "BLOCK_VALUES", 1 << 12)
    features, labels = clusters(0, 20_000, classes=50)
    tracemalloc.start()
    fit_probe(features, labels)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * features.nbytes + (1 << 20)
