"""The lines of a report's figures: what was recorded, with fewer points and every peak.

x is seconds in the run, or steps; y is in SI units. Between the points that are kept, a line
leaves out only values that lie between its neighbours' lowest and highest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from edge_runtime.report.summary.loader import Array, RunRecords
from edge_runtime.report.summary.timeline import Process, Timeline
from edge_runtime.report.summary.usage import MEAN_OVER_S

_BUCKETS = 1000  # more than a screen has columns for a figure
_MEANS = 200  # of joules per step


class Line(NamedTuple):
    """Points of a line, float32; NaN breaks it."""

    x: Array
    y: Array


class RungSegment(NamedTuple):
    """Consecutive steps of one process on one rung."""

    begin_s: float  # in the run
    end_s: float
    first_step: int
    last_step: int
    rung: str
    keep_ratio: float


Span = tuple[float, float]  # begin and end, seconds in the run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeries:
    """What the figures of one run show."""

    duration_s: float
    power_w: dict[str, Line]  # "total", and the rails that are another line than that
    temperature_c: Line
    clocks_hz: dict[str, Line]
    rss_bytes: Line
    loss: Line  # by step
    spent_j: Line
    step_j: Line  # means over `MEAN_OVER_S` or more
    segments: tuple[RungSegment, ...]
    gaps: tuple[Span, ...]  # without readings of power
    lost: tuple[Span, ...]  # work that had to be done again
    resumed_s: tuple[float, ...]  # where the second process and later ones begin


def series_of(records: RunRecords, timeline: Timeline) -> RunSeries:
    """All lines of one run."""
    samples, steps, processes = records.samples, records.steps, timeline.processes
    at_s = np.concatenate([np.zeros(0), *(p.samples.t_s + p.offset_s for p in processes)])
    done_s = np.concatenate([np.zeros(0), *(p.steps.t_s + p.offset_s for p in processes)])
    breaks = _breaks(at_s, timeline)
    power_w = {"total": _broken_line(at_s, samples.total_w, breaks)}
    for rail, rail_w in samples.rails_w.items():
        line = _broken_line(at_s, rail_w, breaks)
        if not np.array_equal(line.y, power_w["total"].y, equal_nan=True):
            power_w[rail] = line
    clocks_hz = {"CPU": samples.cpu_hz, "GPU": samples.gpu_hz}
    return RunSeries(
        duration_s=timeline.duration_s,
        power_w=power_w,
        temperature_c=_known_line(at_s, samples.temperature_c),
        clocks_hz={
            name: line
            for name, hz in clocks_hz.items()
            if len((line := _known_line(at_s, hz)).x)
        },
        rss_bytes=_known_line(done_s, steps.rss_bytes),
        loss=envelope(steps.step.astype("float64"), steps.loss),
        spent_j=_spent(timeline),
        step_j=_step_means(timeline),
        segments=tuple(segment for process in processes for segment in _segments(process)),
        gaps=tuple(gap for process in processes for gap in _gaps(process, timeline.gap_s)),
        lost=tuple(
            (p.offset_s + p.kept_s, p.offset_s + p.duration_s) for p in processes if p.lost_s
        ),
        resumed_s=tuple(process.offset_s for process in processes[1:]),
    )


def envelope(x: Array, y: Array, buckets: int = _BUCKETS) -> Line:
    """The lowest and the highest point of every bucket, and one that is NaN if there is any.

    Args:
        x: ascending.
        y: as many; NaN is unknown.
        buckets: of the same width in x. Where there are few points, all are kept.
    """
    y = y.astype("float32", copy=False)
    if len(x) <= 2 * buckets:
        return Line(x.astype("float32"), y)
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], buckets + 1)[1:-1])
    begins = np.unique(np.concatenate([[0], edges]))
    begins = begins[begins < len(x)]
    unknown = np.isnan(y)
    places = [np.array([0, len(x) - 1]), _first_of_each(begins, unknown)]
    for extreme, worst in ((np.minimum, np.inf), (np.maximum, -np.inf)):
        known = np.where(unknown, np.float32(worst), y)
        bucket_extreme = extreme.reduceat(known, begins)
        counts = np.diff(begins, append=len(y))
        places.append(_first_of_each(begins, known == np.repeat(bucket_extreme, counts)))
    chosen = np.unique(np.concatenate(places))
    return Line(x[chosen].astype("float32"), y[chosen])


def _first_of_each(begins: Array, chosen: Array) -> Array:
    """Of the chosen places of every bucket the first."""
    places = np.flatnonzero(chosen)
    bucket = np.searchsorted(begins, places, side="right")
    return places[np.flatnonzero(np.diff(bucket, prepend=-1))]


def _known_line(x: Array, y: Array) -> Line:
    """Readings that come less often than others: their line goes on between them."""
    known = ~np.isnan(y)
    return envelope(x[known], y[known])


def _breaks(at_s: Array, timeline: Timeline) -> Array:
    """Before which samples a line is broken: after gaps, and between processes."""
    apart = np.flatnonzero(np.diff(at_s) > timeline.gap_s) + 1
    resumed = [process.offset_s for process in timeline.processes[1:]]
    breaks = np.unique([*apart, *np.searchsorted(at_s, resumed)]).astype("int64")
    return breaks[(breaks > 0) & (breaks < len(at_s))]


def _broken_line(at_s: Array, power_w: Array, breaks: Array) -> Line:
    if len(breaks):
        at_s = np.insert(at_s, breaks, at_s[breaks - 1])
        power_w = np.insert(power_w, breaks, np.nan)
    return envelope(at_s, power_w)


def _gaps(process: Process, gap_s: float) -> list[Span]:
    """Spans without readings, in seconds of the run."""
    if process.power is None:
        return [(process.offset_s, process.offset_s + process.duration_s)]
    known_s = np.concatenate([[0.0], process.power.t_s, [process.duration_s]])
    long = np.flatnonzero(np.diff(known_s) > gap_s)
    known_s = known_s + process.offset_s
    return [(float(known_s[i]), float(known_s[i + 1])) for i in long]


def _spent(timeline: Timeline) -> Line:
    """Joules since the run began; it ends where they become unknown."""
    x, y, before_j = [], [], 0.0
    for process in timeline.processes:
        if process.power is None:
            break
        share = process.duration_s / (timeline.duration_s or 1.0)
        t_s = np.linspace(0.0, process.power.t_s[-1], max(2, round(share * _BUCKETS)))
        x.append(t_s + process.offset_s)
        y.append(process.power.until_j(t_s) + before_j)
        before_j += process.power.energy_j
    return _joined(x, y)


def _joined(x: Sequence[Array], y: Sequence[Array]) -> Line:
    joined = (np.concatenate([np.zeros(0), *parts]).astype("float32") for parts in (x, y))
    return Line(*joined)


def _step_means(timeline: Timeline) -> Line:
    """Joules per step, means over consecutive steps on one rung."""
    width_s = max(MEAN_OVER_S, timeline.duration_s / _MEANS)
    x: list[Array] = []
    y: list[Array] = []
    for process in timeline.processes:
        steps, steps_j = process.measured_steps()
        for begin, stop in _same_value(steps.rung):
            took_s = steps.t_s[begin:stop] - steps.began_s[begin:stop]
            spent_s = np.cumsum(took_s)
            groups = np.flatnonzero(np.diff(np.floor(spent_s / width_s), prepend=-1.0))
            counts = np.diff([*groups, stop - begin])
            sums_s = np.diff(np.concatenate([[0.0], spent_s[groups[1:] - 1], spent_s[-1:]]))
            enough = sums_s >= MEAN_OVER_S * 0.999
            sums_j = np.add.reduceat(steps_j[begin:stop], groups)
            last = begin + groups[enough] + counts[enough] - 1
            x.append(process.offset_s + steps.t_s[last])
            y.append((sums_j / counts)[enough])
    return _joined(x, y)


def _same_value(values: Array) -> list[tuple[int, int]]:
    """Begin and end of runs of one value."""
    if not len(values):
        return []
    changes = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return list(pairwise(changes))


def _segments(process: Process) -> list[RungSegment]:
    steps, began_s = process.steps, process.steps.began_s
    return [
        RungSegment(
            begin_s=float(began_s[begin]) + process.offset_s,
            end_s=float(steps.t_s[stop - 1]) + process.offset_s,
            first_step=int(steps.step[begin]),
            last_step=int(steps.step[stop - 1]),
            rung=steps.rungs[steps.rung[begin]],
            keep_ratio=float(steps.keep_ratio[begin]),
        )
        for begin, stop in _same_value(steps.rung)
    ]
