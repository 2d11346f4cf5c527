"""Every figure of a page, ready to be put into it."""

from collections.abc import Sequence
from typing import NamedTuple

from edge_runtime.report.cost_figures import rung_costs, stages
from edge_runtime.report.figures import OVER_TIME, Drawing, axes_of
from edge_runtime.report.series import RunSeries
from edge_runtime.report.summary import RunSummary


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
    for draw in OVER_TIME:
        for index, (run, one) in enumerate(zip(runs, series, strict=True)):
            if drawing := draw(run, one, axes):
                found.setdefault(drawing.key, []).append(_drawn(drawing, f"-{index}"))
    costs = [drawing for drawing in [stages(runs), *rung_costs(runs)] if drawing]
    for drawing in costs:
        section = "rungs" if drawing.key.startswith("rungs") else drawing.key
        found.setdefault(section, []).append(_drawn(drawing, ""))
    return found


def _drawn(drawing: Drawing, suffix: str) -> Drawn:
    return Drawn(f"plot-{drawing.key}{suffix}", drawing.figure.to_json(), drawing.says)
