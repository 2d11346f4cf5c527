"""All figures of a page; those that show one run over its time or its steps are made here."""

import textwrap
from collections.abc import Sequence
from itertools import accumulate, chain, cycle, pairwise
from typing import Any

from edge_runtime.report.page.cost_figures import rung_costs, stages
from edge_runtime.report.page.plots import (
    MIB,
    Drawn,
    Figure,
    Panel,
    TimeAxis,
    Trace,
    draw,
    time_axis,
    trace,
    with_margin,
)
from edge_runtime.report.summary.model import EventRow, RunSummary
from edge_runtime.report.summary.series import RunSeries

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
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


def draw_figures(runs: Sequence[RunSummary], series: Sequence[RunSeries]) -> list[Drawn]:
    """All figures; those of runs side by side have the same axes."""
    time = time_axis(series)
    groups = [
        [make(run, one, time) for run, one in zip(runs, series, strict=True)]
        for make in (power, spent, step_energy, memory, heat, learning)
    ]
    groups += [[figure] for figure in (stages(runs), *rung_costs(runs))]
    known = [[figure for figure in group if figure] for group in groups]
    return [drawn for group in known for drawn in draw(group)]


def _allowed(run: RunSummary, limit: str) -> list[float]:
    """That limit of the budget, if there is one."""
    return [use.allowed for use in run.budget if use.limit == limit]


