"""The figures of a report, made with plotly: what happened over the time of a run.

Colours come from the page's template, light or dark; every line also differs by dash or symbol.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edge_runtime.report.series import Line, RunSeries
from edge_runtime.report.summary import Decision, RunSummary
from edge_runtime.units import bytes_text, duration_text, energy_text, power_text

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = {
    "rung_changed": ("diamond", "rung changed"),
    "planned": ("circle", "planned"),
    "paused": ("square", "paused"),
    "sensor_lost": ("x", "sensor lost"),
    "sensor_back": ("cross", "sensor back"),
    "resumed": ("triangle-right", "resumed"),
    "interrupted": ("hourglass", "interrupted"),
    "diverged": ("star", "diverged"),
}
_MOST_SHAPES = 200  # gaps and the like: more are told by their sum only


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One figure of one run, or of all of them."""

    key: str  # unique in the page
    figure: go.Figure
    says: str  # the same in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What runs side by side share: units and ends of their axes. 0 leaves an end free."""

    time_s: float
    time_unit_s: float
    time_unit: str
    power_w: float
    bytes_: float
    step_j: float
    steps: int
    temperature_c: float
    loss: tuple[float, float]


def axes_of(runs: Sequence[RunSummary], series: Sequence[RunSeries]) -> Axes:
    """Axes that every run fits into."""
    time_s = max((one.duration_s for one in series), default=0.0)
    unit_s, unit = next(
        (found for found in ((3600.0, "h"), (60.0, "min")) if time_s >= 2 * found[0]),
        (1.0, "s"),
    )
    memory = [run.totals.peak_bytes or 0 for run in runs]
    memory += [use.allowed for run in runs for use in run.budget if use.limit == "memory"]
    losses = [_ends(one.loss) for one in series if len(one.loss.y)]
    return Axes(
        time_s=time_s,
        time_unit_s=unit_s,
        time_unit=unit,
        power_w=max(_top(one.total_w) for one in series),
        bytes_=max(memory, default=0),
        step_j=max(_top(one.step_j) for one in series),
        steps=max(run.totals.steps for run in runs),
        temperature_c=max(_top(one.temperature_c) for one in series),
        loss=(min((low for low, _ in losses), default=0.0),
              max((high for _, high in losses), default=0.0)),
    )  # fmt: skip


def _ends(line: Line) -> tuple[float, float]:
    known = [float(value) for value in line.y if not math.isnan(value)]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _top(line: Line) -> float:
    return max(_ends(line)[1], 0.0)


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


