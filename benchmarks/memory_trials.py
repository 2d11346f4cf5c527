"""Are memory budgets kept? Enforced by the kernel.

Real runs with random memory budgets, each inside a memory control group (root only) whose
hard limit is its budget: on the embedded digits, on phone photos of 12 megapixels and on a 4K
video; with a cost profile that was measured outside, or measured by the run itself, inside;
with --memory, or with the group's limit alone. With `--neighbour`, another program in the
group takes half of the memory that is free a few seconds after the first step.

    python benchmarks/memory_trials.py --trials 24 --seed 0 -o docs/results/memory_trials.jsonl

Outcome: `kept` (the run succeeded and the kernel killed no process), `refused` (exit code 7,
and the budget is less than 10 % above the need of the smallest rung and of decoding; without a
profile, 80 MiB more, since the measured process comes on top of the run's), or `broken`.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
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
from parts.large_pictures import write_photos, write_video
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
from edge_runtime.profiling import load_profile

STEPS = 10  # enough for every rung's peak, and for a checkpoint
LONG_STEPS = 80  # with a neighbour
MARGIN = 0.10
BESIDE_BYTES = 80 << 20  # of the run's process while it measures
PHOTOS = 32
SETTLED_STEPS = 8  # before the neighbour comes
DATA = ("digits", "photos", "video")
DECODING = """
import sys
from pathlib import Path
from edge_runtime.data import decoding_bytes, open_source
from edge_runtime.package import open_package
manifest = open_package(Path(sys.argv[1])).manifest
source, batch_size = open_source(sys.argv[2]), manifest.batch_size
print(decoding_bytes(source, manifest.views, batch_size=batch_size, threads=None))
"""
NEIGHBOUR = """
import sys, time
held = bytearray(int(sys.argv[1]))
held[::4096] = b"x" * len(held[::4096])
time.sleep(3600)
"""


def mib(size_bytes: int | None) -> str:
    """For the table."""
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.1f} MiB"


COLUMNS = {
    "seed": lambda row: str(row["seed"]),
    "data": lambda row: row["data"],
    "profiled": lambda row: "yes" if row["profiled"] else "no",
    "flag": lambda row: "yes" if row["flag"] else "no",
    "neighbour": lambda row: mib(row["neighbour_bytes"]),
    "budget": lambda row: mib(row["budget"]),
    "resident peak": lambda row: mib(row["spent"]),
    "group peak": lambda row: mib(row["group_peak_bytes"]),
    "outcome": lambda row: row["outcome"],
    "rungs": lambda row: " ".join(row["rungs"]) or "-",
    "stopped by": lambda row: row["stopped_by"] or "-",
    "kills": lambda row: str(row["kills"]),
    "exit code": lambda row: str(row["exit_code"]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The common part of all trials."""

    package: Path
    profile_file: Path
    folder: Path  # of the pictures
    needs_bytes: list[int]  # of the rungs, as measured outside

    def data(self, kind: str) -> str:
        """The argument DATA."""
        files = {"photos": self.folder / "photos", "video": self.folder / "video.mp4"}
        return str(files.get(kind, kind))

    def decoding_bytes(self, kind: str) -> int:
        """What decoding these pictures takes, as a run predicts it: in a new process."""
        command = [sys.executable, "-c", DECODING, str(self.package), self.data(kind)]
        return int(subprocess.check_output(command, env=worker_environment()))


class Ended(NamedTuple):
    """A command that ran inside a limit: its exit code, and the kernel's counters."""

    exit_code: int
    kills: int
    group_peak_bytes: int
    neighbour_bytes: int | None  # that it took


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_trial_arguments(parser)
    parser.add_argument("--neighbour", action="store_true", help="beside another program")
    args = parser.parse_args(words)
    trials = [trial_of(seed, neighbour=args.neighbour) for seed in seeds_of(args)]
    run_trials(args, trials, lambda left: rows_of(left, args), COLUMNS)


def trial_of(seed: int, *, neighbour: bool) -> Row:
    """Every combination in twelve trials."""
    return {
        "seed": seed,
        "kind": "memory beside a neighbour" if neighbour else "memory",
        "data": DATA[seed % 3],
        "profiled": seed // 3 % 2 == 0,
        "flag": seed // 6 % 2 == 0,
    }


