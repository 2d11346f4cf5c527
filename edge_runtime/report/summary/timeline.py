"""The time of a run: its processes one after the other, their energy, what work was kept.

Seconds and joules from the start of the run, without the pauses between processes: what
happened then is no part of it. Energy is gross, as the samples say; between two of them at
constant power, after the last one of a process unknown and not counted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.records import LoggedEvent
from edge_runtime.records.events import CheckpointSaved, Resumed
from edge_runtime.report.summary.loader import Array, RunRecords

_GAP_S = 1.0  # readings further apart leave a gap; three periods of a slower sensor do


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One of the processes that worked on a run."""

    number: int  # from 1
    begin_s: float  # what the processes before it took
    duration_s: float
    kept_s: float  # until then its work was kept; what came after had to be done again
    samples: slice  # of the records
    steps: slice
    readings: slice  # of power, in `Timeline.known_s`
    energy_j: float | None  # until the last of them; None: nothing measured it

    @property
    def end_s(self) -> float:
        """When the next one begins."""
        return self.begin_s + self.duration_s

    @property
    def lost_s(self) -> float:
        """What it spent on work that had to be done again."""
        return self.end_s - self.kept_s


class Timeline:
    """All processes of a run, in their order, and when its samples and steps were."""

    def __init__(
        self, records: RunRecords, processes: Sequence[Process], gap_s: float
    ) -> None:
        samples, steps = records.samples, records.steps
        self.processes = processes
        self.gap_s = gap_s  # readings further apart than this leave a gap
        self.duration_s = sum(process.duration_s for process in processes)
        self.gross_j = total(each.energy_j for each in processes) if processes else None
        self.sample_s, self.done_s = samples.t_s.copy(), steps.t_s.copy()
        self.is_measured = np.zeros(len(steps.t_s), bool)  # steps up to the last reading
        # Where the joules are known: at the start, at every reading, at the end of a process.
        size = processes[-1].readings.stop + 1 if processes else 1
        self.known_s, self._known_j = np.zeros(size), np.zeros(size)
        for process in processes:
            self.sample_s[process.samples] += process.begin_s
            self.done_s[process.steps] += process.begin_s
            energy_j, readings = samples.energy_j[process.samples], process.readings
            known, before_j = ~np.isnan(energy_j), self._known_j[readings.start - 1]
            self.known_s[readings] = self.sample_s[process.samples][known]
            self.known_s[readings.stop] = process.end_s
            self._known_j[readings] = before_j + energy_j[known]
            self._known_j[readings.stop] = before_j + (process.energy_j or 0.0)
            if process.energy_j is not None:
                last_s = self.known_s[readings.stop - 1]
                self.is_measured[process.steps] = self.done_s[process.steps] <= last_s
        self.began_s = self.done_s - steps.step_s - steps.wait_s  # and waited for pictures

    def until_j(self, at_s: Array | float) -> Array:
        """Joules from the start of the run to each of some times."""
        return np.asarray(np.interp(at_s, self.known_s, self._known_j))

    def between_j(self, begin_s: Array | float, end_s: Array | float) -> Array:
        """Joules of some spans of time."""
        return np.asarray(self.until_j(end_s) - self.until_j(begin_s))

    def elapsed_s(self, logged: LoggedEvent, t_s: float | None = None) -> float | None:
        """When an event was logged, or another time of its process was."""
        moment = logged.moment
        if moment is None:
            return None
        (begin_s,) = (each.begin_s for each in self.processes if each.number == moment.process)
        return begin_s + (moment.t_s if t_s is None else t_s)


def total(parts: Iterable[float | None]) -> float | None:
    """A sum; unknown if a part is."""
    known = list(parts)
    return None if None in known else math.fsum(part for part in known if part is not None)


def timeline_of(records: RunRecords) -> Timeline:
    """Lay the processes of a run one after the other."""
    samples, steps, kept_s = records.samples, records.steps, _kept_until(records.events)
    moments = [logged.moment for logged in records.events if logged.moment]
    numbers = {*map(int, np.unique(samples.process)), *map(int, np.unique(steps.process))}
    processes: list[Process] = []
    for number in sorted(numbers | {moment.process for moment in moments}):
        my_samples, my_steps = (
            slice(*np.searchsorted(lines.process, [number, number + 1]))
            for lines in (samples, steps)
        )
        times_s = [moment.t_s for moment in moments if moment.process == number]
        times_s += [*samples.t_s[my_samples][-1:], *steps.t_s[my_steps][-1:]]
        duration_s = float(max(times_s))
        energy_j = samples.energy_j[my_samples]
        known_j = energy_j[~np.isnan(energy_j)]
        begin_s = processes[-1].end_s if processes else 0.0
        first = processes[-1].readings.stop + 1 if processes else 1
        process = Process(
            number=number,
            begin_s=begin_s,
            duration_s=duration_s,
            kept_s=begin_s + min(kept_s.get(number, math.inf), duration_s),
            samples=my_samples,
            steps=my_steps,
            readings=slice(first, first + len(known_j)),
            energy_j=float(known_j[-1]) if len(known_j) else None,
        )
        processes.append(process)
    rate_hz = records.run.info.sample_rate_hz
    gap_s = max(_GAP_S, 3 / rate_hz) if rate_hz > 0 else _GAP_S
    return Timeline(records, processes, gap_s)


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
