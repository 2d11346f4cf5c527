"""What a window of time and a whole run took: joules of the board, monotonic seconds.

`None` is unknown, never 0.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnergy:
    """Energy of a window of time. Gross is all that the board took."""

    name: str
    start_s: float  # by the clock of whoever measured
    duration_s: float
    gross_j: float | None
    idle_j: float | None  # what the idle board would have taken
    net_j: float | None  # gross without idle
    mean_w: float | None
    peak_w: float | None
    rails_j: dict[str, float | None]
    samples: int  # readings of the total
    missed: int  # readings that came too late or failed
    largest_gap_s: float  # between two readings
    gap_s: float  # sum of the gaps over a second, where the power is interpolated
    peak_temperature_c: float | None
    throttled: bool | None  # at any time
    is_estimate: bool | None  # None: there is no sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run took from process start on, of all its processes."""

    time_s: float
    energy_j: float | None
    energy_is_estimate: bool = False
    lost_s: float = 0.0  # of these, for steps that had to be trained again
    lost_j: float | None = 0.0
