"""Quantities as text. Everything inside the program is in SI units.

Units are powers of ten or, for sizes, also of two: 1 kB is 1000 B, 1 KiB is 1024 B.
"""

import math
from collections.abc import Mapping

SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9} | {
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30
}  # fmt: skip
ENERGIES_J = {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6}
POWERS_W = {"mW": 1e-3, "W": 1.0, "kW": 1e3}
DURATIONS_S = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
TEMPERATURES_C = {"C": 1.0}

LARGEST = 1e15  # bytes, joules, seconds, watts: what is beyond is no limit
_FOUR_DIGITS = 10_000  # the first number with more


def bytes_text(size_bytes: float) -> str:
    """For example `512 B`, `3.4 MiB`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"


def duration_text(duration_s: float) -> str:
    """For example `0.42 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if duration_s < 10:
        return f"{duration_s:.2f} s"
    whole_s = round(duration_s)
    if whole_s < 60:
        return f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60} min"


def step_text(step_s: float) -> str:
    """For example `8.3 ms`, `1.25 s`."""
    return f"{1000 * step_s:.1f} ms" if step_s < 1 else f"{step_s:.2f} s"


def energy_text(energy_j: float) -> str:
    """For example `820 mJ`, `4.20 J`, `420.0 J`, `23.4 kJ`, `1.2 MJ`."""
    if energy_j < 1:
        return f"{1000 * energy_j:.3g} mJ"
    if energy_j < 10:
        return f"{energy_j:.2f} J"
    for unit in ("J", "kJ", "MJ"):
        if energy_j < 1000 or unit == "MJ":
            break
        energy_j /= 1000
    return f"{energy_j:.1f} {unit}"


def power_text(power_w: float) -> str:
    """For example `800 mW`, `9.81 W`."""
    return f"{1000 * power_w:.0f} mW" if power_w < 1 else f"{power_w:.2f} W"


def temperature_text(temperature_c: float) -> str:
    """For example `79.5 C`."""
    return f"{temperature_c:.1f} C"


class Quantity(float):
    """A value in SI units that remembers the unit in which somebody gave it."""

    unit: str
    factor: float  # of that unit


class Size(int):
    """Bytes that remember the unit in which somebody gave them."""

    unit: str
    factor: float


def unit_for(value: float, units: Mapping[str, float]) -> tuple[str, float]:
    """The unit in which a value is printed, and its factor.

    It is the one in which the value was given; otherwise the one with the shortest exact
    number of four digits, or the largest that is not above `value`.

    Args:
        value: above zero, in the unit whose factor is 1.
        units: factor by unit, ascending.
    """
    if isinstance(value, Quantity | Size):
        return value.unit, value.factor
    smallest, *larger = units
    fitting = [*(unit for unit in reversed(larger) if units[unit] <= value), smallest]
    texts = {unit: _four_digits_up(value / units[unit]) for unit in fitting}
    exact = [
        unit
        for unit, text in texts.items()
        if float(text) < _FOUR_DIGITS and math.isclose(float(text) * units[unit], value)
    ]
    unit = min(exact, key=lambda unit: len(texts[unit])) if exact else fitting[0]
    return unit, units[unit]


def at_least_text(value: float, unit: str, factor: float) -> str:
    """Four digits and the unit, rounded up: parsed again, the text is not below `value`."""
    return _four_digits_up(value / factor) + unit


def _four_digits_up(number: float) -> str:
    digits = max(0, 3 - math.floor(math.log10(number)))
    # The inner rounding removes the error of a division: 20 kJ is not 20.01 kJ.
    whole = math.ceil(round(number * 10.0**digits, 6))
    text = f"{whole / 10.0**digits:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text
