"""Every figure of a page, ready to be put into it."""

from collections.abc import Sequence

from edge_runtime.report.page.cost_figures import rung_costs, stages
from edge_runtime.report.page.figures import heat, learning, memory, power, spent, step_energy
from edge_runtime.report.page.plots import Drawn, draw, time_axis
from edge_runtime.report.summary.model import RunSummary
from edge_runtime.report.summary.series import RunSeries


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
