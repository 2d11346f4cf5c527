"""`power.jsonl`: the meter's samples, one per line, of every process of a run.

Never truncated: lost work used energy, too. Watts, degrees Celsius, hertz; `None` is unknown.
"""

from dataclasses import dataclass

from edge_runtime.schema import (
    Celsius,
    ClockSeconds,
    Hertz,
    Joules,
    PositiveInt,
    Probability,
    Watts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRecord:
    """One sample."""

    process: PositiveInt  # counts the processes that worked on the run, from 1
    t_s: ClockSeconds  # since the start of that process
    total_w: Watts | None  # the board's input
    energy_j: Joules | None  # gross, since the start of that process; None where total_w is
    rails_w: dict[str, Watts | None]
    temperature_c: Celsius | None  # of the hottest zone
    throttled: bool | None
    cpu_hz: Hertz | None
    gpu_hz: Hertz | None
    gpu_load: Probability | None
