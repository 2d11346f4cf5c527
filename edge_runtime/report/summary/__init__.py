"""The numbers of a report: run folders in, plain facts and the lines of figures out."""

from edge_runtime.report.summary.compare import summarize
from edge_runtime.report.summary.csv_files import csv_files
from edge_runtime.report.summary.model import FORMAT, Report, RunSummary
from edge_runtime.report.summary.series import RunSeries

__all__ = ["FORMAT", "Report", "RunSeries", "RunSummary", "csv_files", "summarize"]
