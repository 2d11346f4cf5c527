"""What the figures of a page are made of: panels below each other, which plotly draws.

Colours come from the page's template, light or dark; lines also differ by dash or symbol.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edge_runtime.printable import printable
from edge_runtime.report.summary.lines import Line
from edge_runtime.report.summary.series import RunSeries

Trace: TypeAlias = dict[str, Any]
Range: TypeAlias = list[float] | None  # None: plotly's own choice
_NOTHING: Mapping[str, Any] = MappingProxyType({})

MIB = 1 << 20
_MARGIN = 0.03  # of the height, above and below a line


def from_zero(low: float, high: float) -> Range:
    """Ends of a y axis for amounts."""
    return [0, high * 1.06] if high > 0 else None


def with_margin(low: float, high: float) -> Range:
    """Ends of a y axis for values far from zero."""
    room = _MARGIN * (high - low)
    return [low - room, high + room] if room > 0 else None


class Panel(NamedTuple):
    """One of the diagrams of a figure, which lie below each other on one x axis."""

    y_title: str
    traces: Sequence[Trace]
    ends: Callable[[float, float], Range] | None = from_zero  # of its lowest and highest value
    height: float = 1.0  # relative to the others
    y_axis: Mapping[str, Any] = _NOTHING  # more of it


class Figure(NamedTuple):
    """One figure of one run, or of all runs."""

    section: str
    run: str  # its name; empty: all
    height_px: int
    x_title: str
    x_end: float | None  # None: plotly's own choice
    panels: Sequence[Panel]
    layout: Mapping[str, Any] = _NOTHING  # more of it


class Drawn(NamedTuple):
    """A figure in the page."""

    section: str
    run: str
    json: str  # for plotly.js


class TimeAxis(NamedTuple):
    """Of runs side by side: its unit, and its end in that."""

    unit: str
    unit_s: float
    end: float

    @property
    def title(self) -> str:
        """What stands below it."""
        return f"time in the run ({self.unit})"

    def at(self, at_s: Any) -> Any:
        """Seconds in its unit."""
        return at_s / self.unit_s

    def line(self, points: Line, name: str, *, unit: float = 1.0, **more: Any) -> Trace:
        """A line of a run, in a unit of its values."""
        return trace(self.at(points.x), points.y / unit, name, **more)

    def level(self, value: float, name: str, dash: str) -> Trace:
        """A line across the whole time."""
        return trace([0, self.end], [value, value], name, line={"dash": dash})


def time_axis(series: Sequence[RunSeries]) -> TimeAxis:
    """The axis that every run fits into."""
    end_s = max(one.duration_s for one in series)
    for unit, unit_s in (("h", 3600.0), ("min", 60.0)):
        if end_s >= 2 * unit_s:
            return TimeAxis(unit, unit_s, end_s / unit_s)
    return TimeAxis("s", 1.0, end_s)


def trace(x: Any, y: Any, name: str, *, mode: str = "lines", **more: Any) -> Trace:
    """Points of a scatter plot."""
    return {"type": "scatter", "x": x, "y": y, "name": name, "mode": mode, **more}


def draw(figures: Sequence[Figure]) -> list[Drawn]:
    """The same figure of several runs, with the same ends of their axes."""
    x_end = max((figure.x_end for figure in figures if figure.x_end is not None), default=None)
    panels = [panel for figure in figures for panel in figure.panels]
    return [
        Drawn(each.section, each.run, _plot(each, x_end, panels).to_json()) for each in figures
    ]


def _plot(figure: Figure, x_end: float | None, panels: Sequence[Panel]) -> go.Figure:
    """A plot without colours; the page gives them."""
    plot = make_subplots(
        rows=len(figure.panels),
        shared_xaxes=True,
        row_heights=[panel.height for panel in figure.panels],
        vertical_spacing=0.07,
    )
    plot.layout.template = None
    plot.update_layout(
        height=figure.height_px,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        **figure.layout,
    )
    for row, panel in enumerate(figure.panels, start=1):
        same = [other for other in panels if other.y_title == panel.y_title]
        axis = {"title": panel.y_title, "range": _range(same), **panel.y_axis}
        plot.add_traces(_printable(panel.traces), rows=row, cols=1)
        plot.update_yaxes(_printable(axis), row=row, col=1)
    plot.update_xaxes(range=None if x_end is None else [0, x_end])
    plot.update_xaxes(title=figure.x_title, row=len(figure.panels), col=1)
    return plot


def _printable(value: Any) -> Any:
    """The names of runs and rungs in a part of a figure, made printable."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {key: _printable(each) for key, each in value.items()}
        case list() | tuple():
            return [_printable(each) for each in value]
    return value


def _range(panels: Sequence[Panel]) -> Range:
    """Of the y axis that these panels share."""
    ends = panels[0].ends
    if ends is None:
        return None
    y = np.concatenate([each["y"] for panel in panels for each in panel.traces])
    y = y[~np.isnan(y)]
    return ends(float(y.min()), float(y.max())) if len(y) else None
