"""Are memory budgets kept? Enforced by the kernel.

Real runs with random memory budgets, each inside a memory control group (root only) whose hard
limit is its budget. The cost profile is measured outside, or, with `--unprofiled`, by each run
itself, inside.

    python benchmarks/memory_trials.py --trials 50 --seed 0 -o docs/results/memory_trials.jsonl

Outcome: `kept` (the run succeeded and the kernel killed none of its processes, except those
that measure a rung that does not fit), `refused` (exit code 7, and the budget is less than 10
% above the measured need of the smallest rung), or `broken`.
"""

import argparse
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from parts.common import (
    Row,
    edge_train,
    edge_train_command,
    package_at,
    say,
    vit_flags,
    worker_environment,
)
from parts.trials import (
    BATCH_SIZE,
    BROKEN,
    EXIT_REFUSED,
    KEPT,
    RATIOS,
    REFUSED,
    add_trial_arguments,
    records_of,
    run_trials,
    seeds_of,
)

from device_tests.cgroup import memory_cgroup
from edge_runtime.package import open_package
from edge_runtime.profiling import load_profile

DATA, STEPS = "digits", 10  # enough for every rung's peak, and for a checkpoint
MARGIN = 0.10


def mib(size_bytes: int | None) -> str:
    """For the table."""
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.1f} MiB"


COLUMNS = {
    "seed": lambda row: str(row["seed"]),
    "profiled": lambda row: "yes" if row["profiled"] else "no",
    "budget": lambda row: mib(row["budget"]),
    "resident peak": lambda row: mib(row["spent"]),
    "group peak": lambda row: mib(row["group_peak_bytes"]),
    "outcome": lambda row: row["outcome"],
    "rung": lambda row: row["rung"] or "-",
    "kills": lambda row: str(row["kills"]),
    "exit code": lambda row: str(row["exit_code"]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The common part of all trials."""

    package: Path
    profile_file: Path
    images: int  # per epoch
    needs_bytes: list[int]  # of the rungs, as measured outside


class Ended(NamedTuple):
    """A command that ran inside a limit: its exit code, and the kernel's counters."""

    exit_code: int
    kills: int
    group_peak_bytes: int


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_trial_arguments(parser)
    parser.add_argument("--unprofiled", action="store_true", help="runs have no profile")
    args = parser.parse_args(words)
    known = {"kind": "memory", "profiled": not args.unprofiled}
    trials = [{"seed": seed, **known} for seed in seeds_of(args)]
    run_trials(args, trials, lambda left: rows_of(left, args), COLUMNS)


def rows_of(trials: Sequence[Row], args: argparse.Namespace) -> Iterator[Row]:
    """Run trials with one profile, measured outside."""
    with (
        package_at(args.package, vit_flags(args.depth, BATCH_SIZE, RATIOS)) as package,
        tempfile.TemporaryDirectory() as folder,
    ):
        file = Path(folder) / "profile.json"
        say("profiling outside")
        words = ["profile", str(package), "-o", str(file)]
        edge_train(words, show=True, environment={"EDGE_TRAIN_CACHE": folder})
        place = Place(
            package=package,
            profile_file=file,
            images=STEPS * open_package(package).manifest.batch_size,
            needs_bytes=[
                cost.peak_bytes for cost in load_profile(file).rungs if cost.peak_bytes
            ],
        )
        for trial in trials:
            yield row_of(trial, place)


def row_of(trial: Row, place: Place) -> Row:
    """Run one trial and judge it."""
    budget, least = budget_bytes(trial["seed"], place), min(place.needs_bytes)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = ["run", str(place.package), DATA, "-o", str(run_dir)]
        words += ["--epochs", "1", "--images", str(place.images), "--memory", f"{budget}B"]
        words += ["--profile", str(place.profile_file)] if trial["profiled"] else []
        ended = run_within(budget, words, cache=f"{folder}/cache")
        finished, steps = records_of(run_dir)
    outcome = BROKEN
    if ended.exit_code == EXIT_REFUSED and budget < least * (1 + MARGIN):
        outcome = REFUSED
    elif ended.exit_code == 0 and finished and not (trial["profiled"] and ended.kills):
        outcome = KEPT
    return {
        **trial,
        "budget": budget,
        "spent": finished.peak_bytes if finished else None,
        "outcome": outcome,
        "rung": steps[-1].rung if steps else None,
        "smallest_rung_bytes": least,
        **ended._asdict(),
    }


def budget_bytes(seed: int, place: Place) -> int:
    """From below the need of the smallest rung to above that of the largest."""
    low, high = 0.85 * min(place.needs_bytes), 1.2 * max(place.needs_bytes)
    return int(random.Random(f"{seed} budget").uniform(low, high))


def run_within(limit_bytes: int, words: Sequence[str], cache: str) -> Ended:
    """Run a command inside a memory limit."""
    environment = {**worker_environment(), "EDGE_TRAIN_CACHE": cache}
    with memory_cgroup(limit_bytes) as group:
        command = group.command(edge_train_command(words))
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        return Ended(done.returncode, group.kills, group.peak_bytes)


if __name__ == "__main__":
    main()
