"""The time of a run: its processes one after the other, their energy, what work was kept.

Seconds and joules. `t_s` counts from the start of a process, `elapsed_s` from that of the run,
without the pauses between processes: what happened then is no part of it. Energy is gross:
trapezoids between the samples that have a power, and before the first of them at its power, as
docs/run-folder.md says. After the last one it is unknown and counted nowhere.
"""

from dataclasses import dataclass

import numpy as np

from edge_runtime.records.events import CheckpointSaved, Resumed
from edge_runtime.report.lines import Array
from edge_runtime.report.recorded import Recorded

_GAP_S = 1.0  # readings further apart leave a gap; three periods of a slower sensor do


class Power:
    """The power of one process, where it is known at all."""

    def __init__(self, t_s: Array, power_w: Array) -> None:
        """At least one sample; none is NaN, and time does not go back."""
        self.t_s, self.power_w = t_s, power_w
        parts_j = np.diff(t_s)  # in place from here: there may be millions
        parts_j *= power_w[1:] + power_w[:-1]
        parts_j /= 2
        self._until_j = np.zeros(len(t_s))
        np.cumsum(parts_j, out=self._until_j[1:])

    @property
    def energy_j(self) -> float:
        """From the start of the process to the last sample."""
        return float(self.t_s[0] * self.power_w[0] + self._until_j[-1])

    def until_j(self, t_s: Array) -> Array:
        """Joules from the start of the process to each of some times."""
        last = np.searchsorted(self.t_s, t_s, side="right") - 1
        last = np.clip(last, 0, len(self.t_s) - 1)
        inside_s = np.clip(t_s, self.t_s[0], self.t_s[-1])
        power_w = np.interp(inside_s, self.t_s, self.power_w)
        rest_j = (inside_s - self.t_s[last]) * (self.power_w[last] + power_w) / 2
        lead_j = np.minimum(t_s, self.t_s[0]) * self.power_w[0]
        return np.asarray(lead_j + self._until_j[last] + rest_j)

    def between_j(self, begin_s: Array, end_s: Array) -> Array:
        """Joules of some stretches of time."""
        return np.asarray(self.until_j(end_s) - self.until_j(begin_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One of the processes that worked on a run."""

    number: int  # from 1
    offset_s: float  # what the processes before it took
    duration_s: float
    kept_s: float  # until then its work was kept; what came after had to be done again
    samples: slice  # of `Recorded.samples`
    steps: slice  # of `Recorded.steps`
    power: Power | None  # None: nothing measured it

    @property
    def energy_j(self) -> float | None:
        """From its start to its last reading of power."""
        return None if self.power is None else self.power.energy_j


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All processes of a run, in their order."""

    processes: tuple[Process, ...]
    gap_s: float  # readings further apart than this leave a gap

    @property
    def duration_s(self) -> float:
        """Of all processes."""
        return sum(process.duration_s for process in self.processes)

    def process(self, number: int) -> Process:
        """The process with that number."""
        return next(process for process in self.processes if process.number == number)

    def elapsed_s(self, number: int, t_s: float) -> float:
        """Where a moment of a process lies in the run."""
        return self.process(number).offset_s + t_s


def timeline_of(recorded: Recorded) -> Timeline:
    """Lay the processes of a run behind each other."""
    kept_s = _kept_until(recorded)
    processes, offset_s = [], 0.0
    for number in _numbers(recorded):
        samples = _slice(recorded.samples.process, number)
        steps = _slice(recorded.steps.process, number)
        ends_s = [
            *recorded.samples.t_s[samples][-1:],
            *recorded.steps.t_s[steps][-1:],
            *_event_times(recorded, number),
        ]
        process = Process(
            number=number,
            offset_s=offset_s,
            duration_s=float(max(ends_s)),
            kept_s=float(min(kept_s.get(number, np.inf), max(ends_s))),
            samples=samples,
            steps=steps,
            power=_power(recorded.samples.t_s[samples], recorded.samples.total_w[samples]),
        )
        processes.append(process)
        offset_s += process.duration_s
    rate_hz = recorded.run.info.sample_rate_hz
    return Timeline(
        processes=tuple(processes),
        gap_s=max(_GAP_S, 3 / rate_hz) if rate_hz > 0 else _GAP_S,
    )


def _numbers(recorded: Recorded) -> list[int]:
    numbers = {int(number) for number in np.unique(recorded.samples.process)}
    numbers |= {int(number) for number in np.unique(recorded.steps.process)}
    numbers |= {logged.moment.process for logged in recorded.events if logged.moment}
    return sorted(numbers)


def _slice(numbers: Array, number: int) -> slice:
    return slice(
        int(np.searchsorted(numbers, number, side="left")),
        int(np.searchsorted(numbers, number, side="right")),
    )


def _event_times(recorded: Recorded, number: int) -> list[float]:
    moments = [logged.moment for logged in recorded.events if logged.moment]
    return [moment.t_s for moment in moments if moment.process == number]


def rail_energy_j(t_s: Array, power_w: Array) -> float | None:
    """Of one process, by the same rule; `None` where no sample has a power."""
    power = _power(t_s, power_w)
    return None if power is None else power.energy_j


def _power(t_s: Array, total_w: Array) -> Power | None:
    known = ~np.isnan(total_w)
    if not known.any():
        return None
    return Power(t_s, total_w) if known.all() else Power(t_s[known], total_w[known])


def _kept_until(recorded: Recorded) -> dict[int, float]:
    """By process whose work was lost, the time until which it was kept."""
    saved: dict[str, tuple[int, float]] = {}  # checkpoint -> when it was on the disk
    kept: dict[int, float] = {}
    for logged in recorded.events:
        if logged.moment is None:
            continue
        here = logged.moment.process
        if isinstance(logged.event, CheckpointSaved):
            saved[logged.event.checkpoint] = (here, logged.moment.t_s)
        if isinstance(logged.event, Resumed):
            process, t_s = saved.get(logged.event.checkpoint or "", (0, 0.0))
            for number in range(max(process, 1), here):
                kept[number] = t_s if number == process else 0.0
    return kept
