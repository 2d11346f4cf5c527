"""The figures of a page that show one run over its time or its steps."""

import textwrap
from collections.abc import Sequence
from typing import Any

from edge_runtime.report.page.plots import (
    DASHES,
    MIB,
    Figure,
    Panel,
    TimeAxis,
    Trace,
    level,
    trace,
    with_margin,
)
from edge_runtime.report.summary.model import EventRow, RunSummary
from edge_runtime.report.summary.series import RunSeries, Span
from edge_runtime.units import bytes_text, duration_text, energy_text, power_text

_SYMBOLS = {  # of events
    "rung_changed": "diamond",
    "planned": "circle",
    "paused": "square",
    "sensor_lost": "x",
    "sensor_back": "cross",
    "resumed": "triangle-right",
    "interrupted": "hourglass",
    "diverged": "star",
}
_MOST_SPANS = 200  # that are shaded; of more only the sum is given
_NAMED_SHARE = 0.22  # of the width: a shaded span that wide has its name in it


def _allowed(run: RunSummary, limit: str) -> list[float]:
    """That limit of the budget, if there is one."""
    return [use.allowed for use in run.budget if use.limit == limit]


def power(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Power per rail, and below on the same axis rungs, decisions and gaps."""
    if not run.metering.known_samples:
        return None
    hover = f"%{{y:.2f}} W, %{{x:.3~g}} {time.unit}"
    lines = []
    for index, (name, (x, y)) in enumerate(series.power_w.items()):
        style = {"dash": DASHES[index % len(DASHES)], "width": 1.2 if index else 2}
        lines.append(trace(time.at(x), y, name, line=style, hovertemplate=hover))
    trained = [rung.rung for rung in reversed(run.rungs) if rung.steps]
    rung_axis = {"type": "category", "categoryorder": "array", "categoryarray": trained}
    panels = [
        Panel("W", lines, height=0.74),
        Panel("", [_rungs(series, time), *_events(run, series, time)], None, 0.26, rung_axis),
    ]
    shapes, names = _shaded(series.gaps, "no readings", time)
    lost_shapes, lost_names = _shaded(series.lost, "lost", time)
    resumed = [
        _shape("line", time.at(at_s), time.at(at_s), line={"width": 1.5})
        for at_s in series.resumed_s[:_MOST_SPANS]
    ]
    layout = {"shapes": shapes + lost_shapes + resumed, "annotations": names + lost_names}
    caption = _power_caption(run, series)
    return Figure("power", caption, 420, time.title, time.end, panels, layout)


def _power_caption(run: RunSummary, series: RunSeries) -> str:
    what = "Estimated power" if run.energy_is_estimate else "Power"
    caption = f"{what} of the board over {duration_text(run.totals.time_s)}"
    if run.totals.mean_w is not None:
        caption += f", {power_text(run.totals.mean_w)} on average"
    if run.totals.peak_w is not None:
        caption += f", {power_text(run.totals.peak_w)} at most"
    if series.gaps:
        caption += "; without readings where it is shaded"
    if series.lost:
        caption += "; work that was lost is shaded"
    if series.resumed_s:
        caption += "; at a vertical line a later process went on"
    return f"{caption}."


def _rungs(series: RunSeries, time: TimeAxis) -> Trace:
    """A bar for every segment of steps, on the row of its rung."""
    x: list[float | None] = []
    y: list[str | None] = []
    for segment in series.segments:
        x += [time.at(segment.begin_s), time.at(segment.end_s), None]
        y += [segment.rung, segment.rung, None]
    hover = "rung %{y}<extra></extra>"
    return trace(x, y, "rung", line={"width": 9}, showlegend=False, hovertemplate=hover)


def _events(run: RunSummary, series: RunSeries, time: TimeAxis) -> list[Trace]:
    traces = []
    for kind, symbol in _SYMBOLS.items():
        rows = [row for row in run.decisions if row.kind == kind and row.elapsed_s is not None]
        if rows:
            symbols = trace(
                [time.at(row.elapsed_s) for row in rows],
                [_rung_at(row, series) for row in rows],
                kind.replace("_", " "),
                mode="markers",
                marker={"symbol": symbol, "size": 11, "line": {"width": 1.5}},
                text=[_wrapped(row.text) for row in rows],
                hovertemplate="%{text}<extra></extra>",
            )
            traces.append(symbols)
    return traces


def _rung_at(row: EventRow, series: RunSeries) -> str:
    """The rung that it is about, or the one that was being trained."""
    if row.rung is not None:
        return row.rung
    at_s, rungs = row.elapsed_s or 0.0, [segment.rung for segment in series.segments]
    before = [segment.rung for segment in series.segments if segment.begin_s <= at_s]
    return (before[-1:] or rungs[:1] or [""])[0]


def _wrapped(text: str) -> str:
    """Lines of at most 60 letters, for the small window over a point; plotly reads HTML."""
    return "<br>".join(textwrap.wrap(text.replace("<", "&lt;"), 60))


def _shaded(
    spans: Sequence[Span], name: str, time: TimeAxis
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Spans of time over all panels, and the names of the wide ones."""
    shapes, names = [], []
    for begin_s, end_s in spans[:_MOST_SPANS]:
        begin, end = time.at(begin_s), time.at(end_s)
        line = {"width": 1, "dash": "dot"}
        shapes.append(_shape("rect", begin, end, line=line, layer="below"))
        if end - begin > _NAMED_SHARE * time.end:
            place = {"x": (begin + end) / 2, "y": 1, "yref": "paper", "yanchor": "top"}
            names.append({**place, "text": name, "showarrow": False})
    return shapes, names


def _shape(kind: str, begin: float, end: float, **more: Any) -> dict[str, Any]:
    """As high as the figure."""
    return {"type": kind, "x0": begin, "x1": end, "y0": 0, "y1": 1, "yref": "paper", **more}


def spent(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Joules since the run began, with the limit and the plan."""
    if run.totals.gross_j is None or not len(series.spent_j.x):
        return None
    x, y = series.spent_j
    traces = [trace(time.at(x), y, "spent", hovertemplate="%{y:.4~s}J<extra></extra>")]
    caption = f"Spent: {energy_text(run.totals.gross_j)}"
    planned = {row.name: row.planned for row in run.plan}
    end = time.at(planned.get("time") or 0.0)
    if (planned_j := planned.get("energy")) is not None:
        style = {"line": {"dash": "dot"}, "marker": {"symbol": "circle-open", "size": 9}}
        traces.append(
            trace([0, end], [0, planned_j], "planned", mode="lines+markers", **style)
        )
        caption += f", planned: {energy_text(planned_j)}"
    for allowed_j in _allowed(run, "energy"):
        traces.append(level(allowed_j, time, "limit", "dash"))
        caption += f", allowed: {energy_text(allowed_j)}"
    panels = [Panel("J", traces, y_axis={"tickformat": "~s"})]
    end = 1.02 * max(time.end, end)
    return Figure("spent", f"{caption}.", 300, time.title, end, panels)


def step_energy(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Joules per step over time."""
    x, y = series.step_j
    if not len(x):
        return None
    means = trace(
        time.at(x),
        y,
        "J per step",
        mode="lines+markers",
        line={"shape": "hvh", "width": 1.2},
        marker={"size": 4},
        hovertemplate="%{y:.3~g} J per step<extra></extra>",
    )
    ends = f"from {energy_text(float(y.min()))} to {energy_text(float(y.max()))}"
    caption = f"Energy of a step, means over at least 2 s, {ends}."
    panels = [Panel("J per step", [means])]
    return Figure("step-energy", caption, 260, time.title, time.end, panels)


def memory(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Resident memory, its peak and its limit."""
    (x, y), peak_bytes = series.rss_bytes, run.totals.peak_bytes
    if not len(x) or peak_bytes is None:
        return None
    traces = [
        trace(time.at(x), y / MIB, "resident", hovertemplate="%{y:.1f} MiB<extra></extra>"),
        level(peak_bytes / MIB, time, "peak", "dot"),
    ]
    caption = f"At most {bytes_text(peak_bytes)} resident"
    for allowed_bytes in _allowed(run, "memory"):
        traces.append(level(allowed_bytes / MIB, time, "limit", "dash"))
        caption += f", limit {bytes_text(allowed_bytes)}"
    panels = [Panel("MiB", traces)]
    return Figure("memory", f"{caption}.", 280, time.title, time.end, panels)


def heat(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Temperature, and clocks below."""
    panels = []
    if len(series.temperature_c.x):
        x, y = series.temperature_c
        traces = [trace(time.at(x), y, "temperature", line={"dash": DASHES[0]})]
        traces += [level(c, time, "limit", "dash") for c in _allowed(run, "temperature")]
        panels.append(Panel("C", traces, with_margin))
    if series.clocks_hz:
        clocks = [
            trace(time.at(x), y / 1e9, f"{name} clock", line={"dash": dash})
            for dash, (name, (x, y)) in zip(DASHES, series.clocks_hz.items(), strict=False)
        ]
        panels.append(Panel("GHz", clocks))
    if not panels:
        return None
    peak_c, throttled = run.totals.peak_temperature_c, run.totals.throttled
    caption = "Temperature is unknown" if peak_c is None else f"{peak_c:.1f} C at most"
    if throttled is None:
        caption += "; whether the board was throttled is unknown."
    else:
        caption += f"; the board was {'' if throttled else 'not '}throttled."
    return Figure("heat", caption, 170 + 110 * len(panels), time.title, time.end, panels)


def learning(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Loss by step, and below the keep-ratios that were trained and planned."""
    if not len(series.loss.x):
        return None
    hover = "%{y:.4f}, step %{x}<extra></extra>"
    losses = trace(*series.loss, "loss", line={"width": 1.2}, hovertemplate=hover)
    trained = trace(
        [step for each in series.segments for step in (each.first_step, each.last_step)],
        [each.keep_ratio for each in series.segments for _ in range(2)],
        "keep-ratio",
        line={"shape": "hv", "width": 3},
    )
    ratios = [trained, *_planned_ratios(run)]
    panels = [
        Panel("loss", [losses], with_margin, 0.68),
        Panel("keep", ratios, None, 0.32, {"range": [0, 1.1]}),
    ]
    first, last = (
        "unknown" if loss is None else f"{loss:.4f}"
        for loss in (run.totals.first_loss, run.totals.last_loss)
    )
    caption = (
        f"Loss from {first} at the first step to a mean of {last} over the last epoch's steps."
    )
    return Figure("learning", caption, 360, "step", run.totals.steps, panels)


def _planned_ratios(run: RunSummary) -> list[Trace]:
    """The keep-ratios of the first plan, in its order."""
    ratios = {f"steps on {rung.rung}": rung.keep_ratio for rung in run.rungs}
    x: list[float] = []
    y: list[float] = []
    for row in run.plan:
        ratio = ratios.get(row.name)
        if row.planned and ratio is not None:
            begin = x[-1] if x else 0.0
            x, y = [*x, begin, begin + row.planned], [*y, ratio, ratio]
    return [trace(x, y, "planned", line={"dash": "dot"})] if x else []
