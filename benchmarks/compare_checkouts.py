"""Did a change of the code cost anything? Measures two checkouts of edge-train side by side.

Each checkout exports the same recipe with its exporter and trains it with its command line, in
this Python and on this machine. Measured are the time of a step and the peak memory of the
training process, CPU time and memory of `export`, CPU time of `--help`, and time and memory of
`report` on a long run in the checkout's format. Everything runs in new processes. The two
checkouts alternate, and every other round begins with the other one.

    python benchmarks/compare_checkouts.py ../before . -o comparison.json

A row has the median, the least and the largest value of the rounds for each checkout. `ratio`
is the median over the rounds of new divided by old within a round, so a slow round does not
change it.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from parts.common import MIB, Row, interleaved, machine, say, table, versions, vit_flags

PICTURES, SIZE_PX, BATCH_SIZE = 64, 32, 16
STEPS_PER_EPOCH = PICTURES // BATCH_SIZE
HELP_CALLS = 5  # per round
Values = dict[str, float]  # one measurement, units in the names
_WRITE_RUN = """
import sys
from pathlib import Path
from report_size import write_run
write_run(Path(sys.argv[1]), int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Finished:
    """A process that ended successfully, and its costs."""

    stdout: str
    cpu_s: float
    wall_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Checkout:
    """One of the two, and the folder for its output."""

    name: str  # "old" or "new"
    root: Path
    folder: Path

    def edge_train(self, *words: str) -> Finished:
        """Run the checkout's command line."""
        return self.python("-m", "edge_runtime.cli.main", *words)

    def python(self, *words: str) -> Finished:
        """Run this interpreter on the checkout's code.

        `ru_maxrss` begins at the peak of this process, which is below that of any task.
        """
        begin_s = time.perf_counter()
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            # In a separate folder: `-m` looks for modules in the current folder first.
            process = subprocess.Popen(
                [sys.executable, *words],
                env=self._environment(),
                cwd=self.folder,
                stdout=stdout,
                stderr=stderr,
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - begin_s
            process.returncode = os.waitstatus_to_exitcode(status)
            stdout.seek(0)
            stderr.seek(0)
            if process.returncode:
                command = " ".join(words[:6])
                raise SystemExit(
                    f"{self.root}: {command} ended with {process.returncode}:\n"
                    f"{stderr.read()[-3000:]}"
                )
            cpu_s = usage.ru_utime + usage.ru_stime
            return Finished(stdout.read(), cpu_s, wall_s, usage.ru_maxrss * 1024)

    def _environment(self) -> dict[str, str]:
        paths = [self.root, self.root / "benchmarks"]
        if (self.root / "export" / "edge_export").is_dir():  # before, `export` was the package
            paths.insert(1, self.root / "export")
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONWARNINGS": "ignore",
            "EDGE_TRAIN_CACHE": str(self.folder / "cache"),
        }


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse(words)
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [
            prepared(Checkout(name, root.resolve(), Path(folder) / name), args)
            for name, root in (("old", args.old), ("new", args.new))
        ]
        measured = interleaved(
            [(task, checkout) for task in tasks_of(args) for checkout in checkouts],
            args.rounds,
            lambda key: measure(*key, args),
        )
        document = {
            "rows": rows_of(measured, checkouts),
            "machine": facts,
            "versions": {
                **versions(
                    "torch", "onnx", "onnxruntime", "onnxruntime-training-cpu", "numpy"
                ),
                **{checkout.name: commit_of(checkout.root) for checkout in checkouts},
            },
        }
    text = json.dumps(document, indent=1)
    if args.output:
        args.output.write_text(text + "\n")
    print(text if args.json else text_of(document["rows"]))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, with the changes of `--quick`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", metavar="OLD", type=Path, help="a checkout of edge-train")
    parser.add_argument("new", metavar="NEW", type=Path, help="another one")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="for the document")
    parser.add_argument(
        "--tasks",
        type=lambda text: text.split(","),
        default=list(TASKS),
        metavar="T,T,...",
        help=f"default: {','.join(TASKS)}",
    )
    parser.add_argument(
        "--keep-ratios",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[1.0, 0.5],
        metavar="R,R,...",
        help="default: 1.0,0.5",
    )
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--steps", type=int, default=24, help="per process; default: 24")
    parser.add_argument("--warm-up", type=int, default=4, help="steps of them; default: 4")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; default: 2")
    parser.add_argument("--depth", type=int, default=12, help="blocks; default: 12")
    parser.add_argument(
        "--samples", type=int, default=1_000_000, help="of the report's run; default: 1000000"
    )
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    if unknown := set(args.tasks) - set(TASKS):
        parser.error(f"unknown task {', '.join(unknown)}; known are {', '.join(TASKS)}")
    if args.quick:
        args.rounds, args.depth, args.samples = 1, 2, 10_000
    args.steps = math.ceil(args.steps / STEPS_PER_EPOCH) * STEPS_PER_EPOCH
    return args


def prepared(checkout: Checkout, args: argparse.Namespace) -> Checkout:
    """Prepare a checkout for its tasks; this also compiles its modules."""
    checkout.folder.mkdir()
    imported = checkout.python(
        "-c", "import edge_runtime; print(edge_runtime.__file__)"
    ).stdout
    if not Path(imported.strip()).resolve().is_relative_to(checkout.root):
        raise SystemExit(
            f"{checkout.root} is not a checkout: {imported.strip()} was imported."
        )
    checkout.edge_train("--help")
    if "step" in args.tasks:
        say(f"{checkout.name}: exporting")
        export(checkout, args, "package")
        pictures = checkout.folder / "pictures"
        pictures.mkdir()
        noise = np.random.default_rng(0)
        for number in range(PICTURES):
            pixels = noise.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
            header = f"P6 {SIZE_PX} {SIZE_PX} 255\n".encode()
            (pictures / f"{number:03}.ppm").write_bytes(header + pixels.tobytes())
    if "report" in args.tasks:
        say(f"{checkout.name}: writing a run of {args.samples} samples")
        checkout.python("-c", _WRITE_RUN, "long-run", str(args.samples))
    return checkout


