"""Are budgets kept, and is as much trained within them as could be?

Real runs with random budgets on an emulated board that is driven by this machine's CPU load:
energy is counted by the board's own log and time from outside, both from process start to
exit. Kinds of trials: `energy`, `time`, `power` (mean) and `temperature`. With `--disturb`
every trial is disturbed half-way: another process takes a processor (`load`), or the board
takes 50 % more power (`jump`). Limits of memory have a benchmark of their own, memory_trials.

    python benchmarks/budget_trials.py --trials 50 -o docs/results/budget_trials.jsonl

Outcome: `kept` (spent at most 2 % or one step more than the budget), `refused` (exit code 7),
or `broken`. `share` is what was trained, in token-blocks, of what the best schedule would have
trained, had it known what steps were going to cost; not said of disturbed trials, whose
costs have no one value. Each trial adds a JSON line to the output file as it ends; trials that
the file has already are not repeated.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parts.common import Row, add_line, machine, package_at, say, table, versions, vit_flags
from parts.hindsight import best_token_blocks

from device_tests.emulated_board.driving import DriveOptions, HeatModel
from device_tests.emulated_board.running import RunningBoard, running_board
from edge_runtime.budget import Budget
from edge_runtime.errors import BudgetError
from edge_runtime.planning import CostProfile, load_profile, make_plan, overhead_of
from edge_runtime.records import Run, open_run
from edge_runtime.records.events import Finished

KINDS = {  # kind -> (flag, field of a budget, unit)
    "energy": ("--energy", "energy_j", "J"),
    "time": ("--time", "time_s", "s"),
    "power": ("--power", "power_w", "W"),
    "temperature": ("--temperature", "temperature_c", "C"),
}
BOARD = "orin_nx"
DATA, EPOCHS = "digits", 3  # 264 steps of 16 pictures
RATIOS = (1.0, 0.8, 0.6, 0.4, 0.25)
LEAST_S = 60.0  # of a run that is not refused
# Warm enough to be limited, and within a minute.
HEAT = HeatModel(ambient_c=30.0, k_per_w=3.0, time_constant_s=15.0)
TOLERANCE = 0.02
EXIT_REFUSED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run before it is started."""

    trial: int
    seed: int
    kind: str
    value: float
    disturbance: str | None  # "load" or "jump"

    @property
    def budget(self) -> Budget:
        """The limit of the run."""
        return Budget(**{KINDS[self.kind][1]: self.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all trials share."""

    package: Path
    profile_file: Path
    profile: CostProfile
    board: RunningBoard
    steps: int


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    rows = earlier_rows(args.output)
    with (
        package_at(args.package, vit_flags(args.depth, 16, RATIOS)) as package,
        place_for(package) as place,
    ):
        context = {"machine": machine(), "versions": versions("onnxruntime", "numpy")}
        for trial in drawn(args, place):
            if any(is_same(row, trial) for row in rows):
                continue
            rows.append(row_of(trial, place))
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
    parser.add_argument(
        "--kinds",
        type=lambda text: text.split(","),
        default=["energy", "time"],
        help=f"of {','.join(KINDS)}; default: energy,time",
    )
    parser.add_argument("--disturb", action="store_true", help="disturb every trial half-way")
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--depth", type=int, default=12, help="blocks; default: 12")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a JSON line per trial is added"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"unknown kind {', '.join(unknown)}; known are {', '.join(KINDS)}")
    return args


def earlier_rows(output: Path | None) -> list[Row]:
    """Rows of an interrupted benchmark."""
    if output is None or not output.exists():
        return []
    return [json.loads(line) for line in output.read_text().splitlines()]


def is_same(row: Row, trial: Trial) -> bool:
    """Whether a row is that of this trial, whatever its profile made of it."""
    fields = ("seed", "trial", "kind", "disturbance")
    return [row[field] for field in fields] == [getattr(trial, field) for field in fields]


@contextmanager
def place_for(package: Path) -> Iterator[Place]:
    """A driven board, and the package's cost profile on it."""
    options = DriveOptions(heat=HEAT)
    with tempfile.TemporaryDirectory() as folder, running_board(BOARD, options) as board:
        file = Path(folder) / "profile.json"
        say("profiling")
        environment = {**os.environ, **board.environment}
        subprocess.run(
            [*command_line(), "profile", str(package), "-o", str(file)],
            env=environment,
            check=True,
            stdout=sys.stderr,
        )
        profile = load_profile(file)
        steps = EPOCHS * (1415 // 16)
        yield Place(
            package=package, profile_file=file, profile=profile, board=board, steps=steps
        )


def command_line() -> list[str]:
    """`edge-train` of this checkout."""
    return [sys.executable, "-m", "edge_runtime.cli.main"]


def drawn(args: argparse.Namespace, place: Place) -> Iterator[Trial]:
    """Budgets between what the cheapest rung needs and what the best one does, some below."""
    overhead, costs = overhead_of(place.profile), place.profile.rungs
    cheapest, best = min(costs, key=lambda c: c.flops), max(costs, key=lambda c: c.flops)
    plans = [
        make_plan([cost], Budget(), steps=place.steps, overhead=overhead)
        for cost in (cheapest, best)
    ]
    for number in range(args.trials):
        rng = random.Random(f"{args.seed} {number}")
        kind = args.kinds[number % len(args.kinds)]
        share = rng.uniform(-0.05, 1.05)
        low, high = (reach(plan, kind) for plan in plans)
        yield Trial(
            trial=number,
            seed=args.seed,
            kind=kind,
            value=round(low + share * (high - low), 1),
            disturbance=rng.choice(("load", "jump")) if args.disturb else None,
        )


def reach(plan: Any, kind: str) -> float:
    """What a plan takes of a kind of limit; for long enough runs, never under a minute's."""
    if kind == "energy":
        return max(plan.energy_j, plan.power_w * LEAST_S)
    if kind == "time":
        return max(plan.time_s, LEAST_S)
    if kind == "power":
        return plan.power_w
    return HEAT.ambient_c + HEAT.k_per_w * plan.power_w * 0.9


def row_of(trial: Trial, place: Place) -> Row:
    """Run one trial and judge it."""
    flag, _, unit = KINDS[trial.kind]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = ["run", str(place.package), DATA, "-o", str(run_dir), "--epochs", str(EPOCHS)]
        words += ["--profile", str(place.profile_file), flag, f"{trial.value}{unit}"]
        code, start_s, end_s = run_disturbed(words, trial, place)
        run = open_run(run_dir) if run_dir.exists() else None
        row = judged(trial, place, code, (start_s, end_s), run)
    what = f"{trial.trial:3} {trial.kind:12}{trial.disturbance or '':6}"
    spent = f"{trial.value:8.1f} {unit} spent {row['spent']:8.1f}"
    say(f"{what}{spent}  {row['outcome']:8} share {row['share']}")
    return row


def run_disturbed(
    words: Sequence[str], trial: Trial, place: Place
) -> tuple[int, float, float]:
    """Exit code of a run, when its process was started and when it was gone."""
    environment = {**os.environ, **place.board.environment}
    start_s = time.monotonic()
    process = subprocess.Popen(
        [*command_line(), *words], env=environment, stdout=subprocess.DEVNULL
    )
    half_s = overhead_of(place.profile).startup_s + LEAST_S / 2
    timer = threading.Timer(half_s, disturb, [trial.disturbance, place.board, process])
    if trial.disturbance:
        timer.start()
    code = process.wait()
    end_s = time.monotonic()
    timer.cancel()
    place.board.set_factor(1.0)
    return code, start_s, end_s


def disturb(kind: str, board: RunningBoard, process: "subprocess.Popen[bytes]") -> None:
    """Until the run ends: more power for the same work, or a processor less."""
    if kind == "jump":
        board.set_factor(1.5)
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process.wait()
    other.send_signal(signal.SIGKILL)
    other.wait()


def judged(
    trial: Trial, place: Place, code: int, window_s: tuple[float, float], run: Run | None
) -> Row:
    """The row of a trial whose process is gone."""
    spent = spent_of(trial.kind, place.board, *window_s)
    events = [] if run is None else [event for _, event in run.events()]
    finished = next((event for event in events if isinstance(event, Finished)), None)
    steps = run.steps() if run else []
    best = trained = None
    if code == EXIT_REFUSED:
        outcome = "refused" if refused_rightly(trial, place) else "broken"
    else:
        step = max((s.measured.step_s for s in steps), default=0.0)
        one_step = step * (
            spent / (window_s[1] - window_s[0]) if trial.kind == "energy" else 1
        )
        slack = one_step if trial.kind in ("energy", "time") else 0.0
        within = spent <= max(trial.value * (1 + TOLERANCE), trial.value + slack)
        outcome = "kept" if code == 0 and finished and within else "broken"
        blocks = {cost.rung: cost.token_blocks for cost in place.profile.rungs}
        trained = sum(blocks[record.rung] for record in steps)
        if trial.disturbance is None and run is not None:
            joules = place.board.energy_j(*window_s)
            best = best_token_blocks(
                place.profile,
                trial.budget,
                steps,
                window_s[1] - window_s[0],
                joules,
                place.steps,
            )
    return {
        "seed": trial.seed,
        "trial": trial.trial,
        "kind": trial.kind,
        "disturbance": trial.disturbance,
        "budget": trial.value,
        "spent": round(spent, 2),
        "outcome": outcome,
        "exit_code": code,
        "stopped_by": finished.stopped_by if finished else None,
        "steps": len(steps),
        "time_s": round(window_s[1] - window_s[0], 2),
        "token_blocks": trained,
        "hindsight_token_blocks": best,
        "share": round(trained / best, 4) if best and trained else None,
    }


def spent_of(kind: str, board: RunningBoard, start_s: float, end_s: float) -> float:
    """By the board's log, and the clock outside."""
    if kind == "time":
        return end_s - start_s
    if kind == "temperature":
        return board.highest(start_s, end_s)
    energy_j = board.energy_j(start_s, end_s)
    return energy_j if kind == "energy" else energy_j / (end_s - start_s)


def refused_rightly(trial: Trial, place: Place) -> bool:
    """Whether the profile has no plan, even with a tenth more."""
    more = replace(trial.budget, **{KINDS[trial.kind][1]: trial.value / 1.1})
    try:
        make_plan(
            place.profile.rungs, more, steps=place.steps, overhead=overhead_of(place.profile)
        )
    except BudgetError:
        return True
    return False


def text_of(rows: Sequence[Row]) -> str:
    """The table."""
    columns = (
        "kind",
        "disturbed",
        "budget",
        "spent",
        "outcome",
        "stopped by",
        "steps",
        "share",
    )
    lines = [
        [
            row["kind"],
            row["disturbance"] or "",
            f"{row['budget']:.1f}",
            f"{row['spent']:.1f}",
            row["outcome"],
            row["stopped_by"] or "",
            str(row["steps"]),
            "" if row["share"] is None else f"{row['share']:.2f}",
        ]
        for row in rows
    ]
    outcomes = [row["outcome"] for row in rows]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
    return "\n".join([table(columns, lines), "", counts])


if __name__ == "__main__":
    main()
