"""Every figure of a page, ready to be put into it."""

from collections.abc import Sequence
from typing import NamedTuple

from edge_runtime.report.cost_figures import rung_costs, stages
from edge_runtime.report.figures import (
    Drawing,
    axes_of,
    heat,
    learning,
    memory,
    spent,
    step_energy,
)
from edge_runtime.report.power_figure import power
from edge_runtime.report.series import RunSeries
from edge_runtime.report.summary import RunSummary

_OVER_TIME = (power, spent, step_energy, memory, heat, learning)


class Drawn(NamedTuple):
    """A figure in the page."""

    plot_id: str
    json: str  # for plotly.js
    says: str


def drawings_of(
    runs: Sequence[RunSummary], series: Sequence[RunSeries]
) -> dict[str, list[Drawn]]:
    """Figures by the section that they stand in; runs side by side have the same axes."""
    axes = axes_of(runs, series)
    found: dict[str, list[Drawn]] = {}
    for draw in _OVER_TIME:
        for index, (run, one) in enumerate(zip(runs, series, strict=True)):
            if drawing := draw(run, one, axes):
                whose = f"{run.name}: " if len(runs) > 1 else ""
                drawn = _drawn(drawing, suffix=f"-{index}", whose=whose)
                found.setdefault(drawing.key, []).append(drawn)
    costs = [drawing for drawing in [stages(runs), *rung_costs(runs)] if drawing]
    for drawing in costs:
        section = "rungs" if drawing.key.startswith("rungs") else drawing.key
        found.setdefault(section, []).append(_drawn(drawing))
    return found


def _drawn(drawing: Drawing, *, suffix: str = "", whose: str = "") -> Drawn:
    plot_id = f"plot-{drawing.key}{suffix}"
    return Drawn(plot_id, drawing.figure.to_json(), whose + drawing.says)
