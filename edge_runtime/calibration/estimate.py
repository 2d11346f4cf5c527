"""Bias and variance of a rung's gradients against the dense rung's, from sums over batches.

For M batches with gradients g_i of a rung and d_i of the dense rung on the same pictures,
e_i = g_i - d_i, all estimates without bias:

    squared bias   |E e|^2  = (|sum e|^2 - sum |e|^2) / (M (M - 1)): the mean of
                   the products of two different e
    its noise      tr Cov(e) / M, which |mean e|^2 has too much
    variance       tr Cov(g) = (sum |g|^2 - |sum g|^2 / M) / (M - 1)

Pairing is ours: both rungs see the same pictures, so that most of the noise cancels in e_i.
"""

import math

import numpy as np

from edge_runtime.errors import DivergedError
from edge_runtime.facts import RungGradient
from edge_runtime.state import Array, State


class GradientSums:
    """Sums over the batches of one rung: one float32 vector and two numbers."""

    def __init__(self, rung: str) -> None:
        self._rung = rung
        self._count = 0
        self._sum: dict[str, Array] = {}
        self._squares = self._error_squares = 0.0

    def add(self, gradient: State, dense: State) -> None:
        """Add one batch.

        Args:
            gradient: of the rung, by parameter name, float32.
            dense: of the dense rung for the same pictures; the same object for itself.

        Raises:
            DivergedError: a gradient is not finite.
        """
        squares = math.fsum(map(_square, gradient.values()))
        if not math.isfinite(squares):
            raise DivergedError(
                f"a gradient of rung {self._rung} is not finite: the training has diverged "
                "at this state. Calibrate an earlier checkpoint."
            )
        self._count += 1
        self._squares += squares
        if gradient is not dense:
            differences = (gradient[name] - dense[name] for name in gradient)
            self._error_squares += math.fsum(map(_square, differences))
        for name, value in gradient.items():
            if name in self._sum:
                self._sum[name] += value
            else:
                self._sum[name] = value.copy()

    def squared_norm(self) -> float | None:
        """Of the mean gradient, without the part of the noise; `None`: below the noise."""
        sum_square = math.fsum(map(_square, self._sum.values()))
        norm = _squared_mean(sum_square, self._squares, self._count)
        return norm if norm > 0 else None

    def against(self, dense: "GradientSums") -> RungGradient:
        """Bias and variance of this rung against the dense one, which saw the same batches."""
        count = self._count
        sum_square = math.fsum(map(_square, self._sum.values()))
        error_sums = (self._sum[name] - dense._sum[name] for name in self._sum)
        error_square = math.fsum(map(_square, error_sums))
        squared_bias = _squared_mean(error_square, self._error_squares, count)
        return RungGradient(
            rung=self._rung,
            squared_bias=max(0.0, squared_bias),
            bias_noise=_variance(error_square, self._error_squares, count) / count,
            variance=_variance(sum_square, self._squares, count),
        )


def _square(values: Array) -> float:
    """Squared norm, summed in float64."""
    return float(np.sum(np.square(values, dtype=np.float64)))


def _squared_mean(sum_square: float, squares: float, count: int) -> float:
    """Squared norm of an expectation, from the square of a sum and the sum of squares."""
    return (sum_square - squares) / (count * (count - 1))


def _variance(sum_square: float, squares: float, count: int) -> float:
    """Trace of the covariance; rounding may not make it negative."""
    return max(0.0, (squares - sum_square / count) / (count - 1))
