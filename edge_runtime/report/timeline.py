"""The time of a run: its processes one after the other, their energy, what work was kept.

Seconds and joules. `t_s` counts from the start of a process, `elapsed_s` from that of the run,
without the pauses between processes: what happened then is no part of it. Energy is gross, as
the samples say; between two of them at constant power, after the last one unknown and counted
nowhere.
"""

from dataclasses import dataclass

import numpy as np

from edge_runtime.records.events import CheckpointSaved, Resumed
from edge_runtime.report.lines import Array
from edge_runtime.report.recorded import Recorded

_GAP_S = 1.0  # readings further apart leave a gap; three periods of a slower sensor do


class Power:
    """The energy of one process, where it is known at all."""

    def __init__(self, t_s: Array, energy_j: Array) -> None:
        """Samples, at least one: their times, and joules from the process's start to them."""
        self.t_s = t_s
        self._times_s = np.concatenate([[0.0], t_s])
        self._until_j = np.concatenate([[0.0], energy_j])

    @property
    def energy_j(self) -> float:
        """From the start of the process to the last sample."""
        return float(self._until_j[-1])

    def until_j(self, t_s: Array) -> Array:
        """Joules from the start of the process to each of some times."""
        return np.asarray(np.interp(t_s, self._times_s, self._until_j))

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
            power=_power(recorded.samples.t_s[samples], recorded.samples.energy_j[samples]),
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


def _power(t_s: Array, energy_j: Array) -> Power | None:
    known = ~np.isnan(energy_j)
    if not known.any():
        return None
    return Power(t_s, energy_j) if known.all() else Power(t_s[known], energy_j[known])


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
