"""The lines of a report's figures: what was recorded, with fewer points and every peak.

x is seconds in the run, or steps; y is in SI units.
"""

from dataclasses import dataclass

import numpy as np

from edge_runtime.report.summary.digest import RunDigest, RungSegment, Span
from edge_runtime.report.summary.lines import Line


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


def series_of(digest: RunDigest) -> RunSeries:
    """All lines of one run."""
    lines, processes = digest.lines, digest.processes
    total = lines.total_w.line()
    power_w = {"total": total}
    for rail, builder in lines.rails_w.items():
        line = builder.line()
        if not np.array_equal(line.y, total.y, equal_nan=True):
            power_w[rail] = line
    clocks_hz = {
        name: lines.clocks_hz[column].line()
        for name, column in {"CPU": "cpu_hz", "GPU": "gpu_hz"}.items()
    }
    return RunSeries(
        duration_s=digest.duration_s,
        power_w=power_w,
        temperature_c=lines.temperature_c.line(),
        clocks_hz={name: line for name, line in clocks_hz.items() if len(line.x)},
        rss_bytes=lines.rss_bytes.line(),
        loss=lines.loss.line(),
        spent_j=lines.spent_j.line(),
        step_j=lines.step_j.line(),
        segments=tuple(digest.segments),
        gaps=tuple(digest.gaps),
        lost=tuple((each.kept_s, each.end_s) for each in processes if each.lost_s),
        resumed_s=tuple(process.begin_s for process in processes[1:]),
    )
