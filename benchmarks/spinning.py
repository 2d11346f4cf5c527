"""What does it cost or save that the runtime's threads spin while they wait for each other?

The same steps with spinning, without it, and by the rule that runs follow, beside programs
that use a part of a processor or several of them. One row is one of the three at one
keep-ratio and amount of other work; each is measured in a new process per round, rows
interleaved. `of_spinning` is its median over that with spinning.

    python benchmarks/spinning.py --json > docs/results/spinning.json
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from parts.common import (
    Row,
    add_common_arguments,
    in_fresh_process,
    interleaved,
    machine,
    package_at,
    say,
    spread,
    table,
    versions,
    vit_flags,
)
from parts.other_programs import other_programs

SPINNING, SLEEPING, RULE = "spinning", "sleeping", "rule"


class Case(NamedTuple):
    """One row before it is measured."""

    waiting: str
    keep_ratio: float
    others: float  # processors that other programs want


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_common_arguments(parser, rounds=3, steps=16)
    parser.add_argument("--python", default=sys.executable, help="of another environment")
    args = parser.parse_args(words)
    ratios, others = [1.0, 0.25], [0.0, 0.2, 0.5, 1.0, 2.0, 4.0]
    if args.quick:
        args.rounds, args.steps, args.depth, ratios, others = 1, 3, 2, [1.0], [0.0, 1.0]
    cases = [
        Case(waiting, ratio, amount)
        for amount in others
        for ratio in ratios
        for waiting in (SPINNING, SLEEPING, RULE)
    ]
    with package_at(args.package, vit_flags(args.depth, args.batch_size, ratios)) as package:
        facts = machine()
        measured = interleaved(cases, args.rounds, lambda case: measure(case, package, args))
    rows = [row_of(case, results) for case, results in measured.items()]
    for row in rows:
        row["of_spinning"] = round(row["median_ms"] / spinning_of(row, rows), 3)
    runtimes = sorted({results[0]["runtime"] for results in measured.values()})
    if args.json:
        known = {**versions("numpy"), "runtimes": runtimes}
        print(json.dumps({"rows": rows, "machine": facts, "versions": known}, indent=1))
    else:
        columns = list(rows[0])
        print(", ".join(runtimes))
        print(table(columns, [[str(row[name]) for name in columns] for row in rows]))


def measure(case: Case, package: Path, args: argparse.Namespace) -> Row:
    """One process, beside the other programs."""
    job = {
        "engine": "ort",
        "package": str(package),
        "keep_ratio": case.keep_ratio,
        "threads": None,
        "warm_up": 3,
        "steps": args.steps,
        "spinning": {SPINNING: True, SLEEPING: False, RULE: None}[case.waiting],
    }
    with other_programs(case.others):
        row = in_fresh_process(args.python, "step_spinning", job)
    say(f"{case}: {statistics.median(row['step_ms']):.1f} ms")
    return row


def row_of(case: Case, results: list[Row]) -> Row:
    """A row of all rounds."""
    return {
        **case._asdict(),
        **spread([step for result in results for step in result["step_ms"]], "ms"),
        "cpu_ms": round(statistics.median(result["cpu_ms"] for result in results), 1),
    }


def spinning_of(row: Row, rows: list[Row]) -> float:
    """The median with spinning, at the same keep-ratio beside the same programs."""
    (median_ms,) = (
        other["median_ms"]
        for other in rows
        if other["waiting"] == SPINNING
        and all(other[key] == row[key] for key in ("keep_ratio", "others"))
    )
    return float(median_ms)


if __name__ == "__main__":
    main()
