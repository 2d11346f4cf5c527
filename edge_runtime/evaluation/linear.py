"""Linear probe: multinomial logistic regression on frozen features, in numpy.

Minimises  cross-entropy, summed over the pictures  +  l2 / 2 * sum of squared weights,
the biases free: scikit-learn's `LogisticRegression(C=1/l2)`. Features are standardised first,
so one penalty suits all encoders. Deterministic: starts from zero, no sampling.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

L2 = 1.0
MAX_ITERATIONS = 1000
# Of the mean loss: weights are then accurate to about four digits, more than any prediction
# needs.
GRADIENT_TOLERANCE = 1e-6
BLOCK_VALUES = 1 << 20  # of a temporary array: 8 MiB
HISTORY = 10  # pairs of the L-BFGS approximation

Vector = NDArray[np.float64]

# N pictures, D width, C classes


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A fitted probe: class scores are `(features - mean) / deviation @ weights + bias`."""

    mean: Vector  # (D,)
    deviation: Vector  # (D,), 1 where a feature is constant
    weights: NDArray[np.float64]  # (D, C)
    bias: Vector  # (C,)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """(N, D) -> (N,) class indices; the lower class where scores are equal."""
        best = np.empty(len(features), np.int64)
        for rows in _blocks(len(features), max(self.weights.shape)):
            inputs = (features[rows] - self.mean) / self.deviation
            best[rows] = (inputs @ self.weights + self.bias).argmax(axis=1)
        return best


def linear_accuracy(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
) -> float:
    """Share of test pictures, in [0, 1], that a probe of the training pictures gets right.

    Args:
        train_features: (N, D).
        train_labels: (N,) class indices from 0.
        test_features: (M, D).
        test_labels: (M,).
    """
    probe = fit_probe(train_features, train_labels)
    return float((probe.predict(test_features) == test_labels).mean())


def fit_probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, l2: float = L2
) -> LinearProbe:
    """Fit a probe.

    Args:
        features: (N, D).
        labels: (N,) class indices from 0.
        l2: strength of the penalty, as in the module's docstring.
    """
    mean = features.mean(axis=0, dtype=np.float64)  # (D,)
    inputs = features - mean  # (N, D)
    deviation = np.sqrt(np.einsum("nd,nd->d", inputs, inputs) / len(inputs))  # (D,)
    # Below float32's resolution a deviation is rounding noise, which a division would amplify.
    deviation[deviation <= 1e-7 * np.abs(mean)] = 1.0
    inputs /= deviation
    width, classes = inputs.shape[1], int(labels.max()) + 1

    def loss(point: Vector) -> tuple[float, Vector]:
        return _loss_and_gradient(point.reshape(width + 1, classes), inputs, labels, l2)

    point = minimise(loss, np.zeros((width + 1) * classes)).reshape(width + 1, classes)
    return LinearProbe(mean, deviation, weights=point[:-1], bias=point[-1])


def probe_bytes(pictures: int, width: int, classes: int) -> int:
    """The most that `linear_accuracy` allocates, fitted to that many pictures.

    The inputs in float64, blocks of scores and errors, and the vectors of L-BFGS.
    """
    vectors = 2 * HISTORY + 8
    return 8 * (pictures * width + 2 * BLOCK_VALUES + vectors * (width + 1) * classes)


def _loss_and_gradient(
    point: NDArray[np.float64],
    inputs: NDArray[np.float64],
    labels: NDArray[np.int64],
    l2: float,
) -> tuple[float, Vector]:
    """Loss per picture at `point` (D + 1, C), the biases in its last row, and its gradient."""
    cross_entropy, gradient = 0.0, np.zeros_like(point)
    for rows in _blocks(len(inputs), point.shape[1]):
        cross_entropy += _add_block(gradient, point, inputs[rows], labels[rows])
    penalty = l2 / len(inputs)
    gradient /= len(inputs)
    gradient[:-1] += penalty * point[:-1]
    loss = cross_entropy / len(inputs) + penalty / 2 * float((point[:-1] ** 2).sum())
    return loss, gradient.ravel()


def _add_block(
    gradient: NDArray[np.float64],
    point: NDArray[np.float64],
    inputs: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> float:
    """Cross-entropy of some pictures; that of its gradient is added to `gradient`."""
    pictures = np.arange(len(inputs))
    scores = inputs @ point[:-1]  # (N, C)
    scores += point[-1]
    scores -= scores.max(axis=1, keepdims=True)
    likelihood = np.exp(scores)
    total = likelihood.sum(axis=1, keepdims=True)  # (N, 1)
    cross_entropy = np.log(total[:, 0]) - scores[pictures, labels]  # (N,)
    error = likelihood  # in place
    error /= total
    error[pictures, labels] -= 1
    gradient[:-1] += inputs.T @ error
    gradient[-1] += error.sum(axis=0)
    return float(cross_entropy.sum())


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Rows of a table of that width, some at a time, so that few values are made at once."""
    step = max(1, BLOCK_VALUES // width)
    return (slice(first, first + step) for first in range(0, rows, step))


def minimise(
    function: Callable[[Vector], tuple[float, Vector]],
    start: Vector,
    *,
    tolerance: float = GRADIENT_TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Vector:
    """The minimum of a smooth convex function, by L-BFGS.

    Args:
        function: point -> (value, gradient).
        start: where to begin.
        tolerance: largest entry of the gradient at the end.
        max_iterations: a warning is logged if they do not suffice.
    """
    point = start
    value, gradient = function(point)
    history: deque[tuple[Vector, Vector]] = deque(maxlen=HISTORY)
    for _ in range(max_iterations):
        if np.abs(gradient).max() <= tolerance:
            return point
        direction = _newton_direction(gradient, history)
        moved = _line_search(function, point, value, gradient, direction)
        if moved is None:  # the limit of float64
            return point
        new_point, value, new_gradient = moved
        # Convex: the product of step and change is never negative; at zero it has no
        # information.
        if (new_point - point) @ (new_gradient - gradient) > 0:
            history.append((new_point - point, new_gradient - gradient))
        point, gradient = new_point, new_gradient
    logger.warning(
        "linear probe: gradient %.1e after %d iterations",
        np.abs(gradient).max(),
        max_iterations,
    )
    return point


def _newton_direction(gradient: Vector, history: deque[tuple[Vector, Vector]]) -> Vector:
    """Two-loop recursion of L-BFGS; the first direction has length 1 at most."""
    if not history:
        return -gradient / max(1.0, float(np.linalg.norm(gradient)))
    direction = -gradient
    shares = []
    for step, change in reversed(history):
        share = (step @ direction) / (step @ change)
        direction = direction - share * change
        shares.append(share)
    step, change = history[-1]
    direction = direction * ((step @ change) / (change @ change))
    for (step, change), share in zip(history, reversed(shares), strict=True):
        direction = direction + (share - (change @ direction) / (step @ change)) * step
    return direction


def _line_search(
    function: Callable[[Vector], tuple[float, Vector]],
    point: Vector,
    value: float,
    gradient: Vector,
    direction: Vector,
) -> tuple[Vector, float, Vector] | None:
    """Halve the step until the value falls enough (Armijo); None when it never does."""
    slope = float(gradient @ direction)
    for halvings in range(40):
        step = 0.5**halvings
        candidate = point + step * direction
        new_value, new_gradient = function(candidate)
        if new_value <= value + 1e-4 * step * slope:
            return candidate, new_value, new_gradient
    return None
