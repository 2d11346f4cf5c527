"""The figures of a report that show a run over its time, made with plotly.

Colours come from the page's template, light or dark; lines also differ by dash or symbol.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edge_runtime.report.series import Line, RunSeries
from edge_runtime.report.summary import RunSummary
from edge_runtime.units import bytes_text, energy_text

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_MIB = 1 << 20
_MARGIN = 0.03  # of the height, above and below a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One figure of one run, or of all of them."""

    key: str  # the section that it belongs to
    figure: go.Figure
    says: str  # the same in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What runs side by side share: the unit of time and the ends of their axes."""

    time_s: float
    time_unit_s: float
    time_unit: str
    power_w: float
    planned_s: float  # of the longest plan
    spent_j: float  # with what was planned and allowed
    heat_c: tuple[float, float]
    clock_hz: float
    peak_bytes: float
    step_j: float
    steps: int
    loss: tuple[float, float]

    @property
    def end(self) -> float:
        """Of the axis of time, in its unit."""
        return self.time_s / self.time_unit_s


def axes_of(runs: Sequence[RunSummary], series: Sequence[RunSeries]) -> Axes:
    """Axes that every run fits into."""
    time_s = max((one.duration_s for one in series), default=0.0)
    unit_s, unit = next(
        (found for found in ((3600.0, "h"), (60.0, "min")) if time_s >= 2 * found[0]),
        (1.0, "s"),
    )
    memory: list[float] = [run.totals.peak_bytes or 0.0 for run in runs]
    memory += _allowed(runs, "memory")
    joules = [run.totals.gross_j or 0.0 for run in runs]
    joules += _planned(runs, "energy") + _allowed(runs, "energy")
    losses = [_ends(one.loss) for one in series if len(one.loss.y)]
    heats = [_ends(one.temperature_c) for one in series if len(one.temperature_c.y)]
    clocks = [_ends(line)[1] for one in series for line in one.clocks_hz.values()]
    return Axes(
        time_s=time_s,
        time_unit_s=unit_s,
        time_unit=unit,
        power_w=max(_ends(one.total_w)[1] for one in series),
        planned_s=max(_planned(runs, "time"), default=0.0),
        spent_j=max(joules, default=0.0),
        heat_c=_hull([*heats, *((c, c) for c in _allowed(runs, "temperature"))]),
        clock_hz=max(clocks, default=0.0),
        peak_bytes=max(memory, default=0.0),
        step_j=max(_ends(one.step_j)[1] for one in series),
        steps=max(run.totals.steps for run in runs),
        loss=_hull(losses),
    )


def _planned(runs: Sequence[RunSummary], name: str) -> list[float]:
    return [c.planned for run in runs for c in run.plan if c.name == name and c.planned]


def _allowed(runs: Sequence[RunSummary], limit: str) -> list[float]:
    return [use.allowed for run in runs for use in run.budget if use.limit == limit]


