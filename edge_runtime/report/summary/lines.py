"""Lines of figures: points as they were recorded, fewer of them, and every peak.

Builders take points block by block and hold a bounded number of them, however long a run is.
Between the points that are kept, a line leaves out only values that lie between its
neighbours' lowest and highest.
"""

from typing import NamedTuple

import numpy as np

from edge_runtime.report.summary.loader import Array

_BUCKETS = 1000  # more than a screen has columns for a figure
_HELD = 1 << 15  # points of one line
_FINE = 4  # times as many buckets while more points come
_MEANS = 400
_ROUNDED = 1 - 1e-6  # sums of times are


class Line(NamedTuple):
    """Points of a line, float32; NaN breaks it."""

    x: Array
    y: Array


def envelope(x: Array, y: Array, buckets: int = _BUCKETS) -> Line:
    """The lowest and the highest point of every bucket, and one that is NaN if there is any.

    Args:
        x: ascending.
        y: as many; NaN is unknown.
        buckets: of the same width in x. Where there are few points, all are kept.
    """
    y = y.astype("float32", copy=False)
    chosen = _extremes(x, y, buckets)
    return Line(x[chosen].astype("float32"), y[chosen])


def _extremes(x: Array, y: Array, buckets: int) -> Array:
    """Places of the points that an envelope keeps."""
    if len(x) <= 2 * buckets:
        return np.arange(len(x))
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], buckets + 1)[1:-1])
    begins = np.insert(edges[edges < len(x)], 0, 0)
    begins = begins[np.diff(begins, prepend=-1) > 0]  # one of each
    unknown, is_kept = np.isnan(y), np.zeros(len(x), bool)
    is_kept[[0, -1]] = True
    is_kept[_first_of_each(begins, unknown)] = True
    for extreme, worst in ((np.minimum, np.inf), (np.maximum, -np.inf)):
        known = np.where(unknown, np.float32(worst), y)
        bucket_extreme = extreme.reduceat(known, begins)
        counts = np.diff(begins, append=len(y))
        is_kept[_first_of_each(begins, known == np.repeat(bucket_extreme, counts))] = True
    return np.flatnonzero(is_kept)


def _first_of_each(begins: Array, chosen: Array) -> Array:
    """Of the chosen places of every bucket the first."""
    count = len(chosen)
    firsts = np.minimum.reduceat(np.where(chosen, np.arange(count), count), begins)
    return np.asarray(firsts[firsts < count])


class LineBuilder:
    """A line that grows at its end; it is thinned out whenever it has many points."""

    def __init__(self) -> None:
        self._x, self._y = [np.zeros(0)], [np.zeros(0, "float32")]
        self._count = 0

    def add(self, x: Array, y: Array) -> None:
        """Add points behind those that were added before."""
        self._x.append(x)
        self._y.append(y.astype("float32", copy=False))
        self._count += len(x)
        if self._count > _HELD:
            x, y = np.concatenate(self._x), np.concatenate(self._y)
            chosen = _extremes(x, y, _FINE * _BUCKETS)
            self._x, self._y, self._count = [x[chosen]], [y[chosen]], len(chosen)

    def add_known(self, x: Array, y: Array) -> None:
        """Add readings that come less often than others: the line goes on between them."""
        known = ~np.isnan(y)
        self.add(x[known], y[known])

    def line(self) -> Line:
        """All of it."""
        return envelope(np.concatenate(self._x), np.concatenate(self._y))


class _Mean(NamedTuple):
    """Some consecutive steps."""

    stretch: int  # steps of one process on one rung
    done_s: float
    joules: float
    took_s: float
    steps: int

    def plus(self, other: "_Mean") -> "_Mean":
        """Both, of which the other one is later."""
        return _Mean(
            self.stretch,
            other.done_s,
            self.joules + other.joules,
            self.took_s + other.took_s,
            self.steps + other.steps,
        )


class StepMeans:
    """Joules per step: means over whole steps of one stretch, each at least so long.

    The least time is doubled whenever there are many means.
    """

    def __init__(self, least_s: float) -> None:
        self._enough_s = least_s * _ROUNDED
        self._stretch = 0
        self._closed: list[_Mean] = []
        self._open: _Mean | None = None

    def begin_stretch(self) -> None:
        """The steps that follow are on another rung, or of another process."""
        self._stretch += 1
        self._open = None  # too short to be a mean

    def add(self, done_s: Array, joules: Array, took_s: Array) -> None:
        """Add consecutive steps."""
        all_s, all_j = np.cumsum(took_s), np.cumsum(joules)
        begin, before_s, before_j = 0, 0.0, 0.0
        while begin < len(done_s):
            held_s = self._open.took_s if self._open else 0.0
            stop = int(np.searchsorted(all_s, before_s + self._enough_s - held_s)) + 1
            stop = min(max(stop, begin + 1), len(done_s))
            end_s, end_j = float(all_s[stop - 1]), float(all_j[stop - 1])
            mean = _Mean(
                self._stretch,
                float(done_s[stop - 1]),
                end_j - before_j,
                end_s - before_s,
                stop - begin,
            )
            self._take(self._open.plus(mean) if self._open else mean)
            begin, before_s, before_j = stop, end_s, end_j

    def _take(self, mean: _Mean) -> None:
        if mean.took_s < self._enough_s * _ROUNDED:
            self._open = mean
            return
        self._open = None
        self._closed.append(mean)
        if len(self._closed) > _MEANS:
            self._enough_s *= 2
            self._closed = _in_pairs(self._closed)

    def line(self) -> Line:
        """One point per mean, where its last step was done."""
        x = np.array([mean.done_s for mean in self._closed], "float32")
        y = np.array([mean.joules / mean.steps for mean in self._closed], "float32")
        return Line(x, y)


def _in_pairs(means: list[_Mean]) -> list[_Mean]:
    """Neighbours of one stretch together."""
    merged: list[_Mean] = []
    is_single = False  # the last one of `merged`
    for mean in means:
        if is_single and merged[-1].stretch == mean.stretch:
            merged[-1] = merged[-1].plus(mean)
            is_single = False
        else:
            merged.append(mean)
            is_single = True
    return merged
