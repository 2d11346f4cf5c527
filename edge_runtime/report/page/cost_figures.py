"""The figures of a page that show all runs in one: stages, and what rungs cost."""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NamedTuple

from edge_runtime.report.page.numbers import short_time_text
from edge_runtime.report.page.plots import MIB, Figure, Panel, Trace, trace
from edge_runtime.report.summary.model import RungUse, RunSummary, StageUse
from edge_runtime.report.summary.unknown import ratio
from edge_runtime.units import bytes_text, energy_text

_PATTERNS = ("", "/", "x", "-", ".")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")


class _Cost(NamedTuple):
    """What rungs are compared by, beside the time of an image."""

    title: str
    field: str  # of a `RungUse`, in the run
    profile_field: str  # of a whole step
    scale: float
    text: Callable[[float], str]


_COSTS = (
    _Cost("mJ per image", "energy_per_image_j", "profile_step_j", 1e3, energy_text),
    _Cost("MiB", "peak_bytes", "profile_peak_bytes", 1 / MIB, bytes_text),
)


def stages(runs: Sequence[RunSummary]) -> Figure | None:
    """Energy of every stage, with the idle board's share; time where energy is unknown."""
    is_energy = all(run.totals.gross_j is not None for run in runs)
    bars, captions, count = [], [], 0
    for run, shape in zip(runs, cycle(_PATTERNS), strict=False):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        rows = [stage for stage in run.stages if stage.time_s > 0]
        names = [row.stage for row in reversed(rows)]
        y = [[run.name] * len(rows), names] if prefix else names
        bars += [
            _bar(prefix + name, x, y, pattern, "J" if is_energy else "s")
            for name, pattern, x in _parts(rows[::-1], shape, is_energy)
        ]
        captions.append(prefix + _stages_caption(rows, is_energy))
        count += len(rows)
    if not count:
        return None
    panel = Panel("", bars, None)
    layout = {"barmode": "stack", "xaxis": {"tickformat": "~s", "rangemode": "tozero"}}
    unit, height_px = "J" if is_energy else "s", 110 + 34 * count
    return Figure("stages", "", " ".join(captions), height_px, unit, None, [panel], layout)


def _parts(
    rows: Sequence[StageUse], shape: str, is_energy: bool
) -> list[tuple[str, str, list[float]]]:
    """What the bars of a run are stacked of: name, pattern, and a length per stage."""
    if not is_energy:
        return [("time", shape, [row.time_s for row in rows])]
    if any(row.net_j is None for row in rows):
        return [("gross", shape, [row.gross_j or 0.0 for row in rows])]
    # A stage that took less than the idle board has nothing above it.
    idle = [min(row.idle_j or 0.0, row.gross_j or 0.0) for row in rows]
    above = [max(row.net_j or 0.0, 0.0) for row in rows]
    return [("idle board", "/", idle), ("above idle", "", above)]


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


def _stages_caption(rows: Sequence[StageUse], is_energy: bool) -> str:
    values = {row.stage: row.gross_j if is_energy else row.time_s for row in rows}
    known = {stage: value for stage, value in values.items() if value and value > 0}
    whole = sum(known.values())
    shares = [f"{stage} {100 * value / whole:.0f} %" for stage, value in known.items()]
    return f"{'Energy' if is_energy else 'Time'} by stage: {', '.join(shares)}."


def rung_costs(runs: Sequence[RunSummary]) -> list[Figure | None]:
    """Energy over time of an image, and memory over time, of every rung."""
    return [_costs(runs, cost) for cost in _COSTS]


def _costs(runs: Sequence[RunSummary], cost: _Cost) -> Figure | None:
    traces, captions = [], []
    for run, symbol in zip(runs, cycle(_SYMBOLS), strict=False):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        in_run = [
            (each, each.seconds_per_image, getattr(each, cost.field)) for each in run.rungs
        ]
        profiled = [(each, *_in_profile(each, cost, run)) for each in run.rungs]
        traces += _points(f"{prefix}run", in_run, cost, symbol)
        traces += _points(f"{prefix}cost profile", profiled, cost, symbol, dot="-dot")
        if caption := _costs_caption(run, cost):
            captions.append(prefix + caption)
    if not traces:
        return None
    x_end = 1.15 * max(max(each["x"]) for each in traces)
    panel = Panel(cost.title, traces, lambda low, high: [0, 1.2 * high])
    return Figure("rungs", "", " ".join(captions), 340, "ms per image", x_end, [panel])


def _in_profile(
    rung: RungUse, cost: _Cost, run: RunSummary
) -> tuple[float | None, float | None]:
    value, images = getattr(rung, cost.profile_field), run.trained.batch_size
    is_of_step = cost.profile_field.endswith("_j")
    return ratio(rung.profile_step_s, images), ratio(value, images) if is_of_step else value


def _points(
    name: str,
    costs: Sequence[tuple[RungUse, float | None, float | None]],
    cost: _Cost,
    symbol: str,
    dot: str = "",
) -> list[Trace]:
    """Those that are known. A hollow symbol is a rung that another one dominates."""
    known = [
        (rung, 1e3 * time_s, cost.scale * value)
        for rung, time_s, value in costs
        if time_s and value is not None
    ]
    if not known:
        return []
    rungs, x, y = zip(*known, strict=True)
    style = {"mode": "markers+text", "textposition": "bottom right" if dot else "top left"}
    symbols = [symbol + "-open" * bool(rung.dominated_by) + dot for rung in rungs]
    points = trace(
        x,
        y,
        name,
        **style,
        text=[rung.rung for rung in rungs],
        marker={"size": 13, "line": {"width": 2}, "symbol": symbols},
        hovertemplate="%{text}: %{x:.3~g} ms, %{y:.4~g}<extra></extra>",
    )
    return [points]


def _costs_caption(run: RunSummary, cost: _Cost) -> str:
    parts = []
    for rung in run.rungs:
        if rung.seconds_per_image:
            value = getattr(rung, cost.field)
            text = f"{rung.rung} {short_time_text(rung.seconds_per_image)}"
            text += "" if value is None else f" and {cost.text(value)}"
            text += f" (no better than {rung.dominated_by})" if rung.dominated_by else ""
            parts.append(text)
    return f"Cost of a picture: {', '.join(parts)}." if parts else ""
