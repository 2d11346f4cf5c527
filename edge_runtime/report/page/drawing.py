"""Every figure of a page, ready to be put into it."""

from collections.abc import Sequence

from edge_runtime.report.page.cost_figures import rung_costs, stages
from edge_runtime.report.page.figures import heat, learning, memory, power, spent, step_energy
from edge_runtime.report.page.plots import Drawn, draw, time_axis
from edge_runtime.report.summary.model import RunSummary
from edge_runtime.report.summary.series import RunSeries


def draw_figures(runs: Sequence[RunSummary], series: Sequence[RunSeries]) -> list[Drawn]:
    """All figures; those of runs side by side have the same axes."""
    time, drawn = time_axis(series), list[Drawn]()
    for make in (power, spent, step_energy, memory, heat, learning):
        made = [make(run, one, time) for run, one in zip(runs, series, strict=True)]
        known = {index: figure for index, figure in enumerate(made) if figure}
        for (index, figure), plot in zip(known.items(), draw([*known.values()]), strict=True):
            prefix = f"{runs[index].name}: " if len(runs) > 1 else ""
            plot_id = f"plot-{figure.section}-{index}"
            drawn.append(
                Drawn(figure.section, plot_id, prefix + figure.caption, plot.to_json())
            )
    return [*drawn, *stages(runs), *rung_costs(runs)]
