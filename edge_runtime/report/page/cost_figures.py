"""The figures of a page that show all runs in one: stages, and what rungs cost."""

from collections.abc import Collection, Sequence
from itertools import cycle
from typing import NamedTuple

from edge_runtime.report.page.plots import MIB, Figure, Panel, Trace, trace
from edge_runtime.report.summary.model import RungUse, RunSummary, StageUse
from edge_runtime.report.summary.unknown import ratio

_PATTERNS = ("", "/", "x", "-", ".")
_SIDES = ("bottom center", "top center")  # of a point: where its name stands
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")


class _Cost(NamedTuple):
    """What rungs are compared by, beside the time of an image."""

    section: str
    title: str
    field: str  # of a `RungUse`, in the run
    profile_field: str  # of a whole step
    scale: float


_COSTS = (
    _Cost("rung-energy", "mJ per image", "energy_per_image_j", "profile_step_j", 1e3),
    _Cost("rung-memory", "MiB", "peak_bytes", "profile_peak_bytes", 1 / MIB),
)


def stages(runs: Sequence[RunSummary]) -> Figure | None:
    """Energy of every stage, with the idle board's share; time where energy is unknown."""
    unit = "J" if all(run.totals.gross_j is not None for run in runs) else "s"
    bars, count = [], 0
    for run, shape in zip(runs, cycle(_PATTERNS), strict=False):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        rows = [stage for stage in reversed(run.stages) if stage.time_s > 0]
        names = [row.stage for row in rows]
        y = [[run.name] * len(rows), names] if prefix else names
        parts = _parts(rows, shape, unit)
        bars += [_bar(prefix + name, x, y, pattern, unit) for name, pattern, x in parts]
        count += len(rows)
    layout = {"barmode": "stack", "xaxis": {"tickformat": "~s", "rangemode": "tozero"}}
    panels = [Panel("", bars, None)]
    return (
        Figure("stages", "", 110 + 34 * count, unit, None, panels, layout) if count else None
    )


def _parts(
    rows: Sequence[StageUse], shape: str, unit: str
) -> list[tuple[str, str, list[float]]]:
    """What the bars of a run are stacked of: name, pattern, and a length per stage."""
    if unit == "s":
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


def rung_costs(runs: Sequence[RunSummary]) -> list[Figure | None]:
    """Energy over time of an image, and memory over time, of every rung."""
    return [_costs(runs, cost) for cost in _COSTS]


def _costs(runs: Sequence[RunSummary], cost: _Cost) -> Figure | None:
    traces = []
    for run, symbol in zip(runs, cycle(_SYMBOLS), strict=False):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        in_run = [
            (each, each.seconds_per_image, getattr(each, cost.field)) for each in run.rungs
        ]
        profiled = [(each, *_in_profile(each, cost, run)) for each in run.rungs]
        named = [each.rung for each, time_s, value in in_run if time_s and value is not None]
        traces += _points(f"{prefix}run", in_run, cost, symbol)
        traces += _points(f"{prefix}cost profile", profiled, cost, symbol, "-dot", named)
    if not traces:
        return None
    x_end = 1.15 * max(max(each["x"]) for each in traces)
    panel = Panel(cost.title, traces, lambda low, high: [0, 1.2 * high])
    return Figure(cost.section, "", 340, "ms per image", x_end, [panel])


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
    named: Collection[str] = (),
) -> list[Trace]:
    """Those that are known. A hollow symbol is a rung that another one dominates.

    Args:
        name: of the points together.
        costs: rungs with seconds of an image, and the other cost.
        cost: which that is.
        symbol: of the run.
        dot: added to the symbol.
        named: rungs whose names stand at other points.
    """
    known = [
        (rung, 1e3 * time_s, cost.scale * value)
        for rung, time_s, value in costs
        if time_s and value is not None
    ]
    if not known:
        return []
    rungs, x, y = zip(*known, strict=True)
    # Below and above in turn, the cheapest first: names of near points stay apart.
    by_cost = sorted(range(len(x)), key=lambda place: (x[place], y[place]))
    sides = {place: _SIDES[rank % 2] for rank, place in enumerate(by_cost)}
    symbols = [symbol + "-open" * bool(rung.dominated_by) + dot for rung in rungs]
    points = trace(
        x,
        y,
        name,
        mode="markers+text",
        textposition=[sides[place] for place in range(len(x))],
        text=[rung.rung if rung.rung not in named else "" for rung in rungs],
        customdata=[rung.rung for rung in rungs],
        marker={"size": 13, "line": {"width": 2}, "symbol": symbols},
        hovertemplate="%{customdata}: %{x:.3~g} ms, %{y:.4~g}<extra></extra>",
    )
    return [points]