def power(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Power per rail, and below on the same axis rungs, decisions and gaps."""
    if not run.metering.known_samples:
        return None
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.05
    )
    figure.update_layout(base(420))
    for index, (name, line) in enumerate(_power_lines(series)):
        trace = go.Scatter(
            x=line.x / axes.time_unit_s,
            y=line.y,
            name=name,
            mode="lines",
            line={"dash": DASHES[index % len(DASHES)], "width": 2 if index == 0 else 1.2},
            hovertemplate=f"%{{y:.2f}} W, %{{x:.3~g}} {axes.time_unit}",
        )
        figure.add_trace(trace, row=1, col=1)
    _add_rungs(figure, run, series, axes)
    _add_spans(figure, series, axes)
    figure.update_yaxes(
        title="W", rangemode="tozero", range=_from_zero(axes.power_w), row=1, col=1
    )
    figure.update_xaxes(range=[0, axes.time_s / axes.time_unit_s])
    _time_title(figure, axes, row=2, col=1)
    totals, mark = run.totals, "estimated " if run.energy_is_estimate else ""
    says = f"{run.name}: {mark}power of the board over {duration_text(totals.time_s)}"
    if totals.mean_w is not None:
        says += f", {power_text(totals.mean_w)} on average"
    if totals.peak_w is not None:
        says += f", {power_text(totals.peak_w)} at most"
    if series.gaps:
        says += f"; {len(series.gaps)} stretch(es) without readings are shaded"
    if series.resumed_s:
        says += "; a vertical line is where a later process went on"
    return Drawing(key="power", figure=figure, says=says + ".")


def _power_lines(series: RunSeries) -> list[tuple[str, Line]]:
    """The total, and the rails if they are more than it."""
    rails = list(series.rails_w.items())
    return [("total", series.total_w), *(rails if len(rails) > 1 else [])]


def _add_rungs(figure: go.Figure, run: RunSummary, series: RunSeries, axes: Axes) -> None:
    """Named windows as bars on a row per rung, decisions as symbols on them."""
    x: list[float | None] = []
    y: list[str | None] = []
    for stretch in series.stretches:
        x += [stretch.begin_s / axes.time_unit_s, stretch.end_s / axes.time_unit_s, None]
        y += [stretch.rung, stretch.rung, None]
    bars = go.Scatter(x=x, y=y, mode="lines", name="rung", line={"width": 9}, showlegend=False,
                      hovertemplate="rung %{y}<extra></extra>")  # fmt: skip
    figure.add_trace(bars, row=2, col=1)
    names = [rung.rung for rung in reversed(run.rungs) if rung.steps]
    for kind, (symbol, label) in _SYMBOLS.items():
        found = [d for d in run.decisions if d.kind == kind and d.elapsed_s is not None]
        if not found:
            continue
        marks = go.Scatter(
            x=[(d.elapsed_s or 0.0) / axes.time_unit_s for d in found],
            y=[_rung_at(d, series) for d in found],
            mode="markers",
            name=label,
            marker={"symbol": symbol, "size": 11, "line": {"width": 1.5}},
            text=[_wrapped(f"{label}: {d.text}") for d in found],
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(marks, row=2, col=1)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, row=2, col=1
    )


def _rung_at(decision: Decision, series: RunSeries) -> str:
    """The row that a decision is drawn on: its rung, or the one that is being trained."""
    if decision.rung is not None:
        return decision.rung
    at_s = decision.elapsed_s or 0.0
    before = [stretch.rung for stretch in series.stretches if stretch.begin_s <= at_s]
    after = [stretch.rung for stretch in series.stretches]
    return (before[-1:] or after[:1] or [""])[0]


def _wrapped(text: str) -> str:
    """Lines of about 60 letters, for the small window over a point."""
    lines: list[str] = [""]
    for word in text.replace("<", "&lt;").split():
        if len(lines[-1]) + len(word) > 60:
            lines.append("")
        lines[-1] += f"{word} "
    return "<br>".join(lines)


def _add_spans(figure: go.Figure, series: RunSeries, axes: Axes) -> None:
    """Shade what has no readings and what was lost; a line where another process goes on."""
    for spans, dash in ((series.gaps, "dot"), (series.lost, "dash")):
        for begin_s, end_s in spans[:_MOST_SHAPES]:
            figure.add_shape(
                type="rect",
                x0=begin_s / axes.time_unit_s,
                x1=end_s / axes.time_unit_s,
                y0=0,
                y1=1,
                xref="x",
                yref="paper",
                layer="below",
                line={"width": 1, "dash": dash},
            )
    for at_s in series.resumed_s[:_MOST_SHAPES]:
        at = at_s / axes.time_unit_s
        figure.add_shape(
            type="line", x0=at, x1=at, y0=0, y1=1, xref="x", yref="paper", line={"width": 1.5}
        )
    for spans, text in ((series.gaps, "no readings"), (series.lost, "lost")):
        if spans and (spans[0][1] - spans[0][0]) > 0.08 * axes.time_s:
            middle = sum(spans[0]) / 2 / axes.time_unit_s
            figure.add_annotation(
                x=middle,
                y=1,
                xref="x",
                yref="paper",
                yanchor="top",
                text=text,
                showarrow=False,
            )


def _from_zero(top: float) -> list[float] | None:
    return [0, top * 1.06] if top > 0 else None


def _time_title(figure: go.Figure, axes: Axes, **where: int) -> None:
    figure.update_xaxes(title=f"time in the run ({axes.time_unit})", **where)


def spent(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Joules since the run began, with the limit and the plan."""
    if run.totals.gross_j is None or not len(series.spent_j.x):
        return None
    figure = go.Figure(layout=base(300))
    figure.add_scatter(x=series.spent_j.x / axes.time_unit_s, y=series.spent_j.y, name="spent",
                       mode="lines", hovertemplate="%{y:.4~s}J<extra></extra>")  # fmt: skip
    end = axes.time_s / axes.time_unit_s
    says = f"{run.name}: {energy_text(run.totals.gross_j)} were spent"
    planned = {check.name: check.planned for check in run.plan}
    if planned.get("energy") is not None and planned.get("time"):
        figure.add_scatter(
            x=[0, planned["time"] / axes.time_unit_s], y=[0, planned["energy"]],
            name="planned", mode="lines+markers", line={"dash": "dot"},
            marker={"symbol": "circle-open", "size": 9},
        )  # fmt: skip
        says += f", {energy_text(planned['energy'])} were planned"
    for use in run.budget:
        if use.limit == "energy":
            figure.add_scatter(x=[0, end], y=[use.allowed, use.allowed], name="limit",
                               mode="lines", line={"dash": "dash"})  # fmt: skip
            says += f", {energy_text(use.allowed)} were allowed"
    figure.update_yaxes(title="J", rangemode="tozero", tickformat="~s")
    figure.update_xaxes(range=[0, max(end, (planned.get("time") or 0) / axes.time_unit_s)])
    _time_title(figure, axes)
    return Drawing(key="spent", figure=figure, says=says + ".")


def step_energy(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Joules per step over time."""
    line = series.step_j
    if not len(line.x):
        return None
    figure = go.Figure(layout=base(260))
    figure.add_scatter(x=line.x / axes.time_unit_s, y=line.y, mode="lines+markers",
                       name="J per step", line={"shape": "hvh", "width": 1.2},
                       marker={"size": 4}, hovertemplate="%{y:.3~g} J per step<extra></extra>")  # fmt: skip
    figure.update_yaxes(title="J per step", range=_from_zero(axes.step_j))
    figure.update_xaxes(range=[0, axes.time_s / axes.time_unit_s])
    _time_title(figure, axes)
    low, high = _ends(line)
    says = (
        f"{run.name}: energy of a step, means over at least 2 s, from {energy_text(low)} to "
        f"{energy_text(high)}."
    )
    return Drawing(key="step-energy", figure=figure, says=says)


def memory(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Resident memory, its peak and its limit."""
    line = series.rss_bytes
    if not len(line.x) or run.totals.peak_bytes is None:
        return None
    mib, end = 1 << 20, axes.time_s / axes.time_unit_s
    figure = go.Figure(layout=base(280))
    levels = [("peak", run.totals.peak_bytes, "dot")]
    levels += [("limit", use.allowed, "dash") for use in run.budget if use.limit == "memory"]
    figure.add_scatter(x=line.x / axes.time_unit_s, y=line.y / mib, name="resident",
                       mode="lines", hovertemplate="%{y:.1f} MiB<extra></extra>")  # fmt: skip
    for name, value, dash in levels:
        figure.add_scatter(x=[0, end], y=[value / mib] * 2, name=name, mode="lines",
                           line={"dash": dash})  # fmt: skip
    figure.update_yaxes(title="MiB", range=_from_zero(axes.bytes_ / mib))
    figure.update_xaxes(range=[0, end])
    _time_title(figure, axes)
    says = f"{run.name}: at most {bytes_text(run.totals.peak_bytes)} resident"
    for name, value, _ in levels[1:]:
        says += f", {name} {bytes_text(value)}"
    return Drawing(key="memory", figure=figure, says=says + ".")


def heat(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Temperature, and clocks below."""
    rows: list[tuple[str, list[tuple[str, Line, float]]]] = []
    if len(series.temperature_c.x):
        rows.append(("C", [("temperature", series.temperature_c, 1.0)]))
    if series.clocks_hz:
        clocks = [(f"{name} clock", line, 1e9) for name, line in series.clocks_hz.items()]
        rows.append(("GHz", clocks))
    if not rows:
        return None
    figure = make_subplots(rows=len(rows), shared_xaxes=True, vertical_spacing=0.07)
    figure.update_layout(base(160 + 120 * len(rows)))
    for row, (unit, lines) in enumerate(rows, start=1):
        for index, (name, line, scale) in enumerate(lines):
            trace = go.Scatter(x=line.x / axes.time_unit_s, y=line.y / scale, name=name,
                               mode="lines", line={"dash": DASHES[index]})  # fmt: skip
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title=unit, row=row, col=1)
        if unit == "GHz":
            figure.update_yaxes(rangemode="tozero", row=row, col=1)
    _add_limit(figure, run, axes, bool(len(series.temperature_c.x)))
    figure.update_xaxes(range=[0, axes.time_s / axes.time_unit_s])
    _time_title(figure, axes, row=len(rows), col=1)
    peak, throttled = run.totals.peak_temperature_c, run.totals.throttled
    says = f"{run.name}: "
    says += "temperature is unknown" if peak is None else f"{peak:.1f} C at most"
    known = {
        None: "whether it was throttled is unknown",
        True: "throttled",
        False: "not throttled",
    }
    return Drawing(key="heat", figure=figure, says=f"{says}; {known[throttled]}.")


def _add_limit(figure: go.Figure, run: RunSummary, axes: Axes, has_temperature: bool) -> None:
    allowed = [use.allowed for use in run.budget if use.limit == "temperature"]
    if allowed and has_temperature:
        end = axes.time_s / axes.time_unit_s
        trace = go.Scatter(x=[0, end], y=allowed * 2, name="limit", mode="lines",
                           line={"dash": "dash"})  # fmt: skip
        figure.add_trace(trace, row=1, col=1)


def learning(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Loss, and below the keep-ratio that was trained and the one that was planned."""
    if not len(series.loss.x):
        return None
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.07
    )
    figure.update_layout(base(360))
    loss = go.Scatter(x=series.loss.x, y=series.loss.y, name="loss", mode="lines",
                      line={"width": 1.2}, hovertemplate="%{y:.4f}, step %{x}<extra></extra>")  # fmt: skip
    figure.add_trace(loss, row=1, col=1)
    x = [step for s in series.stretches for step in (s.first_step, s.last_step)]
    y = [s.keep_ratio for s in series.stretches for _ in range(2)]
    kept = go.Scatter(
        x=x, y=y, name="keep-ratio", mode="lines", line={"shape": "hv", "width": 3}
    )
    figure.add_trace(kept, row=2, col=1)
    _add_planned(figure, run)
    low, high = axes.loss
    figure.update_yaxes(title="loss", range=[low - 0.03 * (high - low), high + 0.03 * (high - low)],
                        row=1, col=1)  # fmt: skip
    figure.update_yaxes(title="keep", range=[0, 1.1], row=2, col=1)
    figure.update_xaxes(range=[0, axes.steps])
    figure.update_xaxes(title="step", row=2, col=1)
    totals = run.totals
    says = f"{run.name}: loss from {totals.first_loss:.4f} at the first step to a mean of "
    says += f"{totals.last_loss:.4f} over the last epoch's steps."
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


OVER_TIME: tuple[Callable[[RunSummary, RunSeries, Axes], Drawing | None], ...] = (
    power, spent, step_energy, memory, heat, learning,
)  # fmt: skip
