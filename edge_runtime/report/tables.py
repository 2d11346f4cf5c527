"""The numbers of a report as CSV files, one per table, described in docs/report.md."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from edge_runtime.report.summary import Report
from edge_runtime.schema import unstructure

_PARTS = ("trained", "conditions", "totals", "metering")  # of a run: columns of runs.csv
_TABLES = (
    "budget",
    "stages",
    "rungs",
    "rails",
    "processes",
    "windows",
    "decisions",
    "plan",
    "evaluations",
    "notes",
)


def csv_files(report: Report) -> dict[str, str]:
    """Content by file name. An unknown value is an empty cell; tables in cells are JSON."""
    document = unstructure(report)
    files = {"runs.csv": _text(_run_row(run) for run in document["runs"])}
    for name in _TABLES:
        rows = [{"run": run["name"], **row} for run in document["runs"] for row in run[name]]
        files[f"{name}.csv"] = _text(rows)
    files["differences.csv"] = _text(document["differences"])
    return files


def _run_row(run: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        key: value for key, value in run.items() if not isinstance(value, dict | list | tuple)
    }
    return plain | {key: value for part in _PARTS for key, value in run[part].items()}


def _text(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """`repr` of a float reads back as the same float; `csv` writes just that."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value
