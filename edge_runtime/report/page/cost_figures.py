"""The figures of a page that show all runs in one: stages, and what rungs cost."""

from collections.abc import Sequence

import plotly.graph_objects as go

from edge_runtime.report.page.numbers import short_time_text
from edge_runtime.report.page.plots import MIB, Drawn, Trace, base, trace
from edge_runtime.report.summary.model import RungUse, RunSummary
from edge_runtime.units import bytes_text, energy_text

_PATTERNS = ("", "/", "x", "-", ".")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")


def stages(runs: Sequence[RunSummary]) -> list[Drawn]:
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
    return [Drawn("stages", "plot-stages", " ".join(captions), figure.to_json())]


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
    known = {stage: value for stage, value in values.items() if value and value > 0}
    whole = sum(known.values())
    shares = [f"{stage} {100 * value / whole:.0f} %" for stage, value in known.items()]
    return f"{'Energy' if is_energy else 'Time'} by stage: {', '.join(shares)}."


def rung_costs(runs: Sequence[RunSummary]) -> list[Drawn]:
    """Energy over time of a picture, and memory over time, of every rung."""
    energy = _costs(runs, "energy_j", "mJ per image", 1e3)
    return [*energy, *_costs(runs, "peak_bytes", "MiB", 1 / MIB)]


def _costs(runs: Sequence[RunSummary], key: str, title: str, scale: float) -> list[Drawn]:
    traces, captions = [], []
    for run, symbol in zip(runs, _cycled(_SYMBOLS, runs), strict=True):
        prefix, images = f"{run.name}: " if len(runs) > 1 else "", run.trained.batch_size
        in_run = [(rung, *_in_run(rung, key)) for rung in run.rungs]
        profiled = [(rung, *_in_profile(rung, key, images)) for rung in run.rungs]
        traces += _points(f"{prefix}run", in_run, scale, symbol)
        traces += _points(f"{prefix}cost profile", profiled, scale, f"{symbol}-dot")
        if caption := _costs_caption(run, key):
            captions.append(prefix + caption)
    if not traces:
        return []
    figure = go.Figure(traces, base(340))
    x_end, y_end = (max(max(each[axis]) for each in traces) for axis in "xy")
    figure.update_xaxes(title="ms per image", range=[0, 1.15 * x_end])
    figure.update_yaxes(title=title, range=[0, 1.2 * y_end])
    return [Drawn("rungs", f"plot-rungs-{key}", " ".join(captions), figure.to_json())]


def _in_run(rung: RungUse, key: str) -> tuple[float | None, float | None]:
    """Time of a picture, and its joules or the bytes that it needs."""
    is_energy = key == "energy_j"
    return rung.seconds_per_image, rung.energy_per_image_j if is_energy else rung.peak_bytes


def _in_profile(rung: RungUse, key: str, images: int) -> tuple[float | None, float | None]:
    time_s, step_j = rung.profile_step_s, rung.profile_step_j
    picture_j = None if step_j is None else step_j / images
    cost = picture_j if key == "energy_j" else rung.profile_peak_bytes
    return None if time_s is None else time_s / images, cost


def _points(
    name: str,
    costs: Sequence[tuple[RungUse, float | None, float | None]],
    scale: float,
    symbol: str,
) -> list[Trace]:
    """Those that are known. A hollow symbol is a rung that another one dominates."""
    known = [
        (rung, 1e3 * time_s, scale * cost)
        for rung, time_s, cost in costs
        if time_s and cost is not None
    ]
    if not known:
        return []
    rungs, x, y = zip(*known, strict=True)
    shape, dot, _ = symbol.partition("-dot")
    symbols = [shape + "-open" * bool(rung.dominated_by) + dot for rung in rungs]
    points = trace(
        x,
        y,
        name,
        mode="markers+text",
        text=[rung.rung for rung in rungs],
        textposition="bottom right" if dot else "top left",
        marker={"size": 13, "line": {"width": 2}, "symbol": symbols},
        hovertemplate="%{text}: %{x:.3~g} ms, %{y:.4~g}<extra></extra>",
    )
    return [points]


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
