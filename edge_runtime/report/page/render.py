"""A report as one HTML file that needs nothing else: no network, no fonts, no second file."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from edge_runtime.errors import ConfigError, how_to_install
from edge_runtime.printable import printable
from edge_runtime.report.page.numbers import BY_UNIT, Row, number_of, short_time_text
from edge_runtime.report.summary.model import Report
from edge_runtime.report.summary.series import RunSeries
from edge_runtime.schema import unstructure


def render_page(report: Report, series: Sequence[RunSeries]) -> str:
    """The whole page.

    Args:
        report: what it says.
        series: of each of its runs, the lines of the figures.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs

        from edge_runtime.report.page.figures import draw_figures
    except ImportError as error:
        raise ConfigError(
            f"a page needs plotly and jinja2 ({error}): {how_to_install('report')}. "
            "--json and --csv work without them."
        ) from error
    environment = Environment(
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**BY_UNIT, "short_time": short_time_text}
    environment.globals |= {"shown": _shown, "newest_accuracy": _newest_accuracy}
    document: dict[str, Any] = unstructure(report)
    return environment.from_string(_resource("page.html")).render(
        document,
        figures=draw_figures(report.runs, series),
        series=series,
        number=partial(number_of, document),
        style=_resource("page.css"),
        script=_resource("page.js"),
        plotly=get_plotlyjs(),
    )


def _printable(value: Any) -> Any:
    """Names and texts of a run; what is marked safe, our own style and scripts, stays."""
    return printable(value) if type(value) is str else value


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown(
    rows: Sequence[Row], columns: Mapping[str, str], needed: Sequence[str]
) -> tuple[dict[int, Row], list[tuple[str, str, bool]]]:
    """The part of a table that says anything.

    Args:
        rows: of the table.
        columns: fields of its rows by title.
        needed: only rows where one of these fields is above zero are shown; none: all are.

    Returns:
        Rows by their place, and title, field and whether it is text of each column.
    """
    shown = {
        place: row
        for place, row in enumerate(rows)
        if not needed or any(row[field] for field in needed)
    }
    types = {field: {type(row[field]) for row in shown.values()} for field in columns.values()}
    known = [
        (title, field, str in types[field])
        for title, field in columns.items()
        if types[field] - {type(None)}
    ]
    return shown, known


def _newest_accuracy(evaluations: Sequence[Row]) -> int | None:
    """The place of the newest evaluation, kNN before others."""
    places = list(range(len(evaluations)))
    by_knn = [place for place in places if evaluations[place]["classifier"] == "kNN"]
    return max(by_knn or places, default=None)
