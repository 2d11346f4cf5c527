"""From run folders to a page that people look at, and the same numbers as JSON and CSV."""

from edge_runtime.report.page.render import render_page
from edge_runtime.report.summary.compare import summarize
from edge_runtime.report.summary.csv_files import csv_columns, csv_files
from edge_runtime.report.summary.model import FORMAT, Report, RunSummary
from edge_runtime.report.summary.series import RunSeries

__all__ = [
    "FORMAT",
    "Report",
    "RunSeries",
    "RunSummary",
    "csv_columns",
    "csv_files",
    "render_page",
    "summarize",
]
