"""What does it gain that the EMA teacher computes the next batch while the student trains?

The same steps with the teacher inside the step's graph, before it (delay 0), one step late in
turn, and one step late on a thread beside the step (delay 1). One row is one of the four at
one keep-ratio and number of threads, which student and teacher have each; each is measured in
a new process per round, rows interleaved. `of_delay_0` is its median over that of delay 0 with
the same threads, and `same_bytes` whether its last state is that of delay 1 in turn, in every
round.

    python benchmarks/teacher_overlap.py --json > docs/results/teacher_overlap.json

With `--device webgpu` the student trains on the GPU; a teacher that is one step late computes
on the processor beside it, and one of delay 0 on the GPU. `--python` names the environment.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
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

INSIDE, FIRST, LATE, OVERLAPPED = "inside the step", "delay 0", "delay 1 in turn", "delay 1"
DELAYS = {INSIDE: None, FIRST: 0, LATE: 1, OVERLAPPED: 1}


class Case(NamedTuple):
    """One row before it is measured."""

    teacher: str
    keep_ratio: float
    threads: int


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_common_arguments(parser, rounds=3, steps=16)
    parser.add_argument("--method", default="byol", help="with an EMA teacher; default: byol")
    parser.add_argument("--device", default="cpu", help="of the student; default: cpu")
    parser.add_argument("--python", default=sys.executable, help="of another environment")
    args = parser.parse_args(words)
    if args.package is not None:
        parser.error("--package: this benchmark exports three packages that belong together")
    ratios, threads = [1.0, 0.5], [1, 2]
    if args.quick:
        args.rounds, args.steps, args.depth, ratios, threads = 1, 3, 2, [0.5], [1]
    cases = [
        Case(teacher, ratio, count)
        for count in threads
        for ratio in ratios
        for teacher in DELAYS
    ]
    with ExitStack() as stack:
        packages = {
            delay: stack.enter_context(package_at(None, flags_of(args, ratios, delay)))
            for delay in dict.fromkeys(DELAYS.values())
        }
        facts = machine()
        measured = interleaved(cases, args.rounds, lambda case: measure(case, packages, args))
    rows = [row_of(case, results, args) for case, results in measured.items()]
    for row in rows:
        row["of_delay_0"] = round(row["median_ms"] / beside(row, rows, FIRST)["median_ms"], 3)
        row["same_bytes"] = same_bytes(row, beside(row, rows, LATE))
    runtimes = sorted({results[0]["runtime"] for results in measured.values()})
    if args.json:
        known = {**versions("numpy"), "runtimes": runtimes}
        print(json.dumps({"rows": rows, "machine": facts, "versions": known}, indent=1))
    else:
        columns = [name for name in rows[0] if name != "state_sha256"]
        print(", ".join(runtimes))
        print(table(columns, [[str(row[name]) for name in columns] for row in rows]))


def flags_of(
    args: argparse.Namespace, ratios: Sequence[float], delay: int | None
) -> list[str]:
    """Of the export of one of the packages."""
    flags = vit_flags(args.depth, args.batch_size, ratios)
    flags[flags.index("--method") + 1] = args.method
    return flags if delay is None else [*flags, "--set", f"method.teacher_delay={delay}"]


def measure(case: Case, packages: dict[int | None, Path], args: argparse.Namespace) -> Row:
    """One process."""
    job = {
        "package": str(packages[DELAYS[case.teacher]]),
        "keep_ratio": case.keep_ratio,
        "device": args.device,
        "threads": case.threads,
        "ahead": case.teacher == OVERLAPPED,
        "warm_up": 3,
        "steps": args.steps,
    }
    row = in_fresh_process(args.python, "step_teacher", job)
    say(f"{case}: {statistics.median(row['step_ms']):.1f} ms")
    return row


def row_of(case: Case, results: list[Row], args: argparse.Namespace) -> Row:
    """A row of all rounds."""
    row = {
        **case._asdict(),
        "forward_engine": results[0]["forward_engine"],
        **spread([step for result in results for step in result["step_ms"]], "ms"),
        "cpu_ms": round(statistics.median(result["cpu_ms"] for result in results), 1),
        "peak_mib": round(max(result["peak_rss_bytes"] for result in results) / 2**20),
        # A single one, if all rounds have the same bytes
        "state_sha256": sorted({result["state_sha256"] for result in results}),
    }
    row["pictures_per_s"] = round(1000 * args.batch_size / row["median_ms"], 1)
    return row


def same_bytes(row: Row, other: Row) -> bool:
    """Whether every round of both rows ended with the same state."""
    hashes = row["state_sha256"]
    return len(hashes) == 1 and hashes == other["state_sha256"]


def beside(row: Row, rows: list[Row], teacher: str) -> Row:
    """The row of that teacher at the same keep-ratio and threads."""
    (found,) = (
        other
        for other in rows
        if other["teacher"] == teacher
        and all(other[key] == row[key] for key in ("keep_ratio", "threads"))
    )
    return found


if __name__ == "__main__":
    main()
