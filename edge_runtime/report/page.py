"""A report as one HTML file that needs nothing else: no network, no fonts, no second file."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.report import sections
from edge_runtime.report.series import RunSeries
from edge_runtime.report.summary import Report
from edge_runtime.schema import unstructure

# Nothing is loaded from anywhere, whatever a name in the records tries.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)


def render_page(report: Report, series: Sequence[RunSeries]) -> str:
    """The whole page.

    Args:
        report: what it says.
        series: of each of its runs, the lines of the figures.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs

        from edge_runtime.report.drawing import drawings_of
    except ImportError as error:
        raise ConfigError(
            f"a page needs plotly ({error}): pip install 'edge-train[report]'. --json and "
            "--csv work without it."
        ) from error
    drawings = drawings_of(report.runs, series)
    document: dict[str, Any] = unstructure(report)
    names = ", ".join(run.name for run in report.runs)
    body = sections.body(document, drawings)
    several = ' class="several"' if len(report.runs) > 1 else ""
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(names)}: edge-train report</title>",
            f"<style>{_resource('page.css')}</style></head>\n<body{several}>",
            body,
            *(_figure_data(d.plot_id, d.json) for group in drawings.values() for d in group),
            f"<script>{get_plotlyjs()}</script>\n",
            f"<script>{_resource('page.js')}</script>\n</body></html>\n",
        ]
    )


def _figure_data(plot_id: str, content: str) -> str:
    """JSON inside a page must not end the element it is in."""
    safe = content.replace("<", "\\u003c")
    kind = 'type="application/json" class="figure"'
    return f'<script {kind} data-plot="{plot_id}">{safe}</script>\n'


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text()
