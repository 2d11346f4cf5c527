"""The figures of a report that show all runs in one: stages, and what rungs cost."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from edge_runtime.report.figures import Drawing, base
from edge_runtime.report.html import short_time_text
from edge_runtime.report.summary import RunSummary
from edge_runtime.units import bytes_text, energy_text

_PATTERNS = ("", "/", "x", "-", ".")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")


def stages(runs: Sequence[RunSummary]) -> Drawing | None:
    """Energy of every stage, with the idle board's share; time where energy is unknown."""
    is_energy = all(run.totals.gross_j is not None for run in runs)
    bars = sum(stage.time_s > 0 for run in runs for stage in run.stages)
    if not bars:
        return None
    figure = go.Figure(layout=base(110 + 34 * bars, barmode="stack"))
    for index, run in enumerate(runs):
        rows = [stage for stage in reversed(run.stages) if stage.time_s > 0]
        names = [stage.stage for stage in rows]
        y = names if len(runs) == 1 else [[run.name] * len(rows), names]
        prefix = "" if len(runs) == 1 else f"{run.name}: "
        shape = _PATTERNS[index % len(_PATTERNS)]
        if not is_energy:
            _bar(figure, f"{prefix}time", [stage.time_s for stage in rows], y, shape, "s")
        elif all(stage.net_j is not None for stage in rows):
            # A stage that took less than the idle board has nothing above it.
            idle = [min(stage.idle_j or 0.0, stage.gross_j or 0.0) for stage in rows]
            above = [max(stage.net_j or 0.0, 0.0) for stage in rows]
            _bar(figure, f"{prefix}idle board", idle, y, "/", "J")
            _bar(figure, f"{prefix}above idle", above, y, "", "J")
        else:
            _bar(figure, f"{prefix}gross", [s.gross_j or 0.0 for s in rows], y, shape, "J")
    unit = "J" if is_energy else "s"
    figure.update_xaxes(title=unit, tickformat="~s", rangemode="tozero")
    says = " ".join(_stages_say(run, is_energy, len(runs)) for run in runs)
    return Drawing(key="stages", figure=figure, says=says)


def _bar(
    figure: go.Figure, name: str, x: list[float], y: object, shape: str, unit: str
) -> None:
    figure.add_bar(
        orientation="h",
        name=name,
        x=x,
        y=y,
        marker={"pattern": {"shape": shape, "size": 6, "solidity": 0.35}},
        hovertemplate=f"{name}: %{{x:.4~s}}{unit}<extra></extra>",
    )


def _stages_say(run: RunSummary, is_energy: bool, count: int) -> str:
    values = [
        (stage.stage, stage.gross_j if is_energy else stage.time_s) for stage in run.stages
    ]
    total = sum(value or 0.0 for _, value in values)
    shares = [
        f"{name} {100 * value / total:.0f} %" for name, value in values if value and total > 0
    ]
    what = "Energy" if is_energy else "Time"
    return f"{_whose(run, count)}{what} by stage: {', '.join(shares)}."


def _whose(run: RunSummary, count: int) -> str:
    return f"{run.name}: " if count > 1 else ""


class _Point(NamedTuple):
    """What a picture costs on a rung; `None` is unknown."""

    rung: str
    time_s: float | None
    energy_j: float | None
    peak_bytes: float | None
    is_dominated: bool


def rung_costs(runs: Sequence[RunSummary]) -> list[Drawing]:
    """Energy over time of a picture, and memory over time, of every rung."""
    found = []
    for key, title, scale in (
        ("energy_j", "mJ per image", 1e3),
        ("peak_bytes", "MiB", 2**-20),
    ):
        figure = go.Figure(layout=base(340))
        for index, run in enumerate(runs):
            symbol, whose = _SYMBOLS[index % len(_SYMBOLS)], _whose(run, len(runs))
            _add_points(figure, f"{whose}run", _in_run(run), key, scale, symbol)
            _add_points(figure, f"{whose}cost profile", _in_profile(run), key, scale,
                        f"{symbol}-dot")  # fmt: skip
        if not figure.data:
            continue
        reach = max(max(trace.x) for trace in figure.data), max(max(t.y) for t in figure.data)
        figure.update_xaxes(title="ms per image", range=[0, 1.15 * reach[0]])
        figure.update_yaxes(title=title, range=[0, 1.2 * reach[1]])
        says = " ".join(text for run in runs if (text := _rungs_say(run, len(runs), key)))
        found.append(Drawing(key=f"rungs-{key}", figure=figure, says=says))
    return found


def _in_run(run: RunSummary) -> list[_Point]:
    return [
        _Point(
            rung.rung,
            rung.seconds_per_image,
            rung.energy_per_image_j,
            rung.peak_bytes,
            rung.dominated_by is not None,
        )
        for rung in run.rungs
    ]


def _in_profile(run: RunSummary) -> list[_Point]:
    images = run.trained.batch_size
    return [
        _Point(
            rung.rung,
            rung.profile_step_s and rung.profile_step_s / images,
            rung.profile_step_j and rung.profile_step_j / images,
            rung.profile_peak_bytes,
            rung.dominated_by is not None,
        )
        for rung in run.rungs
    ]


def _add_points(
    figure: go.Figure, name: str, points: list[_Point], key: str, scale: float, symbol: str
) -> None:
    """A hollow symbol is a rung that another one makes pointless."""
    shown = [p for p in points if p.time_s and getattr(p, key) is not None]
    if not shown:
        return
    figure.add_scatter(
        x=[1e3 * (point.time_s or 0.0) for point in shown],
        y=[scale * getattr(point, key) for point in shown],
        name=name,
        mode="markers+text",
        text=[point.rung for point in shown],
        textposition="bottom right" if symbol.endswith("-dot") else "top left",
        marker={
            "size": 13,
            "line": {"width": 2},
            "symbol": [
                symbol.replace("-dot", "-open-dot" if p.is_dominated else "-dot")
                if symbol.endswith("-dot")
                else symbol + "-open" * p.is_dominated
                for p in shown
            ],
        },
        hovertemplate="%{text}: %{x:.3~g} ms, %{y:.4~g}<extra></extra>",
    )


def _rungs_say(run: RunSummary, count: int, key: str) -> str:
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
    return f"{_whose(run, count)}Cost of a picture: {', '.join(parts)}." if parts else ""
