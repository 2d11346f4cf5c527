"""The lines of a report's figures: what was recorded, with fewer points and every peak.

x is seconds in the run, or steps; y is in SI units. Between the points that are kept, a line
leaves out only values that lie between its neighbours' lowest and highest.
"""

from dataclasses import dataclass
from itertools import pairwise, takewhile
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
    at_s, breaks = timeline.sample_s, _breaks(timeline)
    power_w = {"total": _broken_line(at_s, samples["total_w"], breaks)}
    for rail, rail_w in records.rails_w.items():
        line = _broken_line(at_s, rail_w, breaks)
        if not np.array_equal(line.y, power_w["total"].y, equal_nan=True):
            power_w[rail] = line
    clocks_hz = {
        name: _known_line(at_s, samples[column])
        for name, column in {"CPU": "cpu_hz", "GPU": "gpu_hz"}.items()
    }
    return RunSeries(
        duration_s=timeline.duration_s,
        power_w=power_w,
        temperature_c=_known_line(at_s, samples["temperature_c"]),
        clocks_hz={name: line for name, line in clocks_hz.items() if len(line.x)},
        rss_bytes=_known_line(timeline.done_s, steps["rss_bytes"]),
        loss=envelope(steps["step"].astype("float64"), steps["loss"]),
        spent_j=_spent(timeline),
        step_j=_step_means(records, timeline),
        segments=_segments(records, timeline),
        gaps=tuple(gap for process in processes for gap in _gaps(process, timeline)),
        lost=tuple((each.kept_s, each.end_s) for each in processes if each.lost_s),
        resumed_s=tuple(process.begin_s for process in processes[1:]),
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
    count = len(chosen)
    firsts = np.minimum.reduceat(np.where(chosen, np.arange(count), count), begins)
    return np.asarray(firsts[firsts < count])


def _known_line(x: Array, y: Array) -> Line:
    """Readings that come less often than others: their line goes on between them."""
    known = ~np.isnan(y)
    return envelope(x[known], y[known])


def _breaks(timeline: Timeline) -> Array:
    """Before which samples a line is broken: after gaps, and between processes."""
    at_s = timeline.sample_s
    apart = np.flatnonzero(np.diff(at_s) > timeline.gap_s) + 1
    resumed = [process.begin_s for process in timeline.processes[1:]]
    breaks = np.unique([*apart, *np.searchsorted(at_s, resumed)]).astype("int64")
    return breaks[(breaks > 0) & (breaks < len(at_s))]


def _broken_line(at_s: Array, power_w: Array, breaks: Array) -> Line:
    if len(breaks):
        at_s = np.insert(at_s, breaks, at_s[breaks - 1])
        power_w = np.insert(power_w, breaks, np.nan)
    return envelope(at_s, power_w)


def _gaps(process: Process, timeline: Timeline) -> list[Span]:
    """Spans without readings."""
    if process.energy_j is None:
        return [(process.begin_s, process.end_s)]
    readings_s = timeline.readings_s(process)
    known_s = np.concatenate([[process.begin_s], readings_s, [process.end_s]])
    long = np.flatnonzero(np.diff(known_s) > timeline.gap_s)
    return [(float(known_s[i]), float(known_s[i + 1])) for i in long]


def _spent(timeline: Timeline) -> Line:
    """Joules since the run began; it ends where they become unknown."""
    measured = [*takewhile(lambda process: process.energy_j is not None, timeline.processes)]
    if not measured:
        return Line(np.zeros(0), np.zeros(0))
    x = np.linspace(0.0, timeline.readings_s(measured[-1])[-1], _BUCKETS)
    return Line(x.astype("float32"), timeline.until_j(x).astype("float32"))


def _step_means(records: RunRecords, timeline: Timeline) -> Line:
    """Joules per step, means over consecutive steps on one rung."""
    known = timeline.is_measured
    began_s, done_s = timeline.began_s[known], timeline.done_s[known]
    steps_j, took_s = timeline.between_j(began_s, done_s), done_s - began_s
    width_s = max(MEAN_OVER_S, timeline.duration_s / _MEANS)
    x, y = [np.zeros(0)], [np.zeros(0)]
    for begin, stop in _same(records.steps["process"][known], records.steps["rung"][known]):
        spent_s = np.cumsum(took_s[begin:stop])
        groups = np.flatnonzero(np.diff(np.floor(spent_s / width_s), prepend=-1.0))
        counts = np.diff([*groups, stop - begin])
        sums_s = np.diff(np.concatenate([[0.0], spent_s[groups[1:] - 1], spent_s[-1:]]))
        enough = sums_s >= MEAN_OVER_S * 0.999
        sums_j = np.add.reduceat(steps_j[begin:stop], groups)
        x.append(done_s[begin + groups[enough] + counts[enough] - 1])
        y.append((sums_j / counts)[enough])
    return Line(np.concatenate(x).astype("float32"), np.concatenate(y).astype("float32"))


def _same(*values: Array) -> list[tuple[int, int]]:
    """Begins and ends of runs of the same values."""
    changes = np.any([np.diff(each) != 0 for each in values], axis=0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(values[0])]
    return list(pairwise(edges)) if len(values[0]) else []


def _segments(records: RunRecords, timeline: Timeline) -> tuple[RungSegment, ...]:
    steps = records.steps
    return tuple(
        RungSegment(
            begin_s=float(timeline.began_s[begin]),
            end_s=float(timeline.done_s[stop - 1]),
            first_step=int(steps["step"][begin]),
            last_step=int(steps["step"][stop - 1]),
            rung=records.rungs[steps["rung"][begin]],
            keep_ratio=float(steps["keep_ratio"][begin]),
        )
        for begin, stop in _same(steps["process"], steps["rung"])
    )