def power(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Power per rail, and below on the same axis rungs, decisions and gaps."""
    if not run.metering.known_samples:
        return None
    hover = f"%{{y:.2f}} W, %{{x:.3~g}} {time.unit}"
    lines = [
        time.line(
            line,
            name,
            line={"dash": dash, "width": 2 if name == "total" else 1.2},
            hovertemplate=hover,
        )
        for (name, line), dash in zip(series.power_w.items(), cycle(_DASHES), strict=False)
    ]
    trained = [rung.rung for rung in reversed(run.rungs) if rung.steps]
    rung_axis = {"type": "category", "categoryorder": "array", "categoryarray": trained}
    panels = [
        Panel("W", lines, height=0.74),
        Panel("", [_rungs(series, time), *_events(run, series, time)], None, 0.26, rung_axis),
    ]
    marks = _marks(series, time)
    return Figure("power", run.name, 420, time.title, time.end, panels, marks)


def _rungs(series: RunSeries, time: TimeAxis) -> Trace:
    """A bar for every segment of steps, on the row of its rung."""
    spans = [(time.at(each.begin_s), time.at(each.end_s), None) for each in series.segments]
    rows = [(each.rung, each.rung, None) for each in series.segments]
    x, y = list(chain.from_iterable(spans)), list(chain.from_iterable(rows))
    hover = "rung %{y}<extra></extra>"
    return trace(x, y, "rung", line={"width": 9}, showlegend=False, hovertemplate=hover)


def _events(run: RunSummary, series: RunSeries, time: TimeAxis) -> list[Trace]:
    timed = [row for row in run.decisions if row.elapsed_s is not None]
    kinds = {kind: [row for row in timed if row.kind == kind] for kind in _SYMBOLS}
    return [
        trace(
            [time.at(row.elapsed_s) for row in rows],
            [_rung_at(row, series) for row in rows],
            kind.replace("_", " "),
            mode="markers",
            marker={"symbol": _SYMBOLS[kind], "size": 11, "line": {"width": 1.5}},
            text=[_wrapped(row.text) for row in rows],
            hovertemplate="%{text}<extra></extra>",
        )
        for kind, rows in kinds.items()
        if rows
    ]


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


def _marks(series: RunSeries, time: TimeAxis) -> dict[str, Any]:
    """Shaded spans over all panels, with their names where wide; lines where a run resumed."""
    shapes, names = [], []
    for name, spans in (("no readings", series.gaps), ("lost", series.lost)):
        for begin_s, end_s in spans[:_MOST_SPANS]:
            begin, end = time.at(begin_s), time.at(end_s)
            line = {"width": 1, "dash": "dot"}
            shapes.append(_shape("rect", begin, end, line=line, layer="below"))
            if end - begin > _NAMED_SHARE * time.end:
                place = {"x": (begin + end) / 2, "y": 1, "yref": "paper", "yanchor": "top"}
                names.append({**place, "text": name, "showarrow": False})
    resumed = [time.at(at_s) for at_s in series.resumed_s[:_MOST_SPANS]]
    shapes += [_shape("line", at, at, line={"width": 1.5}) for at in resumed]
    return {"shapes": shapes, "annotations": names}


def _shape(kind: str, begin: float, end: float, **more: Any) -> dict[str, Any]:
    """As high as the figure."""
    return {"type": kind, "x0": begin, "x1": end, "y0": 0, "y1": 1, "yref": "paper", **more}


def spent(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Plan, limit and what became of them: joules, or steps where time is limited."""
    if _allowed(run, "time") and not _allowed(run, "energy"):
        return _steps_in_time(run, series, time)
    return _joules(run, series, time)


def _joules(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    if run.totals.gross_j is None or not len(series.spent_j.x):
        return None
    traces = [time.line(series.spent_j, "spent", hovertemplate="%{y:.4~s}J<extra></extra>")]
    planned = {row.name: row.planned for row in run.plan}
    end = time.at(planned.get("time") or 0.0)
    if (planned_j := planned.get("energy")) is not None:
        style = {"line": {"dash": "dot"}, "marker": {"symbol": "circle-open", "size": 9}}
        ends = ([0, end], [0, planned_j])
        traces.append(trace(*ends, "planned", mode="lines+markers", **style))
    traces += [time.level(limit_j, "limit", "dash") for limit_j in _allowed(run, "energy")]
    panels = [Panel("J", traces, y_axis={"tickformat": "~s"})]
    x_end = 1.02 * max(time.end, end)
    return Figure("spent", run.name, 300, time.title, x_end, panels)


def _steps_in_time(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    if not series.segments:
        return None
    x = [at_s for each in series.segments for at_s in (each.begin_s, each.end_s)]
    y = [step for each in series.segments for step in (each.first_step - 1, each.last_step)]
    total = run.trained.total_steps
    hover = "step %{y}<extra></extra>"
    traces = [trace([time.at(at_s) for at_s in x], y, "done", hovertemplate=hover)]
    planned_s = next((row.planned for row in run.plan if row.name == "time"), None)
    if planned_s is not None:
        ends = ([0, time.at(planned_s)], [0, total])
        traces.append(trace(*ends, "planned", line={"dash": "dot"}))
    allowed = [time.at(limit_s) for limit_s in _allowed(run, "time")]
    traces += [
        trace([limit, limit], [0, total], "limit", line={"dash": "dash"}) for limit in allowed
    ]
    x_end = 1.02 * max(time.end, *allowed, time.at(planned_s or 0.0))
    return Figure("spent", run.name, 300, time.title, x_end, [Panel("steps", traces)])


def step_energy(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Joules per step over time."""
    if not len(series.step_j.x):
        return None
    means = time.line(
        series.step_j,
        "J per step",
        mode="lines+markers",
        line={"shape": "hvh", "width": 1.2},
        marker={"size": 4},
        hovertemplate="%{y:.3~g} J per step<extra></extra>",
    )
    panels = [Panel("J per step", [means])]
    return Figure("step-energy", run.name, 260, time.title, time.end, panels)


def memory(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Resident memory, its peak and its limit."""
    rss_bytes, peak_bytes = series.rss_bytes, run.totals.peak_bytes
    if not len(rss_bytes.x) or peak_bytes is None:
        return None
    hover = "%{y:.1f} MiB<extra></extra>"
    traces = [
        time.line(rss_bytes, "resident", unit=MIB, hovertemplate=hover),
        time.level(peak_bytes / MIB, "peak", "dot"),
    ]
    traces += [time.level(each / MIB, "limit", "dash") for each in _allowed(run, "memory")]
    panels = [Panel("MiB", traces)]
    return Figure("memory", run.name, 280, time.title, time.end, panels)


def heat(run: RunSummary, series: RunSeries, time: TimeAxis) -> Figure | None:
    """Temperature, and clocks below."""
    panels = []
    if len(series.temperature_c.x):
        traces = [time.line(series.temperature_c, "temperature", line={"dash": "solid"})]
        traces += [time.level(c, "limit", "dash") for c in _allowed(run, "temperature")]
        panels.append(Panel("C", traces, with_margin))
    if series.clocks_hz:
        clocks = [
            time.line(line, f"{name} clock", unit=1e9, line={"dash": dash})
            for dash, (name, line) in zip(_DASHES, series.clocks_hz.items(), strict=False)
        ]
        panels.append(Panel("GHz", clocks))
    if not panels:
        return None
    height_px = 170 + 110 * len(panels)
    return Figure("heat", run.name, height_px, time.title, time.end, panels)


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
    return Figure("learning", run.name, 360, "step", run.totals.steps, panels)


def _planned_ratios(run: RunSummary) -> list[Trace]:
    """The keep-ratios of the first plan, in its order."""
    ratios = {f"steps on {rung.rung}": rung.keep_ratio for rung in run.rungs}
    planned = [
        (row.planned, ratios[row.name])
        for row in run.plan
        if row.planned and ratios.get(row.name) is not None
    ]
    edges = accumulate((steps for steps, _ in planned), initial=0.0)
    x = [step for span in pairwise(edges) for step in span]
    y = [ratio for _, ratio in planned for _ in range(2)]
    return [trace(x, y, "planned", line={"dash": "dot"})] if x else []
