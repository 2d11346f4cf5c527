"""Energy and time of a window and of a whole run: joules of the board, monotonic seconds.

`None` is unknown, never 0.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnergy:
    """Energy of a window of time. Gross is the board's whole energy."""

    name: str
    start_s: float  # by the measuring process's clock
    duration_s: float
    gross_j: float | None
    idle_j: float | None  # of the idle board in the same time
    net_j: float | None  # gross without idle
    mean_w: float | None
    peak_w: float | None
    rails_j: dict[str, float | None]
    samples: int  # readings of the total
    missed: int  # late or failed readings
    largest_gap_s: float  # between two readings
    gap_s: float  # sum of the gaps over a second, where the power is interpolated
    peak_temperature_c: float | None
    throttled: bool | None  # at any time
    is_estimate: bool | None  # None: no sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Time and energy of a run from process start on, over all its processes."""

    time_s: float
    energy_j: float | None
    energy_is_estimate: bool = False
    lost_s: float = 0.0  # part of these, for steps that had to be trained again
    lost_j: float | None = 0.0
