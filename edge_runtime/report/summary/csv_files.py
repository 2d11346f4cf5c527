"""The numbers of a report as CSV files, one per table, described in docs/report.md."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_origin

from edge_runtime.report.summary import model
from edge_runtime.report.summary.model import Report, RunSummary
from edge_runtime.schema import unstructure

# Of a run: its lists are a file each, its parts are columns of runs.csv side by side.
_LISTS = [each.name for each in fields(RunSummary) if get_origin(each.type) is tuple]
_PARTS = [each.name for each in fields(RunSummary) if is_dataclass(each.type)]


def csv_files(report: Report) -> dict[str, str]:
    """Content by file name. An unknown value is an empty cell; tables in cells are JSON."""
    document = unstructure(report)
    runs = document["runs"]
    tables = {"runs": [_run_row(run) for run in runs], "differences": document["differences"]}
    for name in _LISTS:
        tables[name] = [{"run": run["name"], **row} for run in runs for row in run[name]]
    return {f"{name}.csv": _text(rows) for name, rows in tables.items()}


def csv_columns() -> set[str]:
    """The titles that columns may have."""
    tables = filter(is_dataclass, vars(model).values())
    return {"run", *(each.name for table in tables for each in fields(table))}


def _run_row(run: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in run.items() if key not in (*_LISTS, *_PARTS)}
    for part in _PARTS:
        row |= run[part]
    return row


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """`repr` of a float reads back as the same float; `csv` writes just that."""
    if isinstance(value, dict | list | tuple | bool):
        return json.dumps(value)
    return value
