"""Does a rung cost in a run what its cost profile predicts?

On an emulated board that is driven by this machine's CPU load: one profile, then runs of each
rung, planned with it and interleaved over rounds. The time of a step is the median without the
first step, as in the profile; time and energy of a run are those from process start to exit,
its memory is the highest of its processes. One row is one rung, the median of its rounds.

    python benchmarks/profile_truth.py --rounds 3 --json
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from parts.board_runs import DATA, ONE_THREAD, Place, place_for
from parts.common import (
    MIB,
    Row,
    edge_train,
    interleaved,
    machine,
    package_at,
    table,
    versions,
    vit_flags,
)
from parts.trials import BATCH_SIZE, RATIOS

from edge_runtime.records import open_run
from edge_runtime.records.events import Finished, Planned

SHOWN = {  # compared quantities: title, factor of the unit in the table, digits
    "step_s": ("step ms", 1000, 1),
    "step_j": ("step J", 1, 2),
    "peak_bytes": ("peak MiB", 1 / MIB, 1),
    "time_s": ("run s", 1, 1),
    "energy_j": ("run J", 1, 0),
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--depth", type=int, default=12, help="blocks of it; default: 12")
    parser.add_argument("--epochs", type=int, default=1, help="of each run; default: 1")
    parser.add_argument("--rounds", type=int, default=1, help="default: 1")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    context = {"machine": machine(), "versions": versions("onnxruntime", "numpy")}
    with (
        package_at(args.package, vit_flags(args.depth, BATCH_SIZE, RATIOS)) as package,
        place_for(package) as place,
    ):
        rungs = [cost.rung for cost in place.profile.rungs]
        runs = interleaved(rungs, args.rounds, lambda rung: trained(rung, place, args.epochs))
        rows = [row_of(rung, rung_runs, place) for rung, rung_runs in runs.items()]
    if args.json:
        print(json.dumps({"rows": rows, **context}, indent=1))
    else:
        cells = [[row["rung"], *(cell(name, row) for name in SHOWN)] for row in rows]
        print(table(["rung", *(title for title, _, _ in SHOWN.values())], cells))


def trained(rung: str, place: Place, epochs: int) -> Row:
    """Train on one rung: planned and actual costs."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = ["run", str(place.package), DATA, "-o", str(run_dir), "--rung", rung]
        words += ["--epochs", str(epochs), "--profile", str(place.profile_file), *ONE_THREAD]
        # A budget, to get a plan; far more than needed.
        edge_train([*words, "--time", "24h"], environment=place.board.environment)
        run = open_run(run_dir)
        steps, samples, logged = list(run.steps()), run.power(), run.events()
    (plan,) = (each.event.plan for each in logged if isinstance(each.event, Planned))
    (end,) = (each.event for each in logged if isinstance(each.event, Finished))
    ends_s = [step.measured.t_s for step in steps]
    known = [(each.t_s, each.energy_j) for each in samples if each.energy_j is not None]
    first_j, last_j = np.interp([ends_s[0], ends_s[-1]], *zip(*known, strict=True))
    return {
        "planned": {name: getattr(plan, name) for name in ("time_s", "energy_j")},
        "step_s": median(step.measured.step_s + step.measured.wait_s for step in steps[1:]),
        "step_j": (last_j - first_j) / (len(steps) - 1),
        "peak_bytes": end.peak_bytes,
        "time_s": end.spent.time_s,
        "energy_j": end.spent.energy_j,
    }


def row_of(rung: str, runs: Sequence[Row], place: Place) -> Row:
    """Predicted and measured values, and their difference."""
    cost = next(cost for cost in place.profile.rungs if cost.rung == rung)
    predicted = {name: getattr(cost, name) for name in ("step_s", "step_j", "peak_bytes")}
    predicted |= runs[0]["planned"]
    row: Row = {"rung": rung, "rounds": len(runs)}
    for name, value in predicted.items():
        values = [run[name] for run in runs]
        row[f"predicted_{name}"] = value
        row[f"measured_{name}"] = median(values)
        row[f"measured_{name}_min"], row[f"measured_{name}_max"] = min(values), max(values)
    return row


def cell(name: str, row: Row) -> str:
    """For the table: `predicted -> measured (difference)`."""
    _, factor, digits = SHOWN[name]
    before, after = (row[f"{kind}_{name}"] for kind in ("predicted", "measured"))
    return (
        f"{before * factor:.{digits}f} -> {after * factor:.{digits}f} "
        f"({after / before - 1:+.1%})"
    )


if __name__ == "__main__":
    main()
