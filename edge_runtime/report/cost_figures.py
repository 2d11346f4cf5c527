"""The figures of a report that show all runs in one: stages, and what rungs cost."""

from collections.abc import Sequence

import plotly.graph_objects as go

from edge_runtime.report.figures import Drawing, base
from edge_runtime.report.summary import RungUse, RunSummary
from edge_runtime.units import bytes_text, energy_text

_PATTERNS = ("", "/", "x", "-", ".")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")


def stages(runs: Sequence[RunSummary]) -> Drawing | None:
    """Energy of every stage, with the idle board's share; time where energy is unknown."""
    is_energy = all(run.totals.gross_j is not None for run in runs)
    figure = go.Figure(layout=base(110 + 44 * 6 * max(1, len(runs)) // (1 + (len(runs) > 2)),
                                   barmode="stack"))  # fmt: skip
    for index, run in enumerate(runs):
        rows = [stage for stage in reversed(run.stages) if stage.time_s > 0]
        names = [stage.stage for stage in rows]
        y = names if len(runs) == 1 else [[run.name] * len(rows), names]
        prefix = "" if len(runs) == 1 else f"{run.name}: "
        shape = _PATTERNS[index % len(_PATTERNS)]
        if not is_energy:
            _bar(figure, f"{prefix}time", [stage.time_s for stage in rows], y, shape, "s")
        elif all(stage.net_j is not None for stage in rows):
            idle = [stage.idle_j or 0.0 for stage in rows]
            _bar(figure, f"{prefix}idle board", idle, y, "/", "J")
            _bar(figure, f"{prefix}above idle", [s.net_j or 0.0 for s in rows], y, "", "J")
        else:
            _bar(figure, f"{prefix}gross", [s.gross_j or 0.0 for s in rows], y, shape, "J")
    unit = "J" if is_energy else "s"
    figure.update_xaxes(title=unit, tickformat="~s", rangemode="tozero")
    says = " ".join(_stages_say(run, is_energy) for run in runs)
    return (
        Drawing(key="stages", figure=figure, says=says)
        if any(r.stages for r in runs)
        else None
    )


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


def _stages_say(run: RunSummary, is_energy: bool) -> str:
    values = [
        (stage.stage, stage.gross_j if is_energy else stage.time_s) for stage in run.stages
    ]
    total = sum(value or 0.0 for _, value in values)
    shares = [
        f"{name} {100 * value / total:.0f} %" for name, value in values if value and total > 0
    ]
    return f"{run.name}: {'energy' if is_energy else 'time'} by stage: {', '.join(shares)}."


def rung_costs(runs: Sequence[RunSummary]) -> list[Drawing]:
    """Energy over time of a picture, and memory over time, of every rung."""
    panels = [
        ("energy", "mJ per image", 1e3, lambda rung: rung.energy_per_image_j),
        ("memory", "MiB", 1 / (1 << 20), lambda rung: rung.peak_bytes),
    ]
    found = []
    for key, title, scale, value_of in panels:
        figure = go.Figure(layout=base(340))
        for index, run in enumerate(runs):
            rungs = [r for r in run.rungs if r.seconds_per_image and value_of(r) is not None]
            if rungs:
                _points(
                    figure, run, rungs, [value_of(r) * scale for r in rungs], index, len(runs)
                )
        if not figure.data:
            continue
        figure.update_xaxes(title="ms per image", rangemode="tozero")
        figure.update_yaxes(title=title, rangemode="tozero")
        says = " ".join(_rungs_say(run) for run in runs)
        found.append(Drawing(key=f"rungs-{key}", figure=figure, says=says))
    return found


def _points(
    figure: go.Figure,
    run: RunSummary,
    rungs: list[RungUse],
    y: list[float],
    index: int,
    count: int,
) -> None:
    """A hollow symbol is a rung that another one makes pointless."""
    symbol = _SYMBOLS[index % len(_SYMBOLS)]
    figure.add_scatter(
        x=[1e3 * (rung.seconds_per_image or 0.0) for rung in rungs],
        y=y,
        name=run.name,
        mode="markers+text",
        text=[rung.rung for rung in rungs],
        textposition="top center",
        cliponaxis=False,
        showlegend=count > 1,
        marker={
            "size": 13,
            "line": {"width": 2},
            "symbol": [f"{symbol}-open" if rung.dominated_by else symbol for rung in rungs],
        },
        hovertemplate="%{text}: %{x:.3~g} ms, %{y:.4~g}<extra></extra>",
    )


def _rungs_say(run: RunSummary) -> str:
    parts = []
    for rung in run.rungs:
        if not rung.seconds_per_image:
            continue
        text = f"{rung.rung} {1e3 * rung.seconds_per_image:.2f} ms"
        if rung.energy_per_image_j is not None:
            text += f", {energy_text(rung.energy_per_image_j)}"
        if rung.peak_bytes is not None:
            text += f", {bytes_text(rung.peak_bytes)}"
        if rung.dominated_by:
            text += f" (no better than {rung.dominated_by})"
        parts.append(text)
    return f"{run.name}: cost of a picture: {'; '.join(parts)}." if parts else ""
