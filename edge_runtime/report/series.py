"""The lines of a report's figures: what was recorded, with fewer points and every peak.

x is seconds in the run, or steps; y is in SI units. Between the points that are kept, a line
leaves out only values that lie between its neighbours' lowest and highest.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from edge_runtime.report.lines import Array
from edge_runtime.report.recorded import Recorded
from edge_runtime.report.stages import MEAN_OVER_S
from edge_runtime.report.timeline import Process, Timeline

_BUCKETS = 1000  # more than a screen has columns for a figure
_MEANS = 200  # of joules per step


class Line(NamedTuple):
    """Points of a line, float32; NaN breaks it."""

    x: Array
    y: Array


class Stretch(NamedTuple):
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
    total_w: Line
    rails_w: dict[str, Line]
    temperature_c: Line
    clocks_hz: dict[str, Line]
    rss_bytes: Line
    loss: Line  # by step
    spent_j: Line
    step_j: Line  # means over `MEAN_OVER_S` or more
    stretches: tuple[Stretch, ...]
    gaps: tuple[Span, ...]  # without readings of power
    lost: tuple[Span, ...]  # work that had to be done again
    resumed_s: tuple[float, ...]  # where the second process and later ones begin


def series_of(recorded: Recorded, timeline: Timeline) -> RunSeries:
    """All lines of one run."""
    samples, steps = recorded.samples, recorded.steps
    at_s, done_s = samples.t_s.copy(), steps.t_s.copy()
    for process in timeline.processes:
        at_s[process.samples] += process.offset_s
        done_s[process.steps] += process.offset_s
    clocks_hz = {"CPU": samples.cpu_hz, "GPU": samples.gpu_hz}
    return RunSeries(
        duration_s=timeline.duration_s,
        total_w=_power_line(at_s, samples.total_w, timeline),
        rails_w={
            rail: _power_line(at_s, rail_w, timeline)
            for rail, rail_w in samples.rails_w.items()
        },
        temperature_c=_known_line(at_s, samples.temperature_c),
        clocks_hz={
            name: line
            for name, hz in clocks_hz.items()
            if len((line := _known_line(at_s, hz)).x)
        },
        rss_bytes=_known_line(done_s, steps.rss_bytes),
        loss=envelope(steps.step.astype("float64"), steps.loss),
        spent_j=_spent(timeline),
        step_j=_step_means(recorded, timeline),
        stretches=_stretches(recorded, timeline),
        gaps=tuple(gap for process in timeline.processes for gap in _gaps(process, timeline)),
        lost=tuple(
            (process.offset_s + process.kept_s, process.offset_s + process.duration_s)
            for process in timeline.processes
            if process.kept_s < process.duration_s
        ),
        resumed_s=tuple(process.offset_s for process in timeline.processes[1:]),
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
    kept = [
        np.array([0, len(x) - 1]),
        _first_of_each(begins, unknown),
        _first_of_each(
            begins, _is_extreme(np.where(unknown, np.float32(np.inf), y), begins, np.minimum)
        ),
        _first_of_each(
            begins, _is_extreme(np.where(unknown, np.float32(-np.inf), y), begins, np.maximum)
        ),
    ]
    chosen = np.unique(np.concatenate(kept))
    return Line(x[chosen].astype("float32"), y[chosen])


def _is_extreme(y: Array, begins: Array, extreme: np.ufunc) -> Array:
    """Where the lowest, or the highest, value of a bucket is."""
    counts = np.diff(begins, append=len(y))
    return np.asarray(y == np.repeat(extreme.reduceat(y, begins), counts))


def _first_of_each(begins: Array, chosen: Array) -> Array:
    """Of the chosen places of every bucket the first."""
    places = np.flatnonzero(chosen)
    bucket = np.searchsorted(begins, places, side="right")
    return places[np.flatnonzero(np.diff(bucket, prepend=-1))]


def _known_line(x: Array, y: Array) -> Line:
    """Readings that come less often than others: their line goes on between them."""
    known = ~np.isnan(y)
    return envelope(x[known], y[known])


def _power_line(at_s: Array, power_w: Array, timeline: Timeline) -> Line:
    """Broken where there are no readings, and between processes."""
    apart = np.flatnonzero(np.diff(at_s) > timeline.gap_s) + 1
    resumed = [process.offset_s for process in timeline.processes[1:]]
    breaks = np.unique([*apart, *np.searchsorted(at_s, resumed)]).astype("int64")
    breaks = breaks[(breaks > 0) & (breaks < len(at_s))]
    if len(breaks):
        at_s = np.insert(at_s, breaks, at_s[breaks - 1])
        power_w = np.insert(power_w, breaks, np.nan)
    return envelope(at_s, power_w)


def _gaps(process: Process, timeline: Timeline) -> list[Span]:
    """Stretches without readings, in seconds of the run."""
    if process.power is None:
        return [(process.offset_s, process.offset_s + process.duration_s)]
    known_s = np.concatenate([[0.0], process.power.t_s, [process.duration_s]])
    long = np.flatnonzero(np.diff(known_s) > timeline.gap_s)
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


def _joined(x: list[Array], y: list[Array]) -> Line:
    empty = np.zeros(0)
    return Line(
        np.concatenate([empty, *x]).astype("float32"),
        np.concatenate([empty, *y]).astype("float32"),
    )


def _step_means(recorded: Recorded, timeline: Timeline) -> Line:
    """Joules per step, means over stretches of steps on one rung."""
    width_s = max(MEAN_OVER_S, timeline.duration_s / _MEANS)
    x: list[Array] = []
    y: list[Array] = []
    for process in timeline.processes:
        if process.power is None:
            continue
        rung, end_s, began_s = _covered_steps(recorded, process)
        energy_j = process.power.between_j(began_s, end_s)
        for begin, stop in _same(rung):
            spent_s = np.cumsum(end_s[begin:stop] - began_s[begin:stop])
            groups = np.flatnonzero(np.diff(np.floor(spent_s / width_s), prepend=-1.0))
            counts = np.diff([*groups, stop - begin])
            sums_s = np.diff(np.concatenate([[0.0], spent_s[groups[1:] - 1], spent_s[-1:]]))
            enough = sums_s >= MEAN_OVER_S * 0.999
            sums_j = np.add.reduceat(energy_j[begin:stop], groups)
            x.append(process.offset_s + end_s[begin + groups[enough] + counts[enough] - 1])
            y.append((sums_j / counts)[enough])
    return _joined(x, y)


def _covered_steps(recorded: Recorded, process: Process) -> tuple[Array, Array, Array]:
    """Rung, end and begin of a process's steps up to its last reading of power."""
    steps = recorded.steps
    end_s = steps.t_s[process.steps]
    last_s = process.power.t_s[-1] if process.power else 0.0
    covered = end_s <= last_s
    began_s = steps.began_s[process.steps]
    return steps.rung[process.steps][covered], end_s[covered], began_s[covered]


def _same(rung: Array) -> list[tuple[int, int]]:
    """Begin and end of runs of one value."""
    if not len(rung):
        return []
    changes = [0, *(np.flatnonzero(np.diff(rung)) + 1).tolist(), len(rung)]
    return list(pairwise(changes))


def _stretches(recorded: Recorded, timeline: Timeline) -> tuple[Stretch, ...]:
    steps, found = recorded.steps, []
    began_s = steps.began_s
    for process in timeline.processes:
        first = process.steps.start
        for begin, stop in _same(steps.rung[process.steps]):
            begin, last = first + begin, first + stop - 1
            found.append(
                Stretch(
                    begin_s=float(began_s[begin]) + process.offset_s,
                    end_s=float(steps.t_s[last]) + process.offset_s,
                    first_step=int(steps.step[begin]),
                    last_step=int(steps.step[last]),
                    rung=steps.rungs[steps.rung[begin]],
                    keep_ratio=float(steps.keep_ratio[begin]),
                )
            )
    return tuple(found)
