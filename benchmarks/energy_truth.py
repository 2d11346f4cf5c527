"""Is the reported energy the energy of the board?

On emulated boards, whose true energy is known: their power follows this machine's CPU load.
The load is constant, a ramp, or a square wave of two seconds, made by threads next to the
meter, over a window of 40 to 60 s; or a real `edge-train run` from start to end. Read through
sysfs, and through the real service of jetson-stats (root only). One row is one window.

    python benchmarks/energy_truth.py --trials 3 --seed 0

`meter_cpu_share` is the sampling thread's share of its process's CPU time, at 10 Hz.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts.common import Row, machine, say, table, versions
from parts.emulated import SENSORS, on_board, why_no_jtop

from device_tests.emulated_board.boards import JTOP_BOARDS
from edge_runtime.selftest import PACKAGE

LOADS = ("constant", "ramp", "square", "run")
LIMITS = {"sysfs": 0.01, "jtop": 0.02}  # of the relative error
METER_LIMIT = 0.01  # of the process's CPU time


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    facts = machine()
    rows = [
        measure(load, sensor, trial, args)
        for trial in range(args.trials)
        for load in args.loads
        for sensor in args.sensors
    ]
    if args.json:
        document = {"rows": rows, "machine": facts, "versions": versions("onnxruntime")}
        print(json.dumps(document, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, without the sensors that do not work here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1, help="of every load; default: 1")
    parser.add_argument("--seed", type=int, default=0, help="of boards and loads; default: 0")
    add_choice(parser, "--loads", LOADS)
    add_choice(parser, "--sensors", tuple(SENSORS))
    parser.add_argument(
        "--package",
        metavar="PKG",
        type=Path,
        default=PACKAGE,
        help="to train; default: the one inside edge-train",
    )
    parser.add_argument(
        "--epochs", type=int, default=100, help="of the run, on digits; default: 100"
    )
    parser.add_argument(
        "--jtop",
        metavar="VENV",
        type=Path,
        default=Path(f"{sys.prefix}-jtop"),
        help="environment with jetson-stats; default: that of make test-system",
    )
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    if args.quick:
        args.epochs = 2
    if "jtop" in args.sensors and (why := why_no_jtop(args.jtop)):
        say(f"no rows of jtop: {why}")
        args.sensors = [sensor for sensor in args.sensors if sensor != "jtop"]
    return args


def add_choice(parser: argparse.ArgumentParser, flag: str, known: Sequence[str]) -> None:
    """Add a flag that takes some of the known words."""

    def some(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"unknown {', '.join(sorted(unknown))}")
        return text.split(",")

    parser.add_argument(flag, type=some, default=list(known), help=f"of {','.join(known)}")


def measure(load: str, sensor: str, trial: int, args: argparse.Namespace) -> Row:
    """One row. The trial determines board and load; all sensors get the same."""
    rng = random.Random(f"{args.seed} {trial} {load}")
    board = rng.choice(sorted(JTOP_BOARDS))
    run = {"package": str(args.package), "epochs": args.epochs}
    job = run if load == "run" else load_job(load, rng, args)
    part = "energy_run" if load == "run" else "energy_load"
    result = on_board(sensor, board, part, job, args.jtop)
    row = {
        "load": load,
        "sensor": sensor,
        "reported_j": round(result["reported_j"], 2),
        "true_j": round(result["true_j"], 2),
        "error": round(result["reported_j"] / result["true_j"] - 1, 5),
        "window_s": round(result["window_s"], 2),
        "meter_cpu_share": round(result["meter_cpu_share"], 5),
        "board": board,
        "trial": trial,
        "lowest_w": round(result["lowest_w"], 2),
        "highest_w": round(result["highest_w"], 2),
        "cpus_busy": round(result["cpus_busy"], 2),
    }
    say(f"{load:9}{sensor:6}{board:9}{100 * row['error']:+8.2f} %")
    return row


def load_job(load: str, rng: random.Random, args: argparse.Namespace) -> dict[str, Any]:
    """A load of random shape. Every shape keeps the processors busy, half the time or more."""
    low, high = rng.uniform(0.2, 0.4), rng.uniform(0.7, 0.95)
    pattern = {
        "constant": {"level": rng.uniform(0.4, 0.9)},
        "ramp": dict(zip(("first", "last"), rng.sample([low, high], 2), strict=True)),
        "square": {"low": low, "high": high, "period_s": 2.0, "phase": rng.random()},
    }[load]
    window_s = 3.0 if args.quick else rng.uniform(40.0, 60.0)
    return {"load": load, "pattern": pattern, "window_s": window_s}


def text_of(rows: list[Row]) -> str:
    """The table, and the largest error of each sensor with its limit."""
    columns = (
        "load", "sensor", "board", "reported J", "true J", "error %", "window s",
        "true W from", "to", "meter CPU %",
    )  # fmt: skip
    lines = [
        [
            *(row[key] for key in ("load", "sensor", "board")),
            f"{row['reported_j']:.1f}",
            f"{row['true_j']:.1f}",
            f"{100 * row['error']:+.2f}",
            f"{row['window_s']:.1f}",
            f"{row['lowest_w']:.1f}",
            f"{row['highest_w']:.1f}",
            f"{100 * row['meter_cpu_share']:.2f}",
        ]
        for row in rows
    ]
    worst = [
        f"{sensor}: largest error {100 * max(errors):.2f} %, promised {100 * limit:g} %"
        for sensor, limit in LIMITS.items()
        if (errors := [abs(row["error"]) for row in rows if row["sensor"] == sensor])
    ]
    share = max(row["meter_cpu_share"] for row in rows)
    worst.append(f"sampling: at most {100 * share:.2f} %, promised {100 * METER_LIMIT:g} %")
    return "\n".join([table(columns, lines), "", *worst])


if __name__ == "__main__":
    main()
