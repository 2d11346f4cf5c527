"""A report as one HTML file that needs nothing else: no network, no fonts, no second file."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.report.page.numbers import number_of
from edge_runtime.report.summary.model import Report
from edge_runtime.report.summary.series import RunSeries
from edge_runtime.schema import unstructure

Row = Mapping[str, Any]

_METHODS = {
    "simclr": "SimCLR",
    "mocov3": "MoCo v3",
    "byol": "BYOL",
    "dino": "DINO",
    "simsiam": "SimSiam",
    "vicreg": "VICReg",
    "barlow-twins": "Barlow Twins",
    "mae": "MAE",
}
_SAME = 0.0005  # relative; a smaller difference is not shown


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

        from edge_runtime.report.page.drawing import draw_figures
    except ImportError as error:
        raise ConfigError(
            f"a page needs plotly and jinja2 ({error}): pip install 'edge-train[report]'. "
            "--json and --csv work without them."
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    document: dict[str, Any] = unstructure(report)
    return environment.from_string(_resource("page.html")).render(
        document,
        figures=draw_figures(report.runs, series),
        number=partial(number_of, document),
        table=partial(_table_of, document),
        accuracy=_newest_accuracy,
        difference=partial(_difference_of, document),
        methods=_METHODS,
        style=_resource("page.css"),
        script=_resource("page.js"),
        plotly=get_plotlyjs(),
    )


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


class _Column(NamedTuple):
    title: str
    field: str
    is_text: bool


class _Table(NamedTuple):
    columns: list[_Column]
    rows: list[tuple[str, Row]]  # each with its place in the document


def _table_of(
    document: Row, index: int, name: str, columns: Mapping[str, str], needed: Sequence[str]
) -> _Table:
    """The rows of a list of a run that are shown, and the columns that say anything.

    Args:
        document: the report.
        index: of the run.
        name: of the list.
        columns: fields of its rows by title.
        needed: only rows where one of these fields is above zero are shown; none: all are.
    """
    rows = [
        (f"runs.{index}.{name}.{place}", row)
        for place, row in enumerate(document["runs"][index][name])
        if not needed or any(row[field] for field in needed)
    ]
    types = {field: {type(row[field]) for _, row in rows} for field in columns.values()}
    known = [
        _Column(title, field, is_text=str in types[field])
        for title, field in columns.items()
        if types[field] - {type(None)}
    ]
    return _Table(known, rows)


def _newest_accuracy(run: Row) -> tuple[int, Row] | None:
    """The newest evaluation and its place in the list, kNN before others."""
    rows = list(enumerate(run["evaluations"]))
    by_knn = [(index, row) for index, row in rows if row["classifier"] == "kNN"]
    found = by_knn or rows
    return found[-1] if found else None


def _difference_of(document: Row, run: Row, field: str) -> int | None:
    """The place of a number's difference from the first run, if it is worth showing."""
    for index, row in enumerate(document["differences"]):
        if (row["run"], row["name"]) == (run["name"], field) and row["relative"] is not None:
            return index if abs(row["relative"]) >= _SAME else None
    return None
