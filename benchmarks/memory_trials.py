"""Is a memory budget enough? The kernel is the judge.

Real runs with random memory budgets, each inside a memory control group (root only) whose hard
limit is its budget. The cost profile is measured outside, or, with `--unprofiled`, by each run
itself, inside.

    python benchmarks/memory_trials.py --trials 50 -o docs/results/memory_trials.jsonl

Outcome: `kept` (the run ended well and the kernel killed nothing of it; measuring a rung that
does not fit may be killed, that is what its process is for), `refused` (exit code 7, and the
budget is less than a tenth above what the smallest rung was measured to need), or `broken`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parts.common import Row, add_line, machine, package_at, say, table, versions, vit_flags

from device_tests.cgroup import memory_cgroup
from edge_runtime.planning import CostProfile, load_profile
from edge_runtime.records import open_run
from edge_runtime.records.events import Finished

RATIOS = (1.0, 0.8, 0.6, 0.4, 0.25)
# Long enough for every rung's peak, and for a checkpoint.
DATA, IMAGES = "digits", 160
MARGIN = 0.10
EXIT_REFUSED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all trials share."""

    package: Path
    profile_file: Path
    profile: CostProfile
    profiled: bool


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    rows: list[Row] = []
    with (
        package_at(args.package, vit_flags(args.depth, args.batch_size, RATIOS)) as package,
        tempfile.TemporaryDirectory() as folder,
    ):
        context = {"machine": machine(), "versions": versions("onnxruntime", "numpy")}
        file = Path(folder) / "profile.json"
        say("profiling outside")
        edge_train_within(None, ["profile", str(package), "-o", str(file)])
        place = Place(
            package=package,
            profile_file=file,
            profile=load_profile(file),
            profiled=not args.unprofiled,
        )
        for trial, budget_bytes in drawn(args, place):
            rows.append(row_of(args.seed, trial, budget_bytes, place))
            add_line(args.output, {**rows[-1], **context})
    if args.json:
        print(json.dumps({"rows": rows, **context}, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=2, help="default: 2")
    parser.add_argument("--seed", type=int, default=0, help="of the budgets; default: 0")
    parser.add_argument("--unprofiled", action="store_true", help="runs have no profile")
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--depth", type=int, default=12, help="blocks; default: 12")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a JSON line per trial is added"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


def edge_train_within(limit_bytes: int | None, words: Sequence[str], cache: str = "") -> Row:
    """Run a command, inside a limit; gives its exit code, and what the kernel did."""
    command = [sys.executable, "-m", "edge_runtime.cli.main", *words]
    environment = {**os.environ, **({"EDGE_TRAIN_CACHE": cache} if cache else {})}
    if limit_bytes is None:
        code = subprocess.run(command, env=environment, stdout=sys.stderr).returncode
        return {"exit_code": code, "kills": 0, "group_peak_bytes": None}
    with memory_cgroup(limit_bytes) as group:
        code = subprocess.run(
            group.command(command), env=environment, stdout=subprocess.DEVNULL
        ).returncode
        peak = {"kills": group.kills, "group_peak_bytes": group.peak_bytes}
    return {"exit_code": code, **peak}


def drawn(args: argparse.Namespace, place: Place) -> Iterator[tuple[int, int]]:
    """Budgets from below what the smallest rung needs to above what the largest does."""
    needs = [cost.peak_bytes for cost in place.profile.rungs if cost.peak_bytes]
    for trial in range(args.trials):
        rng = random.Random(f"{args.seed} {trial}")
        yield trial, int(rng.uniform(0.85 * min(needs), 1.2 * max(needs)))


def row_of(seed: int, trial: int, budget_bytes: int, place: Place) -> Row:
    """Run one trial and judge it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = ["run", str(place.package), DATA, "-o", str(run_dir)]
        words += ["--epochs", "1", "--images", str(IMAGES), "--memory", f"{budget_bytes}B"]
        words += ["--profile", str(place.profile_file)] if place.profiled else []
        found = edge_train_within(budget_bytes, words, cache=f"{folder}/cache")
        finished, rung = None, None
        if run_dir.exists():
            run = open_run(run_dir)
            ends = [event for _, event in run.events() if isinstance(event, Finished)]
            finished = ends[-1] if ends else None
            rung = run.steps()[-1].rung if finished else None
    least = min(cost.peak_bytes for cost in place.profile.rungs if cost.peak_bytes)
    kept = found["exit_code"] == 0 and finished is not None
    kept = kept and (not place.profiled or found["kills"] == 0)
    right = found["exit_code"] == EXIT_REFUSED and budget_bytes < least * (1 + MARGIN)
    row = {
        "seed": seed,
        "trial": trial,
        "kind": "memory",
        "profiled": place.profiled,
        "budget": budget_bytes,
        "spent": finished.peak_bytes if finished else None,
        "outcome": "kept" if kept else "refused" if right else "broken",
        "rung": rung,
        "smallest_rung_bytes": least,
        **found,
    }
    say(f"{trial:3} {budget_bytes / 2**20:8.1f} MiB  {row['outcome']:8} {rung or ''}")
    return row


def text_of(rows: Sequence[Row]) -> str:
    """The table, in MiB."""
    columns = (
        "budget",
        "resident peak",
        "group peak",
        "rung",
        "outcome",
        "kills",
        "exit code",
    )

    def mib(value: int | None) -> str:
        return "" if value is None else f"{value / 2**20:.1f}"

    lines = [
        [
            *(mib(row[key]) for key in ("budget", "spent", "group_peak_bytes")),
            *(str(row[key] or "") for key in ("rung", "outcome", "kills")),
            str(row["exit_code"]),
        ]
        for row in rows
    ]
    outcomes = [row["outcome"] for row in rows]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
    return "\n".join([table(columns, lines), "", counts])


if __name__ == "__main__":
    main()
