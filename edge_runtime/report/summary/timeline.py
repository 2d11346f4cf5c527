"""The time of a run: its processes one after the other, their energy, what work was kept.

Seconds and joules. `t_s` counts from the start of a process, `elapsed_s` from that of the run,
without the pauses between processes: what happened then is no part of it. Energy is gross, as
the samples say; between two of them at constant power, after the last one unknown and not
counted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge_runtime.records import LoggedEvent
from edge_runtime.records.events import CheckpointSaved, Resumed
from edge_runtime.report.summary.loader import Array, RunRecords, Samples, Steps, select

_GAP_S = 1.0  # readings further apart leave a gap; three periods of a slower sensor do


class Power:
    """The energy of one process, where it is known at all."""

    def __init__(self, t_s: Array, energy_j: Array) -> None:
        """Samples, at least one: their times, and joules from the process's start to them."""
        self._times_s = np.concatenate([[0.0], t_s])
        self._until_j = np.concatenate([[0.0], energy_j])

    @property
    def t_s(self) -> Array:
        """When the samples were taken."""
        return self._times_s[1:]

    @property
    def energy_j(self) -> float:
        """From the start of the process to the last sample."""
        return float(self._until_j[-1])

    def until_j(self, t_s: Array | float) -> Array:
        """Joules from the start of the process to each of some times."""
        return np.asarray(np.interp(t_s, self._times_s, self._until_j))

    def between_j(self, begin_s: Array, end_s: Array) -> Array:
        """Joules of some spans of time."""
        return np.asarray(self.until_j(end_s) - self.until_j(begin_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One of the processes that worked on a run."""

    number: int  # from 1
    offset_s: float  # what the processes before it took
    duration_s: float
    kept_s: float  # until then its work was kept; what came after had to be done again
    samples: Samples
    steps: Steps
    power: Power | None  # None: nothing measured it

    @property
    def energy_j(self) -> float | None:
        """From its start to its last reading of power."""
        return None if self.power is None else self.power.energy_j

    @property
    def lost_s(self) -> float:
        """What it spent on work that had to be done again."""
        return self.duration_s - self.kept_s

    @property
    def lost_j(self) -> float | None:
        """The joules of that time."""
        if self.power is None:
            return None
        return self.power.energy_j - float(self.power.until_j(self.kept_s))

    def measured_steps(self, rung: int | None = None) -> tuple[Steps, Array]:
        """Its steps up to the last reading of power, of one rung or all; joules of each."""
        if self.power is None:
            return select(self.steps, slice(0)), np.zeros(0)
        chosen = self.steps.t_s <= self.power.t_s[-1]
        steps = select(
            self.steps, chosen if rung is None else chosen & (self.steps.rung == rung)
        )
        return steps, self.power.between_j(steps.began_s, steps.t_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All processes of a run, in their order."""

    processes: tuple[Process, ...]
    gap_s: float  # readings further apart than this leave a gap

    @property
    def duration_s(self) -> float:
        """Of all processes."""
        return sum(process.duration_s for process in self.processes)

    @property
    def gross_j(self) -> float | None:
        """Unknown if nothing measured one of the processes, or there is none."""
        if not self.processes:
            return None
        return total(process.energy_j for process in self.processes)

    def elapsed_s(self, logged: LoggedEvent, t_s: float | None = None) -> float | None:
        """When in the run an event was logged, or another time of its process was."""
        moment = logged.moment
        if moment is None:
            return None
        (process,) = (each for each in self.processes if each.number == moment.process)
        return process.offset_s + (moment.t_s if t_s is None else t_s)


def total(parts: Iterable[float | None]) -> float | None:
    """A sum; unknown if a part is."""
    known = list(parts)
    return None if None in known else math.fsum(part for part in known if part is not None)


def timeline_of(records: RunRecords) -> Timeline:
    """Lay the processes of a run one after the other."""
    kept_s = _kept_until(records.events)
    moments = [logged.moment for logged in records.events if logged.moment]
    numbers = {*np.unique(records.samples.process), *np.unique(records.steps.process)}
    processes: list[Process] = []
    offset_s = 0.0
    for number in sorted({*map(int, numbers), *(moment.process for moment in moments)}):
        samples, steps = (
            select(lines, slice(*np.searchsorted(lines.process, [number, number + 1])))
            for lines in (records.samples, records.steps)
        )
        event_times_s = (moment.t_s for moment in moments if moment.process == number)
        duration_s = float(max([*samples.t_s[-1:], *steps.t_s[-1:], *event_times_s]))
        known = ~np.isnan(samples.energy_j)
        process = Process(
            number=number,
            offset_s=offset_s,
            duration_s=duration_s,
            kept_s=float(min(kept_s.get(number, np.inf), duration_s)),
            samples=samples,
            steps=steps,
            power=Power(samples.t_s[known], samples.energy_j[known]) if known.any() else None,
        )
        processes.append(process)
        offset_s += duration_s
    rate_hz = records.run.info.sample_rate_hz
    gap_s = max(_GAP_S, 3 / rate_hz) if rate_hz > 0 else _GAP_S
    return Timeline(processes=tuple(processes), gap_s=gap_s)


def _kept_until(events: Iterable[LoggedEvent]) -> dict[int, float]:
    """By process whose work was lost, the time until which it was kept."""
    saved: dict[str, tuple[int, float]] = {}  # checkpoint -> when it was on the disk
    kept: dict[int, float] = {}
    for _, moment, event in events:
        if moment is None:
            continue
        if isinstance(event, CheckpointSaved):
            saved[event.checkpoint] = (moment.process, moment.t_s)
        if isinstance(event, Resumed):
            process, t_s = saved.get(event.checkpoint or "", (0, 0.0))
            for number in range(max(process, 1), moment.process):
                kept[number] = t_s if number == process else 0.0
    return kept
