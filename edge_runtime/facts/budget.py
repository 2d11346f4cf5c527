"""The budget: limits of one run, in SI units.

They count from process start to exit, over all processes of a resumed run: wall time; gross
joules of the board's total; peak resident bytes of the process tree with its share of GPU
memory; mean power, which is these joules over this time; and the hottest temperature.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.units import LARGEST, at_least_text, duration_text, unit_for


@dataclass(frozen=True, slots=True)
class Limit:
    """One kind of limit: its name, its field in `Budget`, its units and its flag."""

    name: str
    field: str
    units: Mapping[str, float]  # for printing what nobody gave in another unit

    @property
    def flag(self) -> str:
        """The flag of the command line."""
        return f"--{self.name}"


MEMORY = Limit("memory", "memory_bytes", {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30})
ENERGY = Limit("energy", "energy_j", {"J": 1, "kJ": 1e3, "MJ": 1e6})
TIME = Limit("time", "time_s", {"s": 1, "min": 60, "h": 3600})
POWER = Limit("power", "power_w", {"mW": 1e-3, "W": 1})
TEMPERATURE = Limit("temperature", "temperature_c", {"C": 1})
_CLEARLY_OVER = 1.1  # times a limit; what is less over it is printed precisely
LIMITS = (MEMORY, ENERGY, TIME, POWER, TEMPERATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one run. `None`: no limit.

    Raises:
        ConfigError: a limit is not above zero, or is larger than anything that is measured.
    """

    memory_bytes: int | None = None
    energy_j: float | None = None
    time_s: float | None = None
    power_w: float | None = None  # mean
    temperature_c: float | None = None

    def __post_init__(self) -> None:
        for limit in LIMITS:
            value = self.value(limit)
            if value is not None and not 0 < value <= LARGEST:
                raise ConfigError(
                    f"{limit.flag} is {value:g}; a limit must be above zero, and at most "
                    f"{LARGEST:g}. Leave the flag out for no limit."
                )

    def value(self, limit: Limit) -> float | None:
        """The value of a limit; `None`: not set."""
        value: float | None = getattr(self, limit.field)
        return value

    def with_limit(self, limit: Limit, value: float | None) -> "Budget":
        """A copy with another value of that limit; bytes are rounded up."""
        whole = math.ceil(value) if value is not None and limit is MEMORY else value
        changed: dict[str, Any] = {limit.field: whole}
        return replace(self, **changed)

    def limited(self) -> tuple[Limit, ...]:
        """The limits that are set."""
        return tuple(limit for limit in LIMITS if self.value(limit) is not None)

    @property
    def is_limited(self) -> bool:
        """Whether any limit is set."""
        return bool(self.limited())

    @property
    def needs_energy(self) -> bool:
        """Whether energy or mean power is limited: both need a power sensor."""
        return self.energy_j is not None or self.power_w is not None

    @property
    def is_bounded(self) -> bool:
        """Whether it allows only so many steps: time or energy is limited."""
        return self.time_s is not None or self.energy_j is not None

    def __str__(self) -> str:
        """As flags: `--memory 1.5GiB --energy 20Wh`; values are rounded up."""
        return self.flags(self)

    def flags(self, beside: "Budget") -> str:
        """As flags, in the units of another budget, which readers compare with it."""
        return " ".join(
            flag_text(limit, self.value(limit), beside.value(limit))
            for limit in self.limited()
        )


def flag_text(limit: Limit, value: float | None, beside: float | None = None) -> str:
    """For example `--energy 20Wh`, as it was given, or `--energy 23.42kJ`, rounded up.

    Empty for no limit.

    Args:
        limit: its kind.
        value: its value.
        beside: a value in whose unit it is written; `None`: its own.
    """
    if value is None:
        return ""
    return f"{limit.flag} {at_least_text(value, *unit_for(beside or value, limit.units))}"


def over_text(limit: Limit, value: float, allowed: float) -> str:
    """For example `2.3 GB, over --memory 2GB`: in the unit of the flag."""
    unit, factor = unit_for(allowed, limit.units)
    text = duration_text(value) if limit is TIME else f"{value / factor:.1f} {unit}"
    if value < _CLEARLY_OVER * allowed:
        text = at_least_text(value, unit, factor)
    return f"{text}, over {flag_text(limit, allowed)}"
