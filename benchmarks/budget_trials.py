"""Are budgets kept, and how much of the best possible training is done within them?

Real runs with random budgets on an emulated board that is driven by this machine's CPU load:
energy is taken from the board's log and time from outside, both from process start to
exit. Kinds of trials: `energy`, `time`, `power` (mean) and `temperature`. With `--disturb`
every trial is disturbed half-way: another process uses a processor (`load`), or the board
draws 50 % more power (`jump`). With `--busy` two other programs use whatever processors they
get, from before its start to its end; the profile is of the quiet machine. Memory limits have
a separate benchmark, memory_trials.

    python benchmarks/budget_trials.py --trials 50 --seed 0 -o docs/results/budget_trials.jsonl

Outcome: `kept` (spent at most 2 % or one step more than the budget), `refused` (exit code 7,
and the budget is less than a tenth above what is needed by the profile), or `broken`. `share`
is the number of trained token-blocks over that of the best schedule in hindsight, which knows
the costs of the steps; `null` for disturbed trials, whose costs have no single value. `used`
is what was spent over the budget, where the budget was binding: where it ended the run, or
where not all steps were trained on the best rung.
`host_pace` is the slower one of the machine's paces before and after the trial, relative to
its pace at the profile: a trial above 1.2 stays in the file, and is repeated the next time.
"""

import argparse
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parts.board_runs import BUSY, COOL_S, HEAT, Ended, Place, place_for, run_disturbed
from parts.common import Row, package_at, vit_flags
from parts.hindsight import best_token_blocks
from parts.host_pace import HostPace
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

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget
from edge_runtime.planning import make_plan, overhead_of
from edge_runtime.records.events import StepRecord

KINDS = {  # kind -> (flag, field of a budget, unit)
    "energy": ("--energy", "energy_j", "J"),
    "time": ("--time", "time_s", "s"),
    "power": ("--power", "power_w", "W"),
    "temperature": ("--temperature", "temperature_c", "C"),
}
AMOUNTS = ("energy", "time")  # of which all can be used
TOLERANCE = 0.02
LOW_S = 68.0  # a little less is drawn and spent, and no run may be under a minute
COLUMNS = {
    "seed": lambda row: str(row["seed"]),
    "kind": lambda row: row["kind"],
    "disturbed": lambda row: row["disturbance"] or "-",
    "budget": lambda row: f"{row['budget']:.1f} {KINDS[row['kind']][2]}",
    "spent": lambda row: f"{row['spent']:.1f}",
    "outcome": lambda row: row["outcome"],
    "stopped by": lambda row: row["stopped_by"] or "-",
    "steps": lambda row: str(row["steps"]),
    "used": lambda row: "-" if row.get("used") is None else f"{row['used']:.3f}",
    "share": lambda row: "-" if row["share"] is None else f"{row['share']:.2f}",
    "host pace": lambda row: f"{row['host_pace']:.2f}" if "host_pace" in row else "-",
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    trials = [trial_of(seed, args) for seed in seeds_of(args)]
    run_trials(args, trials, lambda left: rows_of(left, args), COLUMNS)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_trial_arguments(parser)
    parser.add_argument(
        "--kinds",
        type=lambda text: text.split(","),
        default=["energy", "time"],
        help=f"of {','.join(KINDS)}, in turns; default: energy,time",
    )
    disturbed = parser.add_mutually_exclusive_group()
    disturbed.add_argument("--disturb", action="store_true", help="disturb trials half-way")
    disturbed.add_argument("--busy", action="store_true", help="beside two other programs")
    args = parser.parse_args(words)
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"unknown kind {', '.join(unknown)}; known are {', '.join(KINDS)}")
    return args


def trial_of(seed: int, args: argparse.Namespace) -> Row:
    """The settings that identify a trial."""
    disturbance = None
    if args.disturb:
        disturbance = random.Random(f"{seed} disturbance").choice(("load", "jump"))
    return {
        "seed": seed,
        "kind": args.kinds[seed % len(args.kinds)],
        "disturbance": BUSY if args.busy else disturbance,
    }


def rows_of(trials: Sequence[Row], args: argparse.Namespace) -> Iterator[Row]:
    """Run trials on one board, with one profile."""
    with (
        package_at(args.package, vit_flags(args.depth, BATCH_SIZE, RATIOS)) as package,
        place_for(package) as place,
    ):
        host = HostPace()  # at the profile
        for trial in trials:
            yield row_of(trial, place, host)


