"""Quantities with units: read, printed, and refused with the reason."""

import argparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.cli.quantities import (
    count,
    count_text,
    duration_s,
    energy_j,
    epochs_or_auto,
    niceness,
    power_w,
    seed,
    size_bytes,
    temperature_c,
)
from edge_runtime.units import (
    DURATIONS_S,
    ENERGIES_J,
    at_least_text,
    bytes_text,
    duration_text,
    energy_text,
    power_text,
    temperature_text,
    unit_for,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 B"),
        (bytes_text(1023), "1023 B"),
        (bytes_text(1536), "1.5 KiB"),
        (bytes_text(5 << 40), "5120.0 GiB"),
        (count_text(999), "999"),
        (count_text(5_526_000), "5.5 M"),
        (count_text(2e12), "2.0 T"),
        (duration_text(0.42), "0.42 s"),
        (duration_text(59.4), "59 s"),
        (duration_text(59.7), "1 min 0 s"),
        (duration_text(200), "3 min 20 s"),
        (duration_text(7500), "2 h 5 min"),
        (energy_text(0.823), "823 mJ"),
        (energy_text(4.2), "4.20 J"),
        (energy_text(420), "420.0 J"),
        (energy_text(23_400), "23.4 kJ"),
        (energy_text(5e9), "5000.0 MJ"),
        (power_text(0.8), "800 mW"),
        (power_text(9.8126), "9.81 W"),
        (temperature_text(79.46), "79.5 C"),
    ],
)
def test_quantities_have_units(text, expected) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (size_bytes, "512B", 512),
        (size_bytes, "1.5GiB", 1_610_612_736),
        (size_bytes, "512MB", 512_000_000),
        (size_bytes, "2KiB", 2048),
        (size_bytes, "2kB", 2000),
        (size_bytes, "0.5B", 0),
        (energy_j, "20kJ", 20_000),
        (energy_j, "5Wh", 18_000),
        (energy_j, "0.001 kWh", 3600),
        (energy_j, "1.2MJ", 1_200_000),
        (duration_s, "90s", 90),
        (duration_s, "5min", 300),
        (duration_s, "1.5h", 5400),
        (duration_s, "250ms", 0.25),
        (duration_s, "0s", 0),
        (power_w, "10W", 10),
        (power_w, " 800 mW ", 0.8),
        (power_w, "+.5kW", 500),
        (temperature_c, "80C", 80),
    ],
)
def test_quantities_are_read(read, text, value) -> None:
    assert read(text) == pytest.approx(value, rel=1e-12)


def test_epochs_are_a_number_or_left_to_the_budget() -> None:
    assert epochs_or_auto("12") == 12
    assert epochs_or_auto("auto") is None


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (
            duration_s,
            "300",
            "'300' is not a duration: it has no unit; write a number with ms, s,",
        ),
        (duration_s, "-5s", "'-5s' is not a duration: it is negative"),
        (duration_s, "2d", "the unit d is unknown; write a number with ms, s, min or h, such"),
        (size_bytes, "1.5", "'1.5' is not a size: it has no unit"),
        (
            size_bytes,
            "1.5G",
            "'1.5G' is not a size: the unit G is unknown; .*GiB, such as 1.5GiB",
        ),
        (size_bytes, "1gib", "the unit gib is unknown"),
        (size_bytes, "-1MB", "'-1MB' is not a size: it is negative"),
        (size_bytes, "9" * 400 + "GB", r"9\.\.\.' is not a size: it is more than 1e\+15 B"),
        (energy_j, "twenty kJ", "'twenty kJ' is not an energy: it is not a number and a unit"),
        (energy_j, "1,5kJ", "it is not a number and a unit"),
        (energy_j, "1e3kJ", "it is not a number and a unit"),
        (energy_j, "nanJ", "it is not a number and a unit"),
        (energy_j, "20kcal", "the unit kcal is unknown; write a number with J, kJ, MJ, Wh or"),
        (power_w, "", "'' is not a power: it is not a number and a unit"),
        (power_w, "10J", "the unit J is unknown; write a number with mW, W or kW"),
        (temperature_c, "353K", "the unit K is unknown; write a number with C, such as 80C"),
        (count, "0", "expected a whole number from 1 to 1000000000, got '0'"),
        (count, "2.5", "from 1 to 1000000000, got '2.5'"),
        (seed, "-1", "expected a whole number from 0 to 9223372036854775807, got '-1'"),
        (niceness, "20", "expected a whole number from 0 to 19, got '20'"),
        (niceness, "-5", "from 0 to 19, got '-5'"),
    ],
)
def test_wrong_quantities_are_named(read, text, message) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read(text)


JOULES = {"J": 1, "kJ": 1e3, "MJ": 1e6}


def written(value, units):
    """A value in its unit, as a limit is printed."""
    return at_least_text(value, *unit_for(value, units))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20_000, "20kJ"),
        (20_001, "20.01kJ"),  # five digits are rounded up to four
        (999.96, "1000J"),
        (0.0123456, "0.01235J"),
        (3e12, "3000000MJ"),
    ],
)
def test_a_limit_is_written_with_four_digits(value, text) -> None:
    assert written(value, JOULES) == text


def test_a_quantity_is_printed_in_the_unit_in_which_it_was_given() -> None:
    given = [size_bytes("2GB"), size_bytes("0.5MiB"), energy_j("18kJ"), energy_j("0.25kWh")]
    assert [written(value, JOULES) for value in given] == ["2GB", "0.5MiB", "18kJ", "0.25kWh"]
    assert type(given[0] * 2) is int
    assert written(given[3] * 1.5, JOULES) == "1.35MJ"  # it is another one


@pytest.mark.parametrize("text", ["75s", "350s", "2h", "90s", "90min", "10min", "250ms"])
def test_quantities_are_printed_as_they_were_written(text) -> None:
    assert written(duration_s(text), DURATIONS_S) == text


@settings(max_examples=50, deadline=None)
@given(
    st.floats(1e-6, 1e14), st.sampled_from([(energy_j, ENERGIES_J), (duration_s, DURATIONS_S)])
)
def test_a_printed_limit_is_read_as_no_less(value, kind) -> None:
    read, units = kind
    ascending = dict(sorted(units.items(), key=lambda unit: unit[1]))
    again = read(written(value, ascending))
    assert value * (1 - 1e-9) <= again <= value * 1.001 + 1e-9
