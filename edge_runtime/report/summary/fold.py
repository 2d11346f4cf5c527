"""Reads the records of a run, a block at a time, into its digest.

Process by process: the samples of a process are read as far as its steps need them. Names
that end in `_s` are times of the process, those of lines and spans are times in the run.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.records import LoggedEvent
from edge_runtime.records.events import CheckpointSaved, Resumed
from edge_runtime.report.summary.curve import EnergyCurve
from edge_runtime.report.summary.digest import (
    CHECKPOINT,
    LOST,
    PAUSE,
    START_UP,
    STEP,
    WAIT,
    Process,
    RailSums,
    RunDigest,
    RungSegment,
    RungSums,
)
from edge_runtime.report.summary.lines import LineBuilder
from edge_runtime.report.summary.loader import RAIL, Array, Columns, RunFiles
from edge_runtime.report.summary.unknown import highest, larger, mean, total

_GAP_S = 1.0  # readings further apart leave a gap; three periods of a slower sensor do
_LAST_LOSSES = 100_000  # at most


def digest_run(path: Path) -> RunDigest:
    """Read a run folder, also while the run is going on.

    Raises:
        RecordsError: it is no run folder, of an unknown format, or damaged; half a line at
            the end of a file is no damage.
    """
    files = RunFiles(path)
    rate_hz = files.run.info.sample_rate_hz
    digest = RunDigest(
        run=files.run,
        events=files.events,
        manifest=files.manifest(),
        gap_limit_s=max(_GAP_S, 3 / rate_hz) if rate_hz > 0 else _GAP_S,
    )
    logged: dict[int, list[LoggedEvent]] = defaultdict(list)
    for event in files.events:
        if event.moment is not None:
            logged[event.moment.process].append(event)
    returns = _returns(files.events)
    losses = _Losses(files.run.info.steps_per_epoch)
    while (number := _next_process(files, logged)) is not None:
        mine, kept_s = logged.pop(number, []), _kept_until(returns, number)
        _ProcessFold(digest, files, losses, number, mine, kept_s).read()
    digest.losses.last = losses.mean()
    digest.cut_files, digest.zeroed_lines = files.cut_files, files.zeroed_lines
    return digest


def _next_process(files: RunFiles, logged: Iterable[int]) -> int | None:
    """The lowest number that is left in any file."""
    numbers = [*logged, files.samples.process, files.steps.process]
    return min((number for number in numbers if number is not None), default=None)


class _Return(NamedTuple):
    """A process went on from a checkpoint: what was done after it is lost."""

    resumed: int  # the process that went on
    saved: int  # the one that had saved the checkpoint; 0: from the initial state
    saved_s: float  # when it was on the disk


def _returns(events: Iterable[LoggedEvent]) -> list[_Return]:
    """All of them, in their order."""
    saved: dict[str, tuple[int, float]] = {}  # checkpoint -> when it was on the disk
    returns = []
    for _, moment, event in events:
        if moment is None:
            continue
        if isinstance(event, CheckpointSaved):
            saved[event.checkpoint] = (moment.process, moment.t_s)
        if isinstance(event, Resumed):
            returns.append(
                _Return(moment.process, *saved.get(event.checkpoint or "", (0, 0.0)))
            )
    return returns


def _kept_until(returns: Sequence[_Return], process: int) -> float:
    """The time of a process until which its work was kept."""
    for each in reversed(returns):
        if each.saved <= process < each.resumed:
            return each.saved_s if each.saved == process else 0.0
    return math.inf


class _Losses:
    """The losses of the last epoch, or the last ones of a very long epoch."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._most = min(steps_per_epoch, _LAST_LOSSES)
        self._last = np.zeros(0)

    def add(self, losses: Array) -> None:
        self._last = np.concatenate([self._last, losses])[-self._most :]

    def mean(self) -> float | None:
        return mean(self._last)


