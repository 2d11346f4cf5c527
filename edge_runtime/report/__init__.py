"""From run folders to a page that people look at, and the same numbers as JSON and CSV."""

from edge_runtime.report.page import render_page
from edge_runtime.report.summary import (
    FORMAT,
    Report,
    RunSeries,
    RunSummary,
    csv_files,
    summarize,
)

__all__ = [
    "FORMAT",
    "Report",
    "RunSeries",
    "RunSummary",
    "csv_files",
    "render_page",
    "summarize",
]