def rows_of(trials: Sequence[Row], args: argparse.Namespace) -> Iterator[Row]:
    """Run trials with one profile, measured outside."""
    with (
        package_at(args.package, vit_flags(args.depth, BATCH_SIZE, RATIOS)) as package,
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = Path(temporary)
        say("making photos and a video")
        write_photos(folder / "photos", PHOTOS)
        write_video(folder / "video.mp4")
        file = folder / "profile.json"
        say("profiling outside")
        words = ["profile", str(package), "-o", str(file)]
        edge_train(words, show=True, environment={"EDGE_TRAIN_CACHE": temporary})
        costs = load_profile(file).rungs
        place = Place(
            package=package,
            profile_file=file,
            folder=folder,
            needs_bytes=[cost.peak_bytes for cost in costs if cost.peak_bytes],
        )
        for trial in trials:
            yield row_of(trial, place)


def row_of(trial: Row, place: Place) -> Row:
    """Run one trial and judge it."""
    decoding = place.decoding_bytes(trial["data"])
    has_neighbour = "neighbour" in trial["kind"]
    budget = budget_bytes(trial["seed"], place, decoding, has_neighbour)
    least = min(place.needs_bytes) + decoding
    steps = LONG_STEPS if has_neighbour else STEPS
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = ["run", str(place.package), place.data(trial["data"]), "-o", str(run_dir)]
        words += ["--epochs", "1", "--images", str(steps * BATCH_SIZE)]
        words += ["--memory", f"{budget}B"] if trial["flag"] else []
        words += ["--keep-ratio", "auto"] if trial["profiled"] and not trial["flag"] else []
        words += ["--profile", str(place.profile_file)] if trial["profiled"] else []
        run = partial(run_within, budget, words, f"{folder}/cache")
        ended = run(run_dir if has_neighbour else None)
        finished, records = records_of(run_dir)
    refusable = least * (1 + MARGIN) + (0 if trial["profiled"] else BESIDE_BYTES)
    outcome = BROKEN
    if ended.exit_code == EXIT_REFUSED and budget < refusable and not ended.kills:
        outcome = REFUSED
    elif ended.exit_code == 0 and finished and not ended.kills:
        outcome = KEPT
    return {
        **trial,
        "budget": budget,
        "spent": finished.peak_bytes if finished else None,
        "outcome": outcome,
        "stopped_by": finished.stopped_by if finished else None,
        "rungs": sorted({record.rung for record in records}),
        "smallest_rung_bytes": min(place.needs_bytes),
        "decoding_bytes": decoding,
        **ended._asdict(),
    }


def budget_bytes(seed: int, place: Place, decoding: int, has_neighbour: bool) -> int:
    """From below the need of the smallest rung to above that of the largest.

    With a neighbour, from what two thirds of the largest rung need to twice its need.
    """
    low, high = 0.85 * min(place.needs_bytes), 1.2 * max(place.needs_bytes)
    if has_neighbour:
        low, high = 1.15 * min(place.needs_bytes), 2.0 * max(place.needs_bytes)
    return int(random.Random(f"{seed} budget").uniform(low + decoding, high + decoding))


def run_within(
    limit_bytes: int, words: Sequence[str], cache: str, beside: Path | None
) -> Ended:
    """Run a command inside a memory limit, with a neighbour beside this run folder."""
    environment = {**worker_environment(), "EDGE_TRAIN_CACHE": cache}
    with memory_cgroup(limit_bytes) as group, ExitStack() as stack:
        command = group.command(edge_train_command(words))
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        taken = None
        if beside is not None and wait_for_steps(run, beside):
            taken = group.free_bytes // 2
            words = group.command([sys.executable, "-c", NEIGHBOUR, str(taken)])
            stack.callback(subprocess.Popen(words).kill)
        code = run.wait()
        return Ended(code, group.kills, group.peak_bytes, taken)


def wait_for_steps(run: "subprocess.Popen[bytes]", run_dir: Path) -> bool:
    """Wait until it trains; whether it does."""
    steps = run_dir / "steps.jsonl"
    while run.poll() is None:
        if steps.exists() and steps.read_bytes().count(b"\n") >= SETTLED_STEPS:
            return True
        time.sleep(0.1)
    return False


if __name__ == "__main__":
    main()
