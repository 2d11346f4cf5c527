"""The figure of power: watts by rail; on the same axis rungs, decisions, gaps, lost work."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from edge_runtime.report.figures import (
    DASHES,
    Axes,
    Drawing,
    base,
    from_zero,
    line_of,
    name_time,
)
from edge_runtime.report.series import Line, RunSeries, Span
from edge_runtime.report.summary import Decision, RunSummary
from edge_runtime.units import duration_text, power_text

_SYMBOLS = {  # event -> symbol and name
    "rung_changed": ("diamond", "rung changed"),
    "planned": ("circle", "planned"),
    "paused": ("square", "paused"),
    "sensor_lost": ("x", "sensor lost"),
    "sensor_back": ("cross", "sensor back"),
    "resumed": ("triangle-right", "resumed"),
    "interrupted": ("hourglass", "interrupted"),
    "diverged": ("star", "diverged"),
}
_MOST_SPANS = 200  # that are shaded; of more only the sum is told
_NAMED_SHARE = 0.22  # of the width: a shaded span that wide has its name in it


def power(run: RunSummary, series: RunSeries, axes: Axes) -> Drawing | None:
    """Power per rail, and below on the same axis rungs, decisions and gaps."""
    if not run.metering.known_samples:
        return None
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.05
    )
    figure.update_layout(base(420))
    for index, (name, line) in enumerate(_lines(series).items()):
        style = {"dash": DASHES[index % len(DASHES)], "width": 1.2 if index else 2}
        hover = f"%{{y:.2f}} W, %{{x:.3~g}} {axes.time_unit}"
        trace = line_of(line, axes, name, line=style, hovertemplate=hover)
        figure.add_trace(trace, row=1, col=1)
    _add_rungs(figure, run, series, axes)
    _add_decisions(figure, run, series, axes)
    _add_spans(figure, series.gaps, "no readings", axes)
    _add_spans(figure, series.lost, "lost", axes)
    for begin_s in series.resumed_s[:_MOST_SPANS]:
        at = begin_s / axes.time_unit_s
        figure.add_shape(
            type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line={"width": 1.5}
        )
    figure.update_yaxes(title="W", range=from_zero(axes.power_w), row=1, col=1)
    name_time(figure, axes, rows=2)
    return Drawing(key="power", figure=figure, says=_says(run, series))


def _says(run: RunSummary, series: RunSeries) -> str:
    what = "Estimated power" if run.energy_is_estimate else "Power"
    parts = [f"{what} of the board over {duration_text(run.totals.time_s)}"]
    if run.totals.mean_w is not None:
        parts.append(f"{power_text(run.totals.mean_w)} on average")
    if run.totals.peak_w is not None:
        parts.append(f"{power_text(run.totals.peak_w)} at most")
    says = ", ".join(parts)
    if series.gaps:
        says += "; without readings where it is shaded"
    if series.lost:
        says += "; work that was lost is shaded"
    if series.resumed_s:
        says += "; at a vertical line a later process went on"
    return f"{says}."


def _lines(series: RunSeries) -> dict[str, Line]:
    """The total, and the rails that are not the same line once more."""
    total = series.total_w
    rails = {
        rail: line
        for rail, line in series.rails_w.items()
        if not np.array_equal(line.y, total.y, equal_nan=True)
    }
    return {"total": total, **rails}


def _add_rungs(figure: go.Figure, run: RunSummary, series: RunSeries, axes: Axes) -> None:
    """A bar for every stretch of steps, on the row of its rung."""
    x: list[float | None] = []
    y: list[str | None] = []
    for stretch in series.stretches:
        x += [stretch.begin_s / axes.time_unit_s, stretch.end_s / axes.time_unit_s, None]
        y += [stretch.rung, stretch.rung, None]
    bars = go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name="rung",
        line={"width": 9},
        showlegend=False,
        hovertemplate="rung %{y}<extra></extra>",
    )
    figure.add_trace(bars, row=2, col=1)
    names = [rung.rung for rung in reversed(run.rungs) if rung.steps]
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, row=2, col=1
    )


def _add_decisions(figure: go.Figure, run: RunSummary, series: RunSeries, axes: Axes) -> None:
    for kind, (symbol, label) in _SYMBOLS.items():
        found = [
            (decision, decision.elapsed_s / axes.time_unit_s)
            for decision in run.decisions
            if decision.kind == kind and decision.elapsed_s is not None
        ]
        if not found:
            continue
        marks = go.Scatter(
            x=[at for _, at in found],
            y=[_row_of(decision, series) for decision, _ in found],
            mode="markers",
            name=label,
            marker={"symbol": symbol, "size": 11, "line": {"width": 1.5}},
            text=[_wrapped(f"{label}: {decision.text}") for decision, _ in found],
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(marks, row=2, col=1)


def _row_of(decision: Decision, series: RunSeries) -> str:
    """The rung that it is about, or the one that was being trained."""
    if decision.rung is not None:
        return decision.rung
    at_s = decision.elapsed_s or 0.0
    before = [stretch.rung for stretch in series.stretches if stretch.begin_s <= at_s]
    after = [stretch.rung for stretch in series.stretches]
    return (before[-1:] or after[:1] or [""])[0]


def _wrapped(text: str) -> str:
    """Lines of about 60 letters, for the small window over a point."""
    lines = [""]
    for word in text.replace("<", "&lt;").split():
        if len(lines[-1]) + len(word) > 60:
            lines.append("")
        lines[-1] += f"{word} "
    return "<br>".join(lines)


def _add_spans(figure: go.Figure, spans: tuple[Span, ...], name: str, axes: Axes) -> None:
    for begin_s, end_s in spans[:_MOST_SPANS]:
        begin, end = begin_s / axes.time_unit_s, end_s / axes.time_unit_s
        figure.add_shape(
            type="rect",
            x0=begin,
            x1=end,
            y0=0,
            y1=1,
            yref="paper",
            layer="below",
            line={"width": 1, "dash": "dot"},
        )
        if end - begin > _NAMED_SHARE * axes.end:
            figure.add_annotation(
                x=(begin + end) / 2,
                y=1,
                yref="paper",
                yanchor="top",
                text=name,
                showarrow=False,
            )