def row_of(trial: Row, place: Place, host: HostPace) -> Row:
    """Run one trial and judge it."""
    kind, budget = trial["kind"], budget_of(trial, place)
    pace_before = host.now()
    flag, _, unit = KINDS[kind]
    if kind == "temperature":
        time.sleep(COOL_S)  # the previous trial may have left the board hot
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        limit = [flag, f"{budget}{unit}"]
        ended = run_disturbed(place, run_dir, limit, trial["disturbance"])
        finished, steps = records_of(run_dir)
    joules = place.board.energy_j(ended.start_s, ended.end_s)
    spent = spent_of(kind, place, ended, joules)
    outcome = BROKEN
    if ended.code == EXIT_REFUSED and is_hopeless(kind, budget / 1.1, place):
        outcome = REFUSED
    elif ended.code == 0 and finished:
        most = allowed(kind, budget, joules / ended.duration_s, steps)
        outcome = KEPT if spent <= most else BROKEN
    best = None
    if steps and trial["disturbance"] is None:
        limits, run_s = limited(kind, budget), ended.duration_s
        best = best_token_blocks(place.profile, limits, steps, run_s, joules, place.steps)
    blocks = {cost.rung: cost.token_blocks for cost in place.profile.rungs}
    trained = sum(blocks[record.rung] for record in steps)
    is_binding = bool(steps) and trained < place.steps * max(blocks.values())
    return {
        **trial,
        "budget": budget,
        "spent": round(spent, 2),
        "outcome": outcome,
        "exit_code": ended.code,
        "stopped_by": finished.stopped_by if finished else None,
        "steps": len(steps),
        "time_s": round(ended.duration_s, 2),
        "token_blocks": trained,
        "hindsight_token_blocks": best,
        "share": round(trained / best, 4) if best else None,
        "used": round(spent / budget, 4) if is_binding and kind in AMOUNTS else None,
        "host_pace": round(max(pace_before, host.now()), 3),
    }


def spent_of(kind: str, place: Place, ended: Ended, joules: float) -> float:
    """From the board's log, and the clock outside."""
    if kind == "temperature":
        return place.board.highest(ended.start_s, ended.end_s)
    amounts = {
        "energy": joules,
        "time": ended.duration_s,
        "power": joules / ended.duration_s,
    }
    return amounts[kind]


def budget_of(trial: Row, place: Place) -> float:
    """Between the needs of the cheapest and of the best rung, or a little outside.

    Power and temperature begin at half of what the cheapest rung adds to the idle board.
    """
    overhead, costs = overhead_of(place.profile), place.profile.rungs
    ends = min(costs, key=lambda cost: cost.flops), max(costs, key=lambda cost: cost.flops)
    low, high = (
        reach(make_plan([cost], Budget(), steps=place.steps, overhead=overhead), trial["kind"])
        for cost in ends
    )
    if trial["kind"] in ("power", "temperature"):
        low = (low + (overhead.idle_w or 0.0)) / 2
    share = random.Random(f"{trial['seed']} budget").uniform(-0.05, 1.05)
    value = low + share * (high - low)
    is_heat = trial["kind"] == "temperature"
    return round(HEAT.after(0.0, value, math.inf) if is_heat else value, 1)


def reach(plan: Any, kind: str) -> float:
    """The use of a limit by a plan; energy and time are at least those of a minute."""
    if kind == "energy":
        return max(plan.energy_j, plan.power_w * LOW_S)
    if kind == "time":
        return max(plan.time_s, LOW_S)
    return plan.power_w


def allowed(kind: str, budget: float, mean_w: float, steps: Sequence[StepRecord]) -> float:
    """The maximum that a run may spend: 2 % more, or one step."""
    longest_s = max((record.measured.step_s for record in steps), default=0.0)
    one_step = {"time": longest_s, "energy": longest_s * mean_w}.get(kind, 0.0)
    return max(budget * (1 + TOLERANCE), budget + one_step)


def is_hopeless(kind: str, value: float, place: Place) -> bool:
    """Whether the profile has no plan for a run with that limit."""
    overhead = overhead_of(place.profile)
    try:
        make_plan(
            place.profile.rungs, limited(kind, value), steps=place.steps, overhead=overhead
        )
    except BudgetError:
        return True
    return False


def limited(kind: str, value: float) -> Budget:
    """A budget with one limit."""
    return Budget(**{KINDS[kind][1]: value})


if __name__ == "__main__":
    main()
