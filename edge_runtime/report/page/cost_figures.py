"""The figures of a page that show all runs in one: stages, and what rungs cost."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from edge_runtime.report.page.numbers import short_time_text
from edge_runtime.report.page.plots import MIB, Trace, base, trace
from edge_runtime.report.summary import RunSummary
from edge_runtime.units import bytes_text, energy_text

_PATTERNS = ("", "/", "x", "-", ".")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")


class CostFigure(NamedTuple):
    """One figure of all runs."""

    section: str
    name: str
    caption: str
    figure: go.Figure


def stages(runs: Sequence[RunSummary]) -> list[CostFigure]:
    """Energy of every stage, with the idle board's share; time where energy is unknown."""
    is_energy = all(run.totals.gross_j is not None for run in runs)
    count = sum(stage.time_s > 0 for run in runs for stage in run.stages)
    if not count:
        return []
    bars, captions, unit = [], [], "J" if is_energy else "s"
    for run, shape in zip(runs, _cycled(_PATTERNS, runs), strict=True):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        rows = [stage for stage in reversed(run.stages) if stage.time_s > 0]
        names = [row.stage for row in rows]
        y = [[run.name] * len(rows), names] if prefix else names
        if not is_energy:
            parts = [("time", shape, [row.time_s for row in rows])]
        elif all(row.net_j is not None for row in rows):
            # A stage that took less than the idle board has nothing above it.
            idle = [min(row.idle_j or 0.0, row.gross_j or 0.0) for row in rows]
            above = [max(row.net_j or 0.0, 0.0) for row in rows]
            parts = [("idle board", "/", idle), ("above idle", "", above)]
        else:
            parts = [("gross", shape, [row.gross_j or 0.0 for row in rows])]
        bars += [_bar(prefix + name, x, y, pattern, unit) for name, pattern, x in parts]
        captions.append(prefix + _stages_caption(run, is_energy))
    figure = go.Figure(bars, base(110 + 34 * count, barmode="stack"))
    figure.update_xaxes(title=unit, tickformat="~s", rangemode="tozero")
    return [CostFigure("stages", "stages", " ".join(captions), figure)]


def _cycled(values: Sequence[str], runs: Sequence[RunSummary]) -> list[str]:
    return [values[index % len(values)] for index in range(len(runs))]


def _bar(name: str, x: list[float], y: object, shape: str, unit: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": x,
        "y": y,
        "marker": {"pattern": {"shape": shape, "size": 6, "solidity": 0.35}},
        "hovertemplate": f"{name}: %{{x:.4~s}}{unit}<extra></extra>",
    }


def _stages_caption(run: RunSummary, is_energy: bool) -> str:
    values = {each.stage: each.gross_j if is_energy else each.time_s for each in run.stages}
    known = {stage: value for stage, value in values.items() if value}
    whole = sum(known.values())
    shares = [
        f"{stage} {100 * value / whole:.0f} %" for stage, value in known.items() if whole > 0
    ]
    return f"{'Energy' if is_energy else 'Time'} by stage: {', '.join(shares)}."


def rung_costs(runs: Sequence[RunSummary]) -> list[CostFigure]:
    """Energy over time of a picture, and memory over time, of every rung."""
    figures = []
    for key, title, scale in (
        ("energy_j", "mJ per image", 1e3),
        ("peak_bytes", "MiB", 1 / MIB),
    ):
        traces, captions = [], []
        for run, symbol in zip(runs, _cycled(_SYMBOLS, runs), strict=True):
            prefix = f"{run.name}: " if len(runs) > 1 else ""
            for name, points in {
                "run": _in_run(run),
                "cost profile": _in_profile(run),
            }.items():
                known = [point for point in points if point.time_s and getattr(point, key)]
                if known:
                    suffix = "" if name == "run" else "-dot"
                    symbols = [symbol + "-open" * p.is_dominated + suffix for p in known]
                    y = [scale * getattr(point, key) for point in known]
                    traces.append(_points(prefix + name, known, y, symbols))
            if caption := _costs_caption(run, key):
                captions.append(prefix + caption)
        if traces:
            figure = go.Figure(traces, base(340))
            x_end, y_end = (max(max(each[axis]) for each in traces) for axis in "xy")
            figure.update_xaxes(title="ms per image", range=[0, 1.15 * x_end])
            figure.update_yaxes(title=title, range=[0, 1.2 * y_end])
            figures.append(CostFigure("rungs", f"rungs-{key}", " ".join(captions), figure))
    return figures


class _Point(NamedTuple):
    """What a picture costs on a rung; `None` is unknown."""

    rung: str
    is_dominated: bool
    time_s: float | None
    energy_j: float | None
    peak_bytes: float | None


def _in_run(run: RunSummary) -> list[_Point]:
    return [
        _Point(
            rung.rung,
            rung.dominated_by is not None,
            rung.seconds_per_image,
            rung.energy_per_image_j,
            rung.peak_bytes,
        )
        for rung in run.rungs
    ]


def _in_profile(run: RunSummary) -> list[_Point]:
    images = run.trained.batch_size
    return [
        _Point(
            rung.rung,
            rung.dominated_by is not None,
            rung.profile_step_s and rung.profile_step_s / images,
            rung.profile_step_j and rung.profile_step_j / images,
            rung.profile_peak_bytes,
        )
        for rung in run.rungs
    ]


def _points(name: str, points: list[_Point], y: list[float], symbols: list[str]) -> Trace:
    """A hollow symbol is a rung that another one dominates."""
    return trace(
        [1e3 * (point.time_s or 0.0) for point in points],
        y,
        name,
        mode="markers+text",
        text=[point.rung for point in points],
        textposition="bottom right" if symbols[0].endswith("-dot") else "top left",
        marker={"size": 13, "line": {"width": 2}, "symbol": symbols},
        hovertemplate="%{text}: %{x:.3~g} ms, %{y:.4~g}<extra></extra>",
    )


def _costs_caption(run: RunSummary, key: str) -> str:
    parts = []
    for rung in run.rungs:
        if not rung.seconds_per_image:
            continue
        text = f"{rung.rung} {short_time_text(rung.seconds_per_image)}"
        if key == "peak_bytes" and rung.peak_bytes is not None:
            text += f" and {bytes_text(rung.peak_bytes)}"
        elif key == "energy_j" and rung.energy_per_image_j is not None:
            text += f" and {energy_text(rung.energy_per_image_j)}"
        if rung.dominated_by:
            text += f" (no better than {rung.dominated_by})"
        parts.append(text)
    return f"Cost of a picture: {', '.join(parts)}." if parts else ""
