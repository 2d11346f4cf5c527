"""Limits of a run, and their flags."""

import math

import pytest
from facts_examples import budget_of_flags
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.facts import Budget
from edge_runtime.facts.budget import ENERGY, LIMITS, MEMORY, TIME, over_text

SOME = Budget(memory_bytes=3 << 29, energy_j=2e4, time_s=7200, power_w=0.8, temperature_c=80)


def test_without_limits_every_limit_is_none() -> None:
    assert not Budget().is_limited
    assert str(Budget()) == ""
    assert budget_of_flags("") == Budget()


def test_every_limit_counts() -> None:
    for limit in LIMITS:
        alone = Budget(**{limit.field: 5})
        assert alone.is_limited
        assert alone.limited() == (limit,)
        assert str(alone).startswith(limit.flag + " 5")


def test_a_budget_is_printed_as_flags() -> None:
    text = "--memory 1.5GiB --energy 20kJ --time 2h --power 800mW --temperature 80C"
    assert budget_of_flags(text) == SOME
    assert str(SOME) == text


@pytest.mark.parametrize(
    "flags",
    [
        *["--memory 2GB", "--memory 2GiB", "--memory 500MB", "--memory 1024MB"],
        *[
            "--energy 20Wh",
            "--energy 18kJ",
            "--energy 1.2kWh",
            "--energy 50kJ",
            "--energy 0.5Wh",
        ],
        *["--time 90min", "--time 3h", "--time 36min", "--time 250ms"],
        *["--power 10W", "--power 1.5kW"],
    ],
)
def test_a_budget_is_printed_in_the_units_of_its_flags(flags) -> None:
    assert str(budget_of_flags(flags)) == flags


def test_a_budget_is_printed_in_the_units_of_another() -> None:
    given = budget_of_flags("--memory 2GB --energy 20Wh")
    near = Budget(memory_bytes=2_345_678_901, energy_j=83_456, time_s=5400)
    assert near.flags(beside=given) == "--memory 2.346GB --energy 23.19Wh --time 90min"


@pytest.mark.parametrize(
    ("limit", "value", "flag", "text"),
    [
        (MEMORY, 2_260_000_000, "--memory 2GB", "2.3 GB, over --memory 2GB"),
        (MEMORY, 2_460_000_000, "--memory 2GiB", "2.3 GiB, over --memory 2GiB"),
        (ENERGY, 90_000, "--energy 20Wh", "25.0 Wh, over --energy 20Wh"),
        (TIME, 7500, "--time 90min", "2 h 5 min, over --time 90min"),
        (MEMORY, 2_001_000_000, "--memory 2GB", "2.001GB, over --memory 2GB"),
        (ENERGY, 360_100, "--energy 100Wh", "100.1Wh, over --energy 100Wh"),
        (TIME, 5401, "--time 90min", "90.02min, over --time 90min"),
    ],
)
def test_what_is_over_a_limit_is_compared_in_its_unit(limit, value, flag, text) -> None:
    assert over_text(limit, value, budget_of_flags(flag).value(limit)) == text


positive = st.floats(1e-3, 1e9)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Budget,
        memory_bytes=st.none() | st.integers(1, 1 << 49),
        energy_j=st.none() | positive,
        time_s=st.none() | positive,
        power_w=st.none() | positive,
        temperature_c=st.none() | st.floats(1, 200),
    )
)
def test_printed_flags_are_read_as_no_less(budget) -> None:
    again = budget_of_flags(str(budget))
    for limit in budget.limited():
        value = again.value(limit)
        assert value * (1 + 1e-9) >= budget.value(limit)
        assert value <= budget.value(limit) * 1.001 + 1
    assert again.limited() == budget.limited()


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
@pytest.mark.parametrize("value", [0, -5, math.nan, math.inf])
def test_a_limit_is_more_than_zero(limit, value) -> None:
    with pytest.raises(ConfigError, match=rf"^{limit.flag} is {value:g}; a limit must be"):
        Budget(**{limit.field: value})


def test_zero_is_refused_by_its_flag() -> None:
    with pytest.raises(ConfigError, match="--energy is 0; a limit must be above zero"):
        budget_of_flags("--energy 0kJ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--energy 20", "argument --energy: '20' is not an energy: it has no unit"),
        ("--time=-5s", "argument --time: '-5s' is not a duration: it is negative"),
        ("--time -5s", "argument --time: expected one argument"),
        ("--memory 1.5G", "argument --memory: '1.5G' is not a size: the unit G is unknown"),
        ("--power 10J", "argument --power: '10J' is not a power: the unit J is unknown"),
        ("--temperature hot", "argument --temperature: 'hot' is not a temperature"),
    ],
)
def test_wrong_flags_are_named(flags, message, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        budget_of_flags(flags)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
