"""Bias and variance of gradients: against slow definitions, and against known truths."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.calibration.measure import GradientSums
from edge_runtime.errors import DivergedError
from edge_runtime.facts import RungGradient

ROUNDING = 1e-5  # of float32 sums, relative to the squares of what is added


def estimates(gradients, dense) -> tuple[RungGradient, float | None]:
    """Estimates of (M, D) gradients, in two tensors, and the dense rung's squared norm."""

    def tensors(row):
        row = np.asarray(row, np.float32)
        return {"a": row[:1], "b": row[1:].reshape(-1, 1)}

    own, reference = GradientSums("own"), GradientSums("dense")
    for row, other in zip(gradients, dense, strict=True):
        held = tensors(other)
        reference.add(held, held)
        own.add(tensors(row), held)
    assert reference.against(reference).squared_bias == 0.0
    assert reference.against(reference).bias_noise == 0.0
    return own.against(reference), reference.squared_norm()


def slowly(gradients, dense) -> tuple[float, float, float, float]:
    """Squared bias, its noise, variance and squared norm from all pairs of batches."""
    count = len(gradients)
    errors = [g - d for g, d in zip(gradients, dense, strict=True)]
    pairs = list(itertools.permutations(range(count), 2))

    def product_of_means(values):
        return sum(float(values[i] @ values[j]) for i, j in pairs) / len(pairs)

    def spread(values):  # half the mean squared distance of two batches
        return sum(float(((values[i] - values[j]) ** 2).sum()) for i, j in pairs) / (
            2 * len(pairs)
        )

    return (
        product_of_means(errors),
        spread(errors) / count,
        spread(gradients),
        product_of_means(dense),
    )


@given(
    st.integers(2, 9),
    st.integers(2, 6),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.1, 3.0]),
)
@settings(deadline=None)
def test_the_sums_give_the_means_over_all_pairs(count, width, seed, bias) -> None:
    random = np.random.default_rng(seed)
    dense = random.normal(1.0, 1.0, (count, width)).astype(np.float32)
    gradients = dense + np.float32(bias) + random.normal(0, 0.3, dense.shape)
    gradients = gradients.astype(np.float32)
    actual, norm = estimates(gradients, dense)
    wanted_bias, noise, variance, wanted_norm = slowly(gradients, dense)
    rounding = ROUNDING * float((gradients**2).sum() + (dense**2).sum())
    assert actual.squared_bias == pytest.approx(max(0.0, wanted_bias), abs=rounding)
    assert actual.bias_noise == pytest.approx(noise, abs=rounding)
    assert actual.variance == pytest.approx(variance, abs=rounding)
    assert (norm or 0.0) == pytest.approx(max(0.0, wanted_norm), abs=rounding)


def test_the_estimates_are_unbiased() -> None:
    """The mean of many estimates of four batches is the truth, with a bias as of 0.3."""
    random = np.random.default_rng(0)
    width, rounds, count = 5, 4000, 4
    shift = np.full(width, 0.3)
    biases, variances = [], []
    for _ in range(rounds):
        common = random.normal(0, 1.0, (count, width))  # of the pictures, in both
        own = random.normal(0, 0.5, (count, width))  # of the tokens that were drawn
        dense = 1.0 + common
        actual, _ = estimates(dense + shift + own, dense)
        biases.append(actual.squared_bias)
        variances.append(actual.variance)
    assert np.mean(variances) == pytest.approx(width * (1.0 + 0.25), rel=0.02)
    # Never below 0, which lifts the mean: at this bias hardly
    assert np.mean(biases) == pytest.approx(width * 0.09, rel=0.05)


def test_a_bias_below_the_noise_is_none() -> None:
    dense = np.zeros((2, 2))
    actual, norm = estimates([[1.0, 0.0], [-1.0, 0.0]], dense)
    assert (actual.squared_bias, actual.bias_noise, norm) == (0.0, 1.0, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_a_gradient_that_is_not_finite_is_refused(value) -> None:
    sums = GradientSums("k050")
    with np.errstate(over="ignore"):
        gradient = {"a": np.array([1.0, value], np.float32)}
    with pytest.raises(DivergedError, match="rung k050 is not finite"):
        sums.add(gradient, gradient)
