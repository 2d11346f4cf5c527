"""Energy and time of a window and of a whole run: joules of the board, monotonic seconds.

`None` is unknown, never 0.
"""

from dataclasses import dataclass

from edge_runtime.schema import Celsius, ClockSeconds, Joules, NonNegativeInt, Seconds, Watts


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnergy:
    """Energy of a window of time. Gross is the board's whole energy."""

    name: str
    start_s: ClockSeconds  # by the measuring process's clock
    duration_s: Seconds
    gross_j: Joules | None
    idle_j: Joules | None  # of the idle board in the same time
    net_j: Joules | None  # gross without idle
    mean_w: Watts | None
    peak_w: Watts | None
    rails_j: dict[str, Joules | None]
    samples: NonNegativeInt  # readings of the total
    missed: NonNegativeInt  # late or failed readings
    largest_gap_s: Seconds  # between two readings
    gap_s: Seconds  # sum of the gaps over a second, where the power is interpolated
    peak_temperature_c: Celsius | None
    throttled: bool | None  # at any time
    is_estimate: bool | None  # None: no sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Time and energy of a run from process start on, over all its processes."""

    time_s: Seconds
    energy_j: Joules | None
    energy_is_estimate: bool = False
    lost_s: Seconds = 0.0  # part of these, for steps that had to be trained again
    lost_j: Joules | None = 0.0
