"""The time of a run: its processes one after the other, their energy, what work was kept.

Seconds and joules from the start of the run, without the pauses between processes: what
happened then is no part of it. Energy is gross, as the samples say; between two of them at
constant power, after the last one of a process unknown and not counted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge_runtime.records import LoggedEvent
from edge_runtime.records.events import CheckpointSaved, Resumed
from edge_runtime.report.summary.loader import Array, RunRecords
from edge_runtime.report.summary.unknown import total

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
    energy_j: float | None  # until the last reading of power; None: nothing measured it

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

    def __init__(self, records: RunRecords) -> None:
        """Lay the processes one after the other."""
        samples, steps = records.samples, records.steps
        rate_hz = records.run.info.sample_rate_hz
        self.processes = processes = _processes(records)
        self.gap_s = max(_GAP_S, 3 / rate_hz) if rate_hz > 0 else _GAP_S  # longer is a gap
        self.duration_s = sum(process.duration_s for process in processes)
        self.gross_j = total(each.energy_j for each in processes) if processes else None
        self.sample_s, self.done_s = samples["t_s"].copy(), steps["t_s"].copy()
        self.is_measured = np.zeros(len(self.done_s), bool)  # steps up to the last reading
        self._is_reading, energy_j = ~np.isnan(samples["energy_j"]), samples["energy_j"].copy()
        spent_j = np.cumsum([0.0, *(process.energy_j or 0.0 for process in processes)])
        for process, before_j in zip(processes, spent_j, strict=False):
            self.sample_s[process.samples] += process.begin_s
            self.done_s[process.steps] += process.begin_s
            energy_j[process.samples] += before_j
            if process.energy_j is not None:
                last_s = self.readings_s(process)[-1]
                self.is_measured[process.steps] = self.done_s[process.steps] <= last_s
        self.began_s = self.done_s - steps["step_s"] - steps["wait_s"]  # and waited for input
        # Joules are known at the start, at every reading, and at the end of a process.
        ends = [int(self._is_reading[: each.samples.stop].sum()) for each in processes]
        ends_s = [process.end_s for process in processes]
        self._known_s = np.insert(self.sample_s[self._is_reading], [0, *ends], [0.0, *ends_s])
        self._known_j = np.insert(energy_j[self._is_reading], [0, *ends], spent_j)

    def readings_s(self, process: Process) -> Array:
        """When the power was read while that process worked."""
        mine = process.samples
        return np.asarray(self.sample_s[mine][self._is_reading[mine]])

    def until_j(self, at_s: Array | float) -> Array:
        """Joules from the start of the run to each of some times."""
        return np.asarray(np.interp(at_s, self._known_s, self._known_j))

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


def _processes(records: RunRecords) -> list[Process]:
    """One after the other."""
    moments = [logged.moment for logged in records.events if logged.moment]
    times_s = [(moment.process, moment.t_s) for moment in moments]
    for columns in (records.samples, records.steps):
        numbers, t_s = columns["process"], columns["t_s"]
        is_last = np.diff(numbers, append=0) != 0  # of its process
        times_s += zip(numbers[is_last].tolist(), t_s[is_last].tolist(), strict=True)
    kept_s = _kept_until(records.events)
    processes: list[Process] = []
    for number, duration_s in dict(sorted(times_s)).items():  # the last time of each
        begin_s = processes[-1].end_s if processes else 0.0
        samples, steps = (
            slice(*np.searchsorted(columns["process"], [number, number + 1]))
            for columns in (records.samples, records.steps)
        )
        energy_j = records.samples["energy_j"][samples]
        known_j = energy_j[~np.isnan(energy_j)]
        process = Process(
            number=number,
            begin_s=begin_s,
            duration_s=duration_s,
            kept_s=begin_s + min(kept_s.get(number, math.inf), duration_s),
            samples=samples,
            steps=steps,
            energy_j=float(known_j[-1]) if len(known_j) else None,
        )
        processes.append(process)
    return processes


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