# Tasks. Each returns the values of one process, or of several equal ones.


def export(checkout: Checkout, args: argparse.Namespace, target: str) -> Values:
    """Export and verify the recipe, with ort-training artifacts if they can be made."""
    flags = vit_flags(args.depth, BATCH_SIZE, args.keep_ratios)
    done = checkout.edge_train("export", *flags, "-o", target)
    return {"cpu_s": done.cpu_s, "peak_mib": done.peak_rss_bytes / MIB}


def new_export(checkout: Checkout, args: argparse.Namespace) -> Values:
    """Export to a new folder."""
    with tempfile.TemporaryDirectory(dir=checkout.folder) as folder:
        return export(checkout, args, str(Path(folder) / "package"))


def train(checkout: Checkout, args: argparse.Namespace, *, keep_ratio: float) -> Values:
    """Train some steps; a step's time is that inside the engine."""
    with tempfile.TemporaryDirectory(dir=checkout.folder) as folder:
        run = Path(folder) / "run"
        done = checkout.edge_train(
            *("run", "package", "pictures", "-o", str(run), "--engine", "ort"),
            *("--threads", str(args.threads), "--keep-ratio", f"{keep_ratio:g}"),
            *("--epochs", str(args.steps // STEPS_PER_EPOCH), "--json"),
        )
        steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    measured = [1000 * step["measured"]["step_s"] for step in steps[args.warm_up :]]
    return {
        "step_ms": statistics.median(measured),
        "peak_mib": done.peak_rss_bytes / MIB,
        "last_loss": steps[-1]["loss"],
    }


def start_up(checkout: Checkout, args: argparse.Namespace) -> Values:
    """`edge-train --help`."""
    calls = [checkout.edge_train("--help") for _ in range(HELP_CALLS)]
    return {"cpu_s": statistics.median(call.cpu_s for call in calls)}


def report(checkout: Checkout, args: argparse.Namespace) -> Values:
    """The page and the CSV files of the long run."""
    with tempfile.TemporaryDirectory(dir=checkout.folder) as folder:
        page = Path(folder) / "report.html"
        csv = str(Path(folder) / "csv")
        done = checkout.edge_train("report", "long-run", "-o", str(page), "--csv", csv)
        page_mb = page.stat().st_size / 1e6
    return {
        "cpu_s": done.cpu_s,
        "wall_s": done.wall_s,
        "peak_mib": done.peak_rss_bytes / MIB,
        "page_mb": page_mb,
    }


TASKS = ("step", "export", "help", "report")
Task = tuple[str, Callable[[Checkout, argparse.Namespace], Values]]


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """The measurements of a round, by the names of their rows."""
    steps: list[Task] = [
        (f"step, keep-ratio {ratio:g}", partial(train, keep_ratio=ratio))
        for ratio in args.keep_ratios
    ]
    rest: dict[str, Task] = {
        "export": ("export", new_export),
        "help": ("--help", start_up),
        "report": (f"report, {args.samples} samples", report),
    }
    chosen = [rest[name] for name in args.tasks if name in rest]
    return (steps if "step" in args.tasks else []) + chosen


def measure(task: Task, checkout: Checkout, args: argparse.Namespace) -> Values:
    """One task of one checkout; prints progress."""
    name, work = task
    values = work(checkout, args)
    text = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
    say(f"{checkout.name}  {name:22}{text}")
    return values


def rows_of(
    measured: dict[tuple[Task, Checkout], list[Values]], checkouts: list[Checkout]
) -> list[Row]:
    """A row for each value of each task."""
    old, new = checkouts
    rows = []
    for task in dict.fromkeys(task for task, _ in measured):
        for key in measured[task, old][0]:
            before, after = ([values[key] for values in measured[task, c]] for c in (old, new))
            ratios = [b / a for a, b in zip(before, after, strict=True)]
            rows.append(
                {
                    "task": task[0],
                    "value": key,
                    "old": summary_of(before),
                    "new": summary_of(after),
                    "ratio": round(statistics.median(ratios), 4),
                    "ratio_min": round(min(ratios), 4),
                    "ratio_max": round(max(ratios), 4),
                    "rounds": len(ratios),
                }
            )
    return rows


def summary_of(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    summary = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.6g}") for name, value in summary.items()}


def commit_of(root: Path) -> str | None:
    """Commit of a checkout, with a plus if files differ; `None` without git."""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return None
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return head.stdout.strip()[:12] + ("+" if changed.stdout.strip() else "")


def text_of(rows: list[dict[str, Any]]) -> str:
    """The table."""

    def cell(summary: dict[str, float]) -> str:
        return f"{summary['median']:.4g} ({summary['min']:.4g}-{summary['max']:.4g})"

    lines = [
        [
            row["task"],
            row["value"],
            cell(row["old"]),
            cell(row["new"]),
            f"{row['ratio']:.3f} ({row['ratio_min']:.3f}-{row['ratio_max']:.3f})",
        ]
        for row in rows
    ]
    return table(("task", "value", "old", "new", "new / old"), lines)


if __name__ == "__main__":
    main()
