"""edge-train report: energy, time and memory of runs, as a page, as JSON and as CSV files."""

import argparse
from pathlib import Path

from edge_runtime.cli.output import show, show_json
from edge_runtime.cli.paths import any_path, require_output
from edge_runtime.errors import ConfigError

_HEAD_BYTES = 1 << 16  # of a file, where its kind is to be seen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", metavar="RUN", type=any_path, nargs="+", help="written by `edge-train run`"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=any_path, help="the page, one HTML file"
    )
    parser.add_argument(
        "--csv", metavar="DIR", type=any_path, help="write the same numbers as CSV files"
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
    if page:
        require_output(args.output, "a page of `edge-train report`", is_page)
    require_room("the report", report_bytes(args.runs, page=page), ADVICE)
    report, series = summarize(args.runs)
    written = []
    if args.csv is not None:
        tables = {args.csv / name: text for name, text in csv_files(report).items()}
        for file in tables:
            require_output(file, "a table of `edge-train report`", is_table)
        with storage_errors("make", args.csv):
            args.csv.mkdir(parents=True, exist_ok=True)
        for file, text in tables.items():
            write_file(file, text.encode(errors="backslashreplace"))
        written.append(args.csv)
    if page:
        write_file(args.output, render_page(report, series).encode())
        written.append(args.output)
    if args.json:
        show_json(unstructure(report))
    else:
        show("\n".join(f"wrote {path}" for path in written))
    return 0


def is_page(file: Path) -> bool:
    """Whether a file is a page that this command wrote, by its title."""
    return b": edge-train report</title>" in _head(file)


def is_table(file: Path) -> bool:
    """Whether a file is a table that this command wrote, by its columns."""
    from edge_runtime.report import csv_columns

    titles = _head(file).partition(b"\n")[0].decode(errors="replace")
    return csv_columns().issuperset(titles.split(","))


def _head(file: Path) -> bytes:
    from edge_runtime.reading import open_regular

    try:
        with open_regular(file) as opened:
            return opened.read(_HEAD_BYTES)
    except OSError:
        return b"?"  # of no kind of ours
