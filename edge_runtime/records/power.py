"""`power.jsonl`: the meter's samples, one per line, of every process of a run.

Never truncated: lost work used energy, too. Watts, degrees Celsius, hertz; `None` is unknown.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRecord:
    """One sample."""

    process: int  # counts the processes that worked on the run, from 1
    t_s: float  # since the start of that process
    total_w: float | None  # the board's input
    energy_j: float | None  # gross, since the start of that process; None where total_w is
    rails_w: dict[str, float | None]
    temperature_c: float | None  # of the hottest zone
    throttled: bool | None
    cpu_hz: float | None
    gpu_hz: float | None
    gpu_load: float | None  # 0 to 1