class _ProcessFold:
    """Adds the lines of one process to the digest."""

    def __init__(
        self,
        digest: RunDigest,
        files: RunFiles,
        losses: _Losses,
        number: int,
        logged: list[LoggedEvent],
        kept_s: float,
    ) -> None:
        """Prepare to read.

        Args:
            digest: of the processes before it.
            files: whose next blocks are those of the process, if it has any.
            losses: of the last steps.
            number: of the process.
            logged: its events.
            kept_s: until when its work was kept.
        """
        self._digest, self._files, self._losses, self._number = digest, files, losses, number
        self._begin_s = digest.duration_s
        # By the processes before it; None: nothing measured one of them
        self._before_j = total(each.energy_j for each in digest.processes)
        self._kept_s = kept_s
        moments_s = [event.moment.t_s for event in logged if event.moment]
        self._end_s = max(moments_s, default=0.0)
        self._saves = [
            (event.moment.t_s - event.event.save_s, event.moment.t_s)
            for event in logged
            if event.moment and isinstance(event.event, CheckpointSaved)
            if event.moment.t_s <= kept_s
        ]
        asked_s = [t_s for save in self._saves for t_s in save]
        self._curve = EnergyCurve([*asked_s, kept_s])
        self._first_asked_s: float | None = None  # for the first step
        self._started_j = 0.0  # until then
        self._steps: tuple[int, int] | None = None  # the first and the last
        self._rungs: set[str] = set()
        self._sample_s: float | None = None  # the last one
        self._rails: dict[str, _RailFold] = {}

    def read(self) -> None:
        """Read all its lines."""
        for steps in self._files.steps.of(self._number):
            self._read_samples(until_s=float(steps["t_s"][-1]))
            self._add_steps(steps)
            self._curve.forget_before(float(steps["t_s"][-1]))
        self._read_samples(until_s=math.inf)
        self._end()

    def _read_samples(self, until_s: float) -> None:
        """Read until a reading that is not earlier, or the last sample."""
        samples = self._files.samples
        while samples.process == self._number and (self._curve.last_s or 0.0) < until_s:
            self._add_samples(samples.take())
            if until_s == math.inf:  # there are no more steps that need them
                self._curve.forget_before(until_s)

    def _add_samples(self, samples: Columns) -> None:
        digest, lines, t_s = self._digest, self._digest.lines, samples["t_s"]
        self._end_s = max(self._end_s, float(t_s[-1]))
        at_s = t_s + self._begin_s
        before_s = t_s[0] if self._sample_s is None else self._sample_s
        is_apart = np.diff(t_s, prepend=before_s) > digest.gap_limit_s
        is_apart[0] |= self._sample_s is None and bool(digest.processes)
        breaks = np.flatnonzero(is_apart)
        self._sample_s = float(t_s[-1])
        _add_broken(lines.total_w, at_s, samples["total_w"], breaks)
        lines.temperature_c.add_known(at_s, samples["temperature_c"])
        for name, line in lines.clocks_hz.items():
            line.add_known(at_s, samples[name])
        self._add_rails(samples, breaks)
        digest.readings.samples += len(t_s)
        digest.readings.known += int((~np.isnan(samples["total_w"])).sum())
        peaks = digest.peaks
        peaks.total_w = larger(peaks.total_w, highest(samples["total_w"]))
        peaks.temperature_c = larger(peaks.temperature_c, highest(samples["temperature_c"]))
        peaks.throttled = larger(peaks.throttled, highest(samples["throttled"]))
        self._add_readings(t_s, samples["energy_j"])

    def _add_rails(self, samples: Columns, breaks: Array) -> None:
        digest, lines = self._digest, self._digest.lines.rails_w
        names = [name.removeprefix(RAIL) for name in samples if name.startswith(RAIL)]
        unknown_w = np.full(len(samples["t_s"]), np.nan, "float32")
        for rail in dict.fromkeys([*lines, *names]):
            rail_w = samples.get(RAIL + rail, unknown_w)
            line = lines.setdefault(rail, LineBuilder())
            _add_broken(line, samples["t_s"] + self._begin_s, rail_w, breaks)
            self._rails.setdefault(rail, _RailFold()).add(samples["t_s"], rail_w)
            sums = digest.rails.setdefault(rail, RailSums([None] * len(digest.processes)))
            sums.peak_w = larger(sums.peak_w, highest(rail_w))

    def _add_readings(self, t_s: Array, energy_j: Array) -> None:
        known = ~np.isnan(energy_j)
        if not known.any():
            return
        readings, limit_s = self._digest.readings, self._digest.gap_limit_s
        before_s, read_s = self._curve.last_s, t_s[known]
        gaps_s = np.diff(read_s, prepend=read_s[0] if before_s is None else before_s)
        if before_s is None:
            first_s = float(read_s[0])
            readings.before_s += first_s if first_s > limit_s else 0.0
            gaps_s = gaps_s[1:]
            self._add_gaps(np.array([0.0, first_s]))
        readings.largest_gap_s = larger(readings.largest_gap_s, highest(gaps_s))
        readings.gap_s += float(gaps_s[gaps_s > limit_s].sum())
        readings.covered_s += float(gaps_s.sum())
        self._add_gaps(read_s if before_s is None else np.insert(read_s, 0, before_s))
        self._curve.add(read_s, energy_j[known])
        if self._before_j is not None:
            spent_j = energy_j[known]
            if before_s is None:  # the line begins with the process
                read_s, spent_j = np.insert(read_s, 0, 0.0), np.insert(spent_j, 0, 0.0)
            self._digest.lines.spent_j.add(read_s + self._begin_s, spent_j + self._before_j)

    def _add_gaps(self, known_s: Array) -> None:
        """Spans without readings between some times."""
        for place in np.flatnonzero(np.diff(known_s) > self._digest.gap_limit_s):
            begin_s, end_s = float(known_s[place]), float(known_s[place + 1])
            self._digest.gaps.append((begin_s + self._begin_s, end_s + self._begin_s))

    def _add_steps(self, steps: Columns) -> None:
        digest, done_s = self._digest, steps["t_s"]
        self._end_s = max(self._end_s, float(done_s[-1]))
        ready_s = done_s - steps["step_s"]
        began_s = ready_s - steps["wait_s"]  # and waited for input
        asked_s = began_s - steps["pause_s"]
        times_s = np.array([asked_s, began_s, ready_s, done_s])
        joules = self._curve.until(times_s)
        for place, stage in enumerate((PAUSE, WAIT, STEP)):
            self._add_stage(stage, *times_s[place : place + 2], *joules[place : place + 2])
        first, last = int(steps["step"][0]), int(steps["step"][-1])
        if self._steps is None:
            self._first_asked_s = float(asked_s[0])
            self._started_j = float(
                self._curve.until(np.minimum(asked_s[:1], self._kept_s))[0]
            )
        self._steps = (self._steps[0] if self._steps else first, last)
        if not digest.steps:
            digest.losses.first = mean(steps["loss"][:1])
        digest.steps += len(done_s)
        digest.skipped_steps += int((~steps["applied"]).sum())
        digest.images += int(steps["images"].sum())
        digest.peaks.rss_bytes = larger(digest.peaks.rss_bytes, highest(steps["rss_bytes"]))
        digest.lines.rss_bytes.add_known(done_s + self._begin_s, steps["rss_bytes"])
        digest.lines.loss.add(steps["step"].astype("float64"), steps["loss"])
        self._losses.add(steps["loss"])
        edges = np.flatnonzero(np.diff(steps["rung"])) + 1
        for begin, stop in zip([0, *edges], [*edges, len(done_s)], strict=True):
            stretch = slice(begin, stop)
            part = {name: column[stretch] for name, column in steps.items()}
            self._add_stretch(part, began_s[stretch], joules[1, stretch], joules[3, stretch])

    def _add_stage(
        self, stage: str, begin_s: Array, end_s: Array, begin_j: Array, end_j: Array
    ) -> None:
        sums = self._digest.stages[stage]
        sums.time_s += float(np.sum(end_s - begin_s))
        sums.gross_j += float(np.sum(end_j - begin_j))

    def _add_stretch(
        self, steps: Columns, began_s: Array, began_j: Array, done_j: Array
    ) -> None:
        """Add consecutive steps on one rung."""
        digest, done_s = self._digest, steps["t_s"]
        name, ratio = self._files.rungs[int(steps["rung"][0])], float(steps["keep_ratio"][0])
        begin_s, end_s = float(began_s[0]) + self._begin_s, float(done_s[-1]) + self._begin_s
        first, last = int(steps["step"][0]), int(steps["step"][-1])
        self._add_segment(RungSegment(begin_s, end_s, first, last, name, ratio))
        sums = digest.rungs.setdefault(name, RungSums(ratio))
        sums.steps += len(done_s)
        sums.images += int(steps["images"].sum())
        sums.time_s += float(np.sum(steps["step_s"] + steps["wait_s"]))
        sums.peak_bytes = larger(sums.peak_bytes, highest(steps["rss_bytes"]))
        last_s = self._curve.last_s
        known = done_s <= (-1.0 if last_s is None else last_s)
        took_s, took_j = (done_s - began_s)[known], (done_j - began_j)[known]
        sums.measured_steps += int(known.sum())
        sums.measured_images += int(steps["images"][known].sum())
        sums.measured_s += float(np.sum(took_s))
        sums.measured_j += float(np.sum(took_j))
        digest.lines.step_j.add(done_s[known] + self._begin_s, took_j, took_s)

    def _add_segment(self, segment: RungSegment) -> None:
        """Add it to the last one, if that is of this process and of the same rung."""
        digest = self._digest
        before = digest.segments[-1] if self._rungs else None
        if before is not None and before.rung == segment.rung:
            digest.segments[-1] = before._replace(
                end_s=segment.end_s, last_step=segment.last_step
            )
        else:
            digest.segments.append(segment)
            digest.lines.step_j.begin_stretch()
        self._rungs.add(segment.rung)

    def _end(self) -> None:
        """All lines are read: what is known only now."""
        digest, curve, end_s = self._digest, self._curve, self._end_s
        kept_s, energy_j = min(self._kept_s, end_s), curve.joules
        kept_j = (energy_j or 0.0) if kept_s == end_s else curve.answer(self._kept_s)
        lost_j = (energy_j or 0.0) - kept_j
        self._add_spans(kept_s, kept_j, lost_j)
        if curve.last_s is None:
            digest.gaps.append((self._begin_s, self._begin_s + end_s))
            for name in self._rungs:
                digest.rungs[name].is_measured = False
        else:
            after_s = end_s - curve.last_s
            digest.readings.after_s += after_s if after_s > digest.gap_limit_s else 0.0
            self._add_gaps(np.array([curve.last_s, end_s]))
        for rail, sums in digest.rails.items():
            fold = self._rails.get(rail)
            sums.energy_j.append(None if fold is None else fold.energy_j)
        first, last = self._steps or (None, None)
        digest.processes.append(
            Process(
                number=self._number,
                begin_s=self._begin_s,
                duration_s=end_s,
                kept_s=self._begin_s + kept_s,
                energy_j=energy_j,
                lost_j=None if energy_j is None else lost_j,
                first_step=first,
                last_step=last,
            )
        )

    def _add_spans(self, kept_s: float, kept_j: float, lost_j: float) -> None:
        """The stages that are no steps."""
        stages, curve = self._digest.stages, self._curve
        stages[LOST].time_s += self._end_s - kept_s
        stages[LOST].gross_j += lost_j
        for begin_s, saved_s in self._saves:
            stages[CHECKPOINT].time_s += saved_s - begin_s
            stages[CHECKPOINT].gross_j += curve.answer(saved_s) - curve.answer(begin_s)
        asked_s = self._first_asked_s
        is_started = asked_s is not None and asked_s <= kept_s
        stages[START_UP].time_s += asked_s if is_started and asked_s is not None else kept_s
        stages[START_UP].gross_j += self._started_j if is_started else kept_j


class _RailFold:
    """Joules of one rail in one process; before its first sample at that one's power."""

    def __init__(self) -> None:
        self.energy_j: float | None = None  # None: no sample was known
        self._last: tuple[float, float] | None = None  # time and power

    def add(self, t_s: Array, power_w: Array) -> None:
        """Add samples; NaN is unknown."""
        known = ~np.isnan(power_w)
        if not known.any():
            return
        t_s, power_w = t_s[known], power_w[known].astype("float64")
        last_s, last_w = self._last or (0.0, float(power_w[0]))
        means_w = (np.insert(power_w[:-1], 0, last_w) + power_w) / 2
        joules = float(np.sum(np.diff(t_s, prepend=last_s) * means_w))
        self.energy_j = (self.energy_j or 0.0) + joules
        self._last = float(t_s[-1]), float(power_w[-1])


def _add_broken(line: LineBuilder, at_s: Array, power_w: Array, breaks: Array) -> None:
    """Add samples to a line that is broken before some of them."""
    if len(breaks):
        at_s = np.insert(at_s, breaks, at_s[np.maximum(breaks - 1, 0)])
        power_w = np.insert(power_w, breaks, np.nan)
    line.add(at_s, power_w)
