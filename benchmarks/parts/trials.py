"""Runs with random budgets: common parts of the benchmarks of budgets.

A trial is a table of the settings that identify it, such as its seed and its kind. Its row
adds the budget, the spending, the outcome (`kept`, `refused` or `broken`) and other results.
Rows are written as they come; trials with a row are skipped, except those that others on the
machine's host disturbed.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edge_runtime.cli.quantities import count
from edge_runtime.errors import BudgetError
from edge_runtime.records import open_run
from edge_runtime.records.events import Finished, StepRecord
from parts.common import Row, add_line, machine, say, table, versions
from parts.host_pace import STEADY

KEPT, REFUSED, BROKEN = OUTCOMES = ("kept", "refused", "broken")
EXIT_REFUSED = BudgetError.exit_code
RATIOS = (1.0, 0.8, 0.6, 0.4, 0.25)  # of the package, if none is given
BATCH_SIZE = 16


def add_trial_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the common flags of benchmarks of budgets."""
    parser.add_argument("--trials", metavar="N", type=count, default=2, help="default: 2")
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="of the first trial; default: 0"
    )
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--depth", type=int, default=12, help="blocks of it; default: 12")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="add a JSON line per trial, and skip trials that it has",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def seeds_of(args: argparse.Namespace) -> range:
    """One per trial: it determines everything random in it."""
    return range(args.seed, args.seed + args.trials)


def run_trials(
    args: argparse.Namespace,
    trials: Sequence[Row],
    measure: Callable[[Sequence[Row]], Iterable[Row]],
    columns: Mapping[str, Callable[[Row], str]],
) -> None:
    """Run the remaining trials, and print all of them.

    Args:
        args: with those of `add_trial_arguments`.
        trials: all with the same keys.
        measure: yields the rows of these trials one by one.
        columns: of the text, by title: a row's cell.
    """
    earlier = [row for row in _earlier_rows(args.output) if _is_steady(row)]
    known = {_key(row, trials): row for row in earlier}
    left = [trial for trial in trials if _key(trial, trials) not in known]
    context = {"machine": machine(), "versions": versions("onnxruntime", "numpy")}
    if left:
        for row in measure(left):
            say("  ".join(f"{title} {cell(row)}" for title, cell in columns.items()))
            known[_key(row, trials)] = {**row, **context}
            add_line(args.output, {**row, **context})
    rows = [known[_key(trial, trials)] for trial in trials]
    if args.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    print("\n".join([table(list(columns), cells), "", summary(rows)]))


def _key(row: Row, trials: Sequence[Row]) -> tuple[object, ...]:
    return tuple(row.get(name) for name in trials[0])


def _earlier_rows(output: Path | None) -> list[Row]:
    if output is None or not output.exists():
        return []
    return [json.loads(line) for line in output.read_text().splitlines()]


def _is_steady(row: Row) -> bool:
    """Whether the machine was about as fast as in the beginning, if that was measured."""
    return row.get("host_pace", 1.0) <= STEADY


def summary(rows: Sequence[Row]) -> str:
    """One line: how many were kept, refused and broken, and the margins."""
    outcomes = [row["outcome"] for row in rows]
    parts = [", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in OUTCOMES)]
    kept = [row for row in rows if row["outcome"] == KEPT]
    if kept:
        most = max(row["spent"] / row["budget"] for row in kept)
        parts.append(f"kept ones spent {most:.1%} of the budget at most")
    if shares := [row["share"] for row in kept if row.get("share") is not None]:
        parts.append(f"and trained {min(shares):.1%} of the best in hindsight at least")
    return f"{len(rows)} trial(s): {'; '.join(parts)}"


def records_of(run_dir: Path) -> tuple[Finished | None, list[StepRecord]]:
    """How a run ended, and its steps; empty for a run that never began."""
    if not run_dir.exists():
        return None, []
    run = open_run(run_dir)
    ends = [logged.event for logged in run.events() if isinstance(logged.event, Finished)]
    return ends[-1] if ends else None, list(run.steps())
