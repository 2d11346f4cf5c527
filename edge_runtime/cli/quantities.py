"""Quantities with units, as the command line reads and prints them."""

import argparse
import os
import re
from collections.abc import Callable, Mapping

from edge_runtime.units import (
    DURATIONS_S,
    ENERGIES_J,
    LARGEST,
    POWERS_W,
    SIZES,
    TEMPERATURES_C,
    Quantity,
    Size,
)

AUTO = "auto"  # instead of a number: by the budget

_SHOWN = 60  # characters of a text that is refused
_DIGITS = re.compile(r"\d{1,20}", re.ASCII)
_QUANTITY = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)\s*([^\W\d_]*)", re.ASCII)


def shortened(text: str) -> str:
    """The beginning of a long text that is refused."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def count_text(count: float) -> str:
    """For example `812`, `5.5 k`, `1.2 M`, `3.4 G`."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 1000 or unit == "T":
            break
        count /= 1000
    return f"{count:.1f} {unit}" if unit else f"{count:.0f}"


def size_bytes(text: str) -> int:
    """Read `512MB` or `1.5GiB`, as an argparse type."""
    given = _quantity(text, "a size", SIZES, "1.5GiB")
    size = Size(round(given))
    size.unit, size.factor = given.unit, given.factor
    return size


def energy_j(text: str) -> float:
    """Read `20kJ` or `5Wh`, as an argparse type."""
    return _quantity(text, "an energy", ENERGIES_J, "20kJ")


def duration_s(text: str) -> float:
    """Read `90s`, `5min` or `1.5h`, as an argparse type."""
    return _quantity(text, "a duration", DURATIONS_S, "5min")


def power_w(text: str) -> float:
    """Read `10W` or `800mW`, as an argparse type."""
    return _quantity(text, "a power", POWERS_W, "10W")


def temperature_c(text: str) -> float:
    """Read `80C`, degrees Celsius, as an argparse type."""
    return _quantity(text, "a temperature", TEMPERATURES_C, "80C")


def _quantity(text: str, kind: str, units: Mapping[str, float], example: str) -> Quantity:
    """A number of at least zero with a unit; the caller decides about zero."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        problem = "it is not a number and a unit"
    elif match[1] == "-":
        problem = "it is negative"
    elif not match[3]:
        problem = "it has no unit"
    elif match[3] not in units:
        problem = f"the unit {match[3]} is unknown"
    elif (value := float(match[2]) * units[match[3]]) > LARGEST:
        base = next(unit for unit, factor in units.items() if factor == 1)
        problem = f"it is more than {LARGEST:g} {base}"
    else:
        quantity = Quantity(value)
        quantity.unit, quantity.factor = match[3], units[match[3]]
        return quantity
    *others, last = units
    known = f"{', '.join(others)} or {last}" if others else last
    raise argparse.ArgumentTypeError(
        f"{shortened(text)!r} is not {kind}: {problem}; write a number with {known}, such "
        f"as {example}"
    )


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type for whole numbers of a range, both ends included."""

    def read(text: str) -> int:
        if _DIGITS.fullmatch(text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {low} to {high}, got {shortened(text)!r}"
        )

    return read


count = whole(1, 10**9)  # of epochs or pictures
seed = whole(0, 2**63 - 1)
threads = whole(1, max(16, os.cpu_count() or 1))  # more than processors only wait
port = whole(1, 65_535)
niceness = whole(0, 19)


def epochs_or_auto(text: str) -> int | None:
    """Read 1, 2, 3, ..., or `auto`, which is `None`, as an argparse type."""
    if text == AUTO:
        return None
    try:
        return count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or write `auto`") from None
