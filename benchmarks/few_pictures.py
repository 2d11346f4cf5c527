"""What does each method learn from few pictures, in how many epochs?

Trains a small ViT on the embedded handwritten digits with the user's commands (export, run,
eval), once per method, number of epochs and seed. Quality is the accuracy of kNN and of a
linear probe on digits of other writers, before and after; cost is the FLOPs of a step, its
time as what the fastest tenth of the steps took at most, so that other programs on the machine
make no method slower than another, and the peak of memory.

    python benchmarks/few_pictures.py -o docs/results/few_pictures.jsonl

Each finished run appends one JSON line to the output file, and is not repeated when the
benchmark is called again.
"""

import argparse
import json
import shlex
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune import end_of
from parts.common import MIB, Row, add_line, edge_train, fast_tenth, machine, table, versions
from quality import rows_in

from edge_runtime.package import open_package
from edge_runtime.records import open_run

KEEP_RATIO = 0.75
KEEP_RATIOS = {"mae": 0.25}  # the share of visible patches
METHODS = ("simclr", "mocov3", "byol", "simsiam", "vicreg", "barlowtwins", "dino", "mae")
MODEL = (
    *("--model", "vit_tiny", "--image-size", "16", "--patch-size", "4"),
    *("--depth", "3", "--width", "96", "--batch-size", "32"),
    *("--set", "augmentation.flip=0"),
)


@dataclass(frozen=True)
class Trial:
    """A run."""

    method: str
    epochs: int
    seed: int

    def facts(self) -> Row:
        """What makes two runs the same."""
        keep_ratio = KEEP_RATIOS.get(self.method, KEEP_RATIO)
        return {**asdict(self), "keep_ratio": keep_ratio, "model": shlex.join(MODEL)}


def main(words: Sequence[str] | None = None) -> None:
    """Export, train, evaluate, print."""
    args = parse(words)
    trials = [
        Trial(method, epochs, seed)
        for seed in args.seeds
        for epochs in args.epochs
        for method in args.methods
    ]
    rows = []
    for trial in trials:
        known = [row for row in rows_in(args.output) if trial.facts().items() <= row.items()]
        rows.append(known[0] if known else measure(trial, args.output))
    print(json.dumps({"rows": rows}, indent=1) if args.json else text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a JSON line per run is added"
    )
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=list(METHODS),
        metavar="M,M,...",
        help=f"default: {','.join(METHODS)}",
    )
    for name, default in (("--epochs", [20, 100]), ("--seeds", [0, 1, 2])):
        parser.add_argument(
            name,
            type=lambda text: [int(part) for part in text.split(",")],
            default=default,
            metavar="N,N,...",
            help=f"default: {','.join(map(str, default))}",
        )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


def measure(trial: Trial, output: Path | None) -> Row:
    """Train and evaluate; the row is in the output file."""
    facts, seed = trial.facts(), ["--seed", str(trial.seed)]
    with tempfile.TemporaryDirectory() as folder:
        package, run = Path(folder) / "package", Path(folder) / "run"
        ladder = ["--keep-ratios", str(facts["keep_ratio"])]
        flags = [*MODEL, "--method", trial.method, *ladder, *seed]
        edge_train(["export", *flags, "-o", str(package)])
        flags = ["--engine", "ort", "--epochs", str(trial.epochs), *seed]
        edge_train(["run", str(package), "digits", "-o", str(run), *flags], show=True)
        command = ["eval", str(run), "--train", "digits", "--test", "digits:test"]
        scores = json.loads(edge_train([*command, "--linear", "--json"]))
        (rung,) = open_package(package).manifest.rungs
        recorded = open_run(run)
        steps, peak_bytes = recorded.steps(), end_of(recorded).peak_bytes
    row = {
        **facts,
        "knn": scores["knn"],
        "linear": scores["linear"],
        "steps": len(steps),
        "step_flops": rung.flops,
        "fast_step_s": fast_tenth([step.measured.step_s for step in steps]),
        "threads": recorded.info.threads,
        "peak_bytes": peak_bytes,
        "machine": machine(),
        "versions": {**versions(), **recorded.info.versions},
    }
    add_line(output, row)
    return row


def text_of(rows: list[Row]) -> str:
    """A line per method and number of epochs: means over seeds."""
    lines = []
    for method, epochs in dict.fromkeys((row["method"], row["epochs"]) for row in rows):
        of_both = [r for r in rows if (r["method"], r["epochs"]) == (method, epochs)]
        lines.append([method, str(epochs), str(len(of_both)), *numbers_of(of_both)])
    columns = (
        "method", "epochs", "seeds", "kNN untrained", "kNN", "linear",
        "GFLOP per step", "step ms", "peak MiB",
    )  # fmt: skip
    return table(columns, lines)


def numbers_of(rows: list[Row]) -> list[str]:
    """The means of rows that differ by their seed."""

    def percent(score: str, key: str) -> str:
        return f"{statistics.mean(row[score][key] for row in rows):.1%}"

    step_ms = 1000 * statistics.mean(row["fast_step_s"] for row in rows)
    return [
        *(percent("knn", key) for key in ("untrained_accuracy", "accuracy")),
        percent("linear", "accuracy"),
        f"{rows[0]['step_flops'] / 1e9:.1f}",
        f"{step_ms:.1f}",
        f"{max(row['peak_bytes'] for row in rows) / MIB:.0f}",
    ]


if __name__ == "__main__":
    main()