def _hull(ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """From the lowest to the highest; 0 where there is none."""
    return (
        min((low for low, _ in ends), default=0.0),
        max((high for _, high in ends), default=0.0),
    )


def _ends(line: Line) -> tuple[float, float]:
    """Lowest and highest; 0 where nothing is known."""
    known = line.y[~np.isnan(line.y)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


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


def line_of(points: Line, axes: Axes, name: str, **more: Any) -> go.Scatter:
    """A line over time."""
    return go.Scatter(
        x=points.x / axes.time_unit_s, y=points.y, name=name, mode="lines", **more
    )


def level(value: float, axes: Axes, name: str, dash: str) -> go.Scatter:
    """A line across the whole time."""
    return go.Scatter(
        x=[0, axes.end], y=[value, value], name=name, mode="lines", line={"dash": dash}
    )


def from_zero(highest: float) -> list[float] | None:
    """Ends of an axis."""
    return [0, highest * 1.06] if highest > 0 else None


def with_margin(ends: tuple[float, float]) -> list[float] | None:
    """Ends of an axis; plotly's own choice where they are one."""
    low, high = ends
    room = _MARGIN * (high - low)
    return [low - room, high + room] if room > 0 else None


def name_time(figure: go.Figure, axes: Axes, *, rows: int = 1) -> None:
    """The same axis of time in every row, named at the last one."""
    figure.update_xaxes(range=[0, axes.end])
    where = {"row": rows, "col": 1} if rows > 1 else {}
    figure.update_xaxes(title=f"time in the run ({axes.time_unit})", **where)


def spent(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Joules since the run began, with the limit and the plan."""
    if run.totals.gross_j is None or not len(series.spent_j.x):
        return None
    figure = go.Figure(layout=base(300))
    hover = "%{y:.4~s}J<extra></extra>"
    figure.add_trace(line_of(series.spent_j, axes, "spent", hovertemplate=hover))
    says = f"Spent: {energy_text(run.totals.gross_j)}"
    name_time(figure, axes)
    planned = {check.name: check.planned for check in run.plan}
    time_s, energy_j = planned.get("time"), planned.get("energy")
    if time_s is not None and energy_j is not None:
        end = time_s / axes.time_unit_s
        figure.add_scatter(
            x=[0, end],
            y=[0, energy_j],
            name="planned",
            mode="lines+markers",
            line={"dash": "dot"},
            marker={"symbol": "circle-open", "size": 9},
        )
        says += f", planned: {energy_text(energy_j)}"
    for use in run.budget:
        if use.limit == "energy":
            figure.add_trace(level(use.allowed, axes, "limit", "dash"))
            says += f", allowed: {energy_text(use.allowed)}"
    figure.update_xaxes(range=[0, 1.02 * max(axes.end, axes.planned_s / axes.time_unit_s)])
    figure.update_yaxes(title="J", range=from_zero(axes.spent_j), tickformat="~s")
    return Drawing(key="spent", figure=figure, says=says + ".")


def step_energy(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Joules per step over time."""
    if not len(series.step_j.x):
        return None
    figure = go.Figure(layout=base(260))
    figure.add_scatter(
        x=series.step_j.x / axes.time_unit_s,
        y=series.step_j.y,
        mode="lines+markers",
        name="J per step",
        line={"shape": "hvh", "width": 1.2},
        marker={"size": 4},
        hovertemplate="%{y:.3~g} J per step<extra></extra>",
    )
    figure.update_yaxes(title="J per step", range=from_zero(axes.step_j))
    name_time(figure, axes)
    low, high = _ends(series.step_j)
    says = (
        f"Energy of a step, means over at least 2 s, from {energy_text(low)} to "
        f"{energy_text(high)}."
    )
    return Drawing(key="step-energy", figure=figure, says=says)


def memory(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Resident memory, its peak and its limit."""
    resident = series.rss_bytes
    if not len(resident.x) or run.totals.peak_bytes is None:
        return None
    figure = go.Figure(layout=base(280))
    in_mib = Line(resident.x, resident.y / _MIB)
    hover = "%{y:.1f} MiB<extra></extra>"
    figure.add_trace(line_of(in_mib, axes, "resident", hovertemplate=hover))
    figure.add_trace(level(run.totals.peak_bytes / _MIB, axes, "peak", "dot"))
    says = f"At most {bytes_text(run.totals.peak_bytes)} resident"
    for use in run.budget:
        if use.limit == "memory":
            figure.add_trace(level(use.allowed / _MIB, axes, "limit", "dash"))
            says += f", limit {bytes_text(use.allowed)}"
    figure.update_yaxes(title="MiB", range=from_zero(axes.peak_bytes / _MIB))
    name_time(figure, axes)
    return Drawing(key="memory", figure=figure, says=says + ".")


def heat(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Temperature, and clocks below."""
    rows: list[tuple[str, dict[str, Line]]] = []
    if len(series.temperature_c.x):
        rows.append(("C", {"temperature": series.temperature_c}))
    if series.clocks_hz:
        clocks = {f"{n} clock": Line(x, y / 1e9) for n, (x, y) in series.clocks_hz.items()}
        rows.append(("GHz", clocks))
    if not rows:
        return None
    figure = make_subplots(rows=len(rows), shared_xaxes=True, vertical_spacing=0.09)
    figure.update_layout(base(170 + 110 * len(rows)))
    for row, (unit, lines) in enumerate(rows, start=1):
        for index, (name, line) in enumerate(lines.items()):
            trace = line_of(line, axes, name, line={"dash": DASHES[index]})
            figure.add_trace(trace, row=row, col=1)
        ends = with_margin(axes.heat_c) if unit == "C" else from_zero(axes.clock_hz / 1e9)
        figure.update_yaxes(title=unit, range=ends, row=row, col=1)
    allowed = [use.allowed for use in run.budget if use.limit == "temperature"]
    if allowed and len(series.temperature_c.x):
        figure.add_trace(level(allowed[0], axes, "limit", "dash"), row=1, col=1)
    name_time(figure, axes, rows=len(rows))
    return Drawing(key="heat", figure=figure, says=_heat_says(run))


def _heat_says(run: RunSummary) -> str:
    peak_c, throttled = run.totals.peak_temperature_c, run.totals.throttled
    heat_text = "Temperature is unknown" if peak_c is None else f"{peak_c:.1f} C at most"
    if throttled is None:
        return f"{heat_text}; whether the board was throttled is unknown."
    return f"{heat_text}; the board was {'' if throttled else 'not '}throttled."


def learning(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Loss, and below the keep-ratio that was trained and the one that was planned."""
    if not len(series.loss.x):
        return None
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.07
    )
    figure.update_layout(base(360))
    loss = go.Scatter(
        x=series.loss.x,
        y=series.loss.y,
        name="loss",
        mode="lines",
        line={"width": 1.2},
        hovertemplate="%{y:.4f}, step %{x}<extra></extra>",
    )
    figure.add_trace(loss, row=1, col=1)
    kept = go.Scatter(
        x=[step for s in series.stretches for step in (s.first_step, s.last_step)],
        y=[s.keep_ratio for s in series.stretches for _ in range(2)],
        name="keep-ratio",
        mode="lines",
        line={"shape": "hv", "width": 3},
    )
    figure.add_trace(kept, row=2, col=1)
    _add_planned(figure, run)
    figure.update_yaxes(title="loss", range=with_margin(axes.loss), row=1, col=1)
    figure.update_yaxes(title="keep", range=[0, 1.1], row=2, col=1)
    figure.update_xaxes(range=[0, axes.steps])
    figure.update_xaxes(title="step", row=2, col=1)
    says = (
        f"Loss from {run.totals.first_loss:.4f} at the first step to a mean of "
        f"{run.totals.last_loss:.4f} over the last epoch's steps."
    )
    return Drawing(key="learning", figure=figure, says=says)


def _add_planned(figure: go.Figure, run: RunSummary) -> None:
    """The keep-ratios of the first plan, in its order."""
    ratios = {rung.rung: rung.keep_ratio for rung in run.rungs}
    x: list[float] = []
    y: list[float] = []
    for check in run.plan:
        rung = check.name.removeprefix("steps on ")
        if rung != check.name and check.planned and (ratio := ratios.get(rung)) is not None:
            begin = x[-1] if x else 0.0
            x, y = [*x, begin, begin + check.planned], [*y, ratio, ratio]
    if x:
        planned = go.Scatter(x=x, y=y, name="planned", mode="lines", line={"dash": "dot"})
        figure.add_trace(planned, row=2, col=1)
