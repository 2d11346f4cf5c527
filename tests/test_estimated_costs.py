"""Costs of rungs that were not measured, estimated from those that were."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_board import LADDER, rung_cost
from test_costs import unmeasured

from edge_runtime.planning import interpolate


@settings(max_examples=50, deadline=None)
@given(st.integers(100, 400))
def test_an_interpolated_rung_lies_on_the_line(flops) -> None:
    low = rung_cost("low", 100, 1.0, 8.0, flops=100)
    high = rung_cost("high", 400, 4.0, 10.0, flops=400)
    _, middle, _ = interpolate([high, unmeasured("m", flops), low])
    share = (flops - 100) / 300
    assert middle.source == "interpolated"
    assert middle.step_s == pytest.approx(1.0 + share * 3.0)
    assert middle.step_j == pytest.approx(8.0 + share * 32.0)
    assert middle.power_w == pytest.approx(middle.step_j / middle.step_s)
    assert (middle.step_s_low, middle.peak_bytes) == (None, None)
    assert middle.predicted_peak_bytes == 1000


def test_rungs_outside_the_measured_ones_are_extrapolated_to_the_expensive_side() -> None:
    """A step is a fixed part and one in proportion to FLOPs: here 10 ms and 0.25 ms each."""
    measured = [rung_cost(f"k{n}", n, 0.01 + n * 0.00025, 10.0) for n in (200, 300)]
    costs = [unmeasured("more", 600_000), *measured, unmeasured("less", 100_000)]
    more, _, _, less = interpolate(costs)
    assert (more.source, less.source) == ("extrapolated", "extrapolated")
    assert more.step_s == pytest.approx(2 * measured[1].step_s)
    assert more.step_s >= 0.01 + 600 * 0.00025
    assert less.step_s == measured[0].step_s
    assert more.step_j == pytest.approx(10.0 * more.step_s)
    assert more.power_w == less.power_w == 10.0
    assert more.peak_bytes is None


def test_rungs_are_estimated_from_those_with_the_same_micro_batches() -> None:
    """Micro-batches take longer for the same FLOPs, nobody knows how much."""
    whole = rung_cost("k100", 400, 0.2, 10.0)
    split = [replace(unmeasured(f"k{n}-m4", n * 1000), micro_batch=4) for n in (400, 200)]
    assert interpolate([whole, *split]) == (whole, *split)
    known = replace(rung_cost("k025-m4", 100, 0.1, 10.0), micro_batch=4)
    _, larger, smaller, _ = interpolate([whole, *split, known])
    assert (larger.step_s, smaller.step_s) == (0.4, 0.2)


def test_one_measured_rung_is_enough_for_an_estimate_and_none_is_not() -> None:
    only = rung_cost("k050", 200, 0.1, None)
    _, more = interpolate([only, unmeasured("more", 400_000)])
    assert (more.step_s, more.step_j) == (0.2, None)
    unknown = (unmeasured("a", 100), unmeasured("b", 200))
    assert interpolate(unknown) == unknown


def test_unknown_energy_stays_unknown_between_rungs() -> None:
    low = rung_cost("low", 100, 1.0, None, flops=100)
    high = rung_cost("high", 400, 4.0, 10.0, flops=400)
    _, middle, _ = interpolate([low, unmeasured("m", 200), high])
    assert middle.step_s == pytest.approx(2.0)
    assert (middle.step_j, middle.power_w) == (None, None)


def test_a_rung_that_does_not_fit_is_not_interpolated_from() -> None:
    high = replace(unmeasured("high", 400_000), source="does_not_fit")
    *others, between, killed = interpolate((*LADDER[1:], unmeasured("k090", 350_000), high))
    assert (between.source, killed) == ("extrapolated", high)
    assert others == [*LADDER[1:]]
