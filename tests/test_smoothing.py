"""Noisy costs are moved towards a line over FLOPs, precise ones are unchanged."""

import random
from dataclasses import replace

import numpy as np
import pytest
from simulated_board import rung_cost

from edge_runtime.planning import smooth

FLOPS = (100, 160, 240, 320, 400)


def measured(step_s, half_s):
    """Costs of five rungs, known to within `half_s`."""
    return [
        replace(
            rung_cost(f"k{flops}", flops, seconds, 10.0),
            flops=flops,
            step_s_low=seconds - half,
            step_s_high=seconds + half,
            source="measured",
        )
        for flops, seconds, half in zip(FLOPS, step_s, half_s, strict=True)
    ]


def times(costs):
    return [cost.step_s for cost in costs]


def test_smoothing_equals_its_definition() -> None:
    step_s, half_s = [0.2, 0.35, 0.4, 0.62, 0.6], [0.02, 0.05, 0.01, 0.1, 0.05]
    line = np.polynomial.Polynomial.fit(FLOPS, step_s, 1, w=1 / np.array(half_s))
    smoothed = smooth(measured(step_s, half_s))
    for cost, before_s, h in zip(smoothed, step_s, half_s, strict=True):
        d = line(cost.flops) - before_s
        assert cost.step_s == pytest.approx(before_s + d * h**2 / (h**2 + d**2))


def test_precise_times_are_unchanged_whatever_their_shape() -> None:
    step_s = [0.2, 0.2, 0.5, 0.5, 0.9]
    smoothed = times(smooth(measured(step_s, [1e-4] * 5)))
    assert smoothed == pytest.approx(step_s, rel=1e-3)


@pytest.mark.parametrize(
    ("step_s", "first_low_s", "first_high_s"),
    [
        ([0.01, 0.1, 0.3, 0.5, 0.7], 0.009, 1.0),  # the line is negative there
        ([0.5, 0.7, 0.5, 0.3, 0.1], 0.001, 0.501),
    ],
    ids=["below", "above"],
)
def test_a_time_stays_within_its_measured_interval(step_s, first_low_s, first_high_s) -> None:
    costs = measured(step_s, [0.001] * 5)
    costs[0] = replace(costs[0], step_s_low=first_low_s, step_s_high=first_high_s)
    for cost in smooth(costs):
        assert cost.step_s_low <= cost.step_s <= cost.step_s_high


def test_noise_on_a_straight_line_becomes_less() -> None:
    rng = random.Random(0)
    truth = [0.1 + flops / 1000 for flops in FLOPS]
    before, after = [], []
    for _ in range(200):
        step_s = [t * rng.uniform(0.8, 1.25) for t in truth]
        smoothed = times(smooth(measured(step_s, [0.2 * t for t in truth])))
        before.append(max(abs(a / t - 1) for a, t in zip(step_s, truth, strict=True)))
        after.append(max(abs(a / t - 1) for a, t in zip(smoothed, truth, strict=True)))
    assert np.mean(after) < 0.75 * np.mean(before)


def test_energy_follows_and_power_stays() -> None:
    noisy = measured([0.2, 0.4, 0.4, 0.6, 0.6], [0.1] * 5)
    for before, after in zip(noisy, smooth(noisy), strict=True):
        assert after.step_j / after.step_s == pytest.approx(before.step_j / before.step_s)
        assert after.power_w == before.power_w


def test_unknown_energy_stays_unknown_and_unmeasured_rungs_as_they_are() -> None:
    costs = [
        replace(cost, step_j=None, power_w=None) for cost in measured([1, 2, 2, 3, 4], [1] * 5)
    ]
    costs[2] = replace(costs[2], source="does_not_fit", step_s=None)
    smoothed = smooth(costs)
    assert smoothed[2] == costs[2]
    assert {cost.step_j for cost in smoothed} == {None}


def test_two_rungs_or_rungs_of_the_same_flops_are_left_alone() -> None:
    two = measured([0.2, 0.4, 0.1, 0.6, 0.6], [0.1] * 5)[:2]
    assert smooth(two) == two
    alike = [replace(cost, flops=100) for cost in measured([0.2] * 5, [0.1] * 5)]
    assert times(smooth(alike)) == [0.2] * 5
