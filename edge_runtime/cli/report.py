"""edge-train report: energy, time and memory of runs, as a page, as JSON and as CSV files."""

import argparse
from pathlib import Path

from edge_runtime.cli.output import show, show_json
from edge_runtime.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="written by `edge-train run`"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the page, one HTML file"
    )
    parser.add_argument(
        "--csv", metavar="DIR", type=Path, help="write the same numbers as CSV files"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Read the runs, write the requested outputs."""
    from edge_runtime.device import require_room
    from edge_runtime.report import csv_files, render_page, summarize
    from edge_runtime.report.room import ADVICE, report_bytes
    from edge_runtime.schema import unstructure
    from edge_runtime.storage import storage_errors, write_file

    if args.output is None and args.csv is None and not args.json:
        raise ConfigError("no output requested: give -o report.html, --csv DIR, or --json.")
    page = args.output is not None
    require_room("the report", report_bytes(args.runs, page=page), ADVICE)
    report, series = summarize(args.runs)
    written = []
    if args.csv is not None:
        with storage_errors("make", args.csv):
            args.csv.mkdir(parents=True, exist_ok=True)
        for name, text in csv_files(report).items():
            write_file(args.csv / name, text.encode(errors="backslashreplace"))
        written.append(args.csv)
    if page:
        write_file(args.output, render_page(report, series).encode())
        written.append(args.output)
    if args.json:
        show_json(unstructure(report))
    else:
        show("\n".join(f"wrote {path}" for path in written))
    return 0
