"""Readings that cannot be true: the rule, against a slow definition of it."""

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.device.plausibility import ANYTHING, RAIL, Judge, Reading, SensorKind, judge
from edge_runtime.device.sensors import SENSORS  # noqa: F401 - every kind is imported

INPUT = SensorKind(frozen_s=30.0)


@pytest.mark.parametrize(
    ("reading", "kind", "problem"),
    [
        (Reading(5.0), INPUT, None),
        (Reading(0.0), INPUT, "0.000 W is not above zero"),
        (Reading(-12.5), INPUT, "-12.500 W is not above zero"),
        (Reading(math.nan), INPUT, "nan W is not a number"),
        (Reading(math.inf), ANYTHING, "inf W is not a number"),
        (Reading(0.0), RAIL, None),  # a part of a board may be off
        (Reading(-0.04), RAIL, None),  # and its sensor has an offset
        (Reading(-7.0), RAIL, "-7.000 W is not above -1 W"),
        (Reading(163.8, scale=1.0), RAIL, "at full scale"),
        (Reading(-163.8, scale=-1.0), RAIL, "at full scale"),
        (Reading(160.0, scale=0.99), RAIL, None),
        (Reading(7.0, same_s=30.0), INPUT, None),
        (Reading(7.0, same_s=31.0), INPUT, "exactly 7.000 W for 31 s"),
        (Reading(7.0, same_s=1e6), ANYTHING, None),
        (Reading(None, same_s=31.0), INPUT, "has counted nothing for 31 s"),
    ],
)
def test_a_reading_can_be_true_or_not(reading, kind, problem) -> None:
    found = judge(reading, kind)
    assert (found is None) == (problem is None)
    assert problem is None or (found or "").startswith(problem)


readings = st.lists(
    st.tuples(st.sampled_from([0.25, 1.0, 8.0]), st.sampled_from([-1.0, 0.0, 5.0, 7.0])),
    min_size=1,
    max_size=40,
)


@given(readings)
def test_power_is_judged_as_by_its_definition(steps) -> None:
    """True: above zero, and not equal to all readings of more than 30 s until then."""
    times_s = list(accumulate(passed_s for passed_s, _ in steps))
    values = [power_w for _, power_w in steps]
    kind_judge = Judge(INPUT, counts_energy=False)
    for i, (t_s, power_w) in enumerate(zip(times_s, values, strict=True)):
        equal = next((j for j in range(i, -1, -1) if values[j] != power_w), -1)
        since_s = times_s[equal + 1]
        problem, is_new = kind_judge.see(t_s, power_w)
        assert (problem is None) == (power_w > 0 and t_s - since_s <= 30.0)
        assert is_new == (i == 0 or values[i - 1] != power_w)
        stopped = power_w > 0 and problem is not None
        assert kind_judge.stopped_since_s == (since_s if stopped else None)


@given(readings)
def test_a_counter_is_judged_by_what_it_counts(steps) -> None:
    """True: it never goes back, and counts at least every 30 s."""
    kind_judge = Judge(INPUT, counts_energy=True)
    kind_judge.see(0.0, 0.0)
    t_s = total_j = counted_s = 0.0
    for passed_s, power_w in steps:
        t_s, total_j = t_s + passed_s, total_j + passed_s * power_w
        counted_s = t_s if power_w else counted_s
        problem, is_new = kind_judge.see(t_s, total_j)
        assert (problem is None) == (power_w >= 0 and t_s - counted_s <= 30.0)
        assert is_new == (power_w != 0)
