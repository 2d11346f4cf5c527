"""What the figures of a page are made of: panels below each other, which plotly draws.

Colours come from the page's template, light or dark; lines also differ by dash or symbol.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edge_runtime.report.summary.series import RunSeries

Trace: TypeAlias = dict[str, Any]
Range: TypeAlias = list[float] | None  # None: plotly's own choice

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
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
    y_axis: Mapping[str, Any] = MappingProxyType({})  # more of it


class Figure(NamedTuple):
    """One figure of one run."""

    section: str
    caption: str  # the same in a sentence
    height_px: int
    x_title: str
    x_end: float
    panels: Sequence[Panel]
    layout: Mapping[str, Any] = MappingProxyType({})  # more of it


class Drawn(NamedTuple):
    """A figure in the page."""

    section: str
    plot_id: str
    caption: str
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


def level(value: float, time: TimeAxis, name: str, dash: str) -> Trace:
    """A line across the whole time."""
    return trace([0, time.end], [value, value], name, line={"dash": dash})


def base(height_px: int, **layout: Any) -> go.Layout:
    """A layout without colours; the page gives them."""
    return go.Layout(
        template={},
        height=height_px,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        **layout,
    )


def draw(figures: Sequence[Figure]) -> list[go.Figure]:
    """The same figure of several runs, with the same ends of their axes."""
    x_end = max((figure.x_end for figure in figures), default=0.0)
    panels = [panel for figure in figures for panel in figure.panels]
    return [_drawn(figure, x_end, panels) for figure in figures]


def _drawn(figure: Figure, x_end: float, panels: Sequence[Panel]) -> go.Figure:
    drawn = make_subplots(
        rows=len(figure.panels),
        shared_xaxes=True,
        row_heights=[panel.height for panel in figure.panels],
        vertical_spacing=0.07,
    )
    drawn.update_layout(base(figure.height_px, **figure.layout))
    for row, panel in enumerate(figure.panels, start=1):
        same = [other for other in panels if other.y_title == panel.y_title]
        drawn.add_traces(list(panel.traces), rows=row, cols=1)
        drawn.update_yaxes(title=panel.y_title, range=_range(same), row=row, col=1)
        drawn.update_yaxes(**panel.y_axis, row=row, col=1)
    drawn.update_xaxes(range=[0, x_end])
    drawn.update_xaxes(title=figure.x_title, row=len(figure.panels), col=1)
    return drawn


def _range(panels: Sequence[Panel]) -> Range:
    """Of the y axis that these panels share."""
    ends = panels[0].ends
    if ends is None:
        return None
    y = np.concatenate([each["y"] for panel in panels for each in panel.traces])
    y = y[~np.isnan(y)]
    return ends(float(y.min()), float(y.max())) if len(y) else None
