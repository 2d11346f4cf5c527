"""Does a rung cost in a run what its cost profile said?

On an emulated board that is driven by this machine's CPU load: one profile, then one run of
each rung, planned with it. Time and energy of a run are those from process start to exit; its
memory is the highest of its processes. One row is one rung.

    python benchmarks/profile_truth.py --json
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts.board_runs import DATA, Place, place_for
from parts.common import (
    MIB,
    Row,
    edge_train,
    machine,
    package_at,
    say,
    table,
    versions,
    vit_flags,
)
from parts.trials import BATCH_SIZE, RATIOS

PAIRS = {  # what is compared: factor of its unit in the table, digits
    "step_s": (1000, 1),
    "step_j": (1, 2),
    "peak_bytes": (1 / MIB, 1),
    "time_s": (1, 1),
    "energy_j": (1, 0),
}
TITLES = ("step ms", "step J", "peak MiB", "run s", "run J")


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--depth", type=int, default=12, help="blocks of it; default: 12")
    parser.add_argument("--epochs", type=int, default=1, help="of each run; default: 1")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    context = {"machine": machine(), "versions": versions("onnxruntime", "numpy")}
    with (
        package_at(args.package, vit_flags(args.depth, BATCH_SIZE, RATIOS)) as package,
        place_for(package) as place,
    ):
        rungs = [cost.rung for cost in place.profile.rungs]
        rows = [row_of(rung, place, args.epochs) for rung in rungs]
    if args.json:
        print(json.dumps({"rows": rows, **context}, indent=1))
    else:
        cells = [[row["rung"], *map(cell, PAIRS, [row] * len(PAIRS))] for row in rows]
        print(table(["rung", *TITLES], cells))


def row_of(rung: str, place: Place, epochs: int) -> Row:
    """Train on one rung; what its profile said, and what its report says."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = str(Path(folder) / "run")
        words = ["run", str(place.package), DATA, "-o", run_dir, "--rung", rung]
        words += ["--epochs", str(epochs), "--profile", str(place.profile_file)]
        # A budget, so that there is a plan; far more than is needed.
        edge_train([*words, "--time", "24h"], environment=place.board.environment)
        report: dict[str, Any] = json.loads(edge_train(["report", run_dir, "--json"]))
    (run,) = report["runs"]
    used = next(found for found in run["rungs"] if found["rung"] == rung)
    planned = {found["name"]: found["planned"] for found in run["plan"]}
    row = {
        "rung": rung,
        "steps": used["steps"],
        "board": run["conditions"]["board"],
        **pair("step_s", used["profile_step_s"], used["step_s"]),
        **pair("step_j", used["profile_step_j"], used["step_j"]),
        **pair("peak_bytes", used["profile_peak_bytes"], run["totals"]["peak_bytes"]),
        **pair("time_s", planned["time"], run["totals"]["time_s"]),
        **pair("energy_j", planned["energy"], run["totals"]["gross_j"]),
    }
    say("  ".join([rung, *(cell(name, row) for name in PAIRS)]))
    return row


def pair(name: str, predicted: float, measured: float) -> Row:
    """Both, and how they differ."""
    return {
        f"predicted_{name}": predicted,
        f"measured_{name}": measured,
        f"relative_{name}": round(measured / predicted - 1, 4),
    }


def cell(name: str, row: Row) -> str:
    """For the table: `predicted -> measured (difference)`."""
    factor, digits = PAIRS[name]
    values = [row[f"{kind}_{name}"] * factor for kind in ("predicted", "measured")]
    before, after = (f"{value:.{digits}f}" for value in values)
    return f"{before} -> {after} ({row[f'relative_{name}']:+.1%})"


if __name__ == "__main__":
    main()
