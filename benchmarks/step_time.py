"""How fast is a training step, and how much memory does it take?

PyTorch eager and compiled, the official training API, and the step graph on the onnxruntime
of this environment and of others: the same SimCLR step of the same ViT from the same weights
on the same batch. One row is one engine at one keep-ratio; each is measured in a new process
per round, rows interleaved; the package is exported once and used by all.

    python benchmarks/step_time.py --ort-python /path/to/another/venv/bin/python

`flops` of a row are its actual matrix products: PyTorch's from its counter, with all tokens in
the last block; the engines' from the manifest.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts.common import (
    MIB,
    Row,
    add_common_arguments,
    in_fresh_process,
    interleaved,
    is_installed,
    machine,
    package_at,
    say,
    spread,
    table,
    versions,
    vit_flags,
)

ENGINES = {  # name -> (worker, required module)
    "eager": ("step_torch", "torch"),
    "compile": ("step_torch", "torch"),
    "ort-training": ("step_ort", "onnxruntime.training.api"),
    "ort": ("step_ort", "onnxruntime"),
}
LOSS_TOLERANCE = 1e-4  # relative, of the first step: larger differences are refused


@dataclass(frozen=True)
class Case:
    """One row before it is measured."""

    engine: str
    python: str
    keep_ratio: float


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    cases = cases_of(args)
    with package_at(
        args.package, vit_flags(args.depth, args.batch_size, args.keep_ratios)
    ) as package:
        facts = machine()
        losses: dict[float, float] = {}
        measured = interleaved(
            cases, args.rounds, lambda case: measure(case, package, args, losses)
        )
    rows = [row_of(case, results) for case, results in measured.items()]
    if args.json:
        runtimes = list(dict.fromkeys(results[0]["runtime"] for results in measured.values()))
        document = {
            "rows": rows,
            "machine": facts,
            "versions": {**versions("torch", "numpy"), "runtimes": runtimes},
        }
        print(json.dumps(document, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, with the changes of `--quick`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_common_arguments(parser, rounds=5, steps=8)
    parser.add_argument(
        "--engines",
        type=lambda text: text.split(","),
        default=[name for name, (_, needs) in ENGINES.items() if is_installed(needs)],
        metavar="E,E,...",
        help=f"of {','.join(ENGINES)}; default: what this environment can run",
    )
    parser.add_argument(
        "--ort-python",
        action="append",
        default=[],
        metavar="PATH",
        help="interpreter of another environment with onnxruntime; may be given several times",
    )
    parser.add_argument(
        "--keep-ratios",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[1.0, 0.5],
        metavar="R,R,...",
        help="default: 1.0,0.5",
    )
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before; default: 3")
    args = parser.parse_args(words)
    if unknown := set(args.engines) - set(ENGINES):
        parser.error(f"unknown engine {', '.join(unknown)}; known are {', '.join(ENGINES)}")
    if args.quick:
        args.rounds, args.steps, args.warm_up, args.depth = 1, 2, 1, 2
    return args


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Every requested row."""
    engines = [(engine, sys.executable) for engine in args.engines]
    engines += [("ort", python) for python in args.ort_python]
    return [Case(*engine, ratio) for engine in engines for ratio in args.keep_ratios]


def measure(
    case: Case, package: Path, args: argparse.Namespace, losses: dict[float, float]
) -> Row:
    """One process of one row, whose first loss must equal that of all others.

    `losses` keeps the first one at each keep-ratio.
    """
    job = {
        "engine": case.engine,
        "package": str(package),
        "keep_ratio": case.keep_ratio,
        "threads": args.threads,
        "warm_up": args.warm_up,
        "steps": args.steps,
    }
    row = in_fresh_process(case.python, ENGINES[case.engine][0], job)
    median_ms = statistics.median(row["step_ms"])
    say(f"{case.engine:13}{row['runtime']:34}{case.keep_ratio:4g}{median_ms:9.1f} ms")
    loss, wanted = row["first_loss"], losses.setdefault(case.keep_ratio, row["first_loss"])
    if not math.isclose(loss, wanted, rel_tol=LOSS_TOLERANCE):
        raise SystemExit(
            f"{case} does not train the same as the rows before: its first loss is {loss}, "
            f"theirs {wanted}"
        )
    return row


def row_of(case: Case, results: list[Row]) -> Row:
    """A row of all rounds: times over all steps, the highest peak."""
    name, _, runtime_version = results[0]["runtime"].rpartition(" ")
    step_ms = [step for result in results for step in result["step_ms"]]
    return {
        "engine": case.engine,
        "onnxruntime": None if name == "torch" else runtime_version,
        "keep_ratio": case.keep_ratio,
        **spread(step_ms, "ms"),
        "peak_rss_bytes": max(result["peak_rss_bytes"] for result in results),
        "flops": results[0]["flops"],
        "steps": len(step_ms),
    }


def text_of(rows: list[Row]) -> str:
    """The table, each row beside eager at its keep-ratio."""
    eager = {row["keep_ratio"]: row for row in rows if row["engine"] == "eager"}
    lines = []
    for row in rows:
        base = eager.get(row["keep_ratio"])
        lines.append(
            [
                row["engine"],
                row["onnxruntime"] or "-",
                f"{row['keep_ratio']:g}",
                *(f"{row[key]:.0f}" for key in ("median_ms", "min_ms", "max_ms")),
                f"{base['median_ms'] / row['median_ms']:.2f}" if base else "-",
                f"{row['peak_rss_bytes'] / MIB:.0f}",
                f"{row['peak_rss_bytes'] / base['peak_rss_bytes']:.2f}" if base else "-",
                f"{row['flops'] / 1e9:.1f}",
                f"{share:.2f}" if (share := time_per_flops_saved(row, rows)) else "-",
            ]
        )
    columns = (
        "engine", "onnxruntime", "keep", "median ms", "min", "max", "times eager",
        "peak MiB", "of eager", "GFLOP", "time/FLOPs saved",
    )  # fmt: skip
    return table(columns, lines)


def time_per_flops_saved(row: Row, rows: list[Row]) -> float | None:
    """Share of time saved over share of FLOPs saved, against this engine's densest row."""
    same = [r for r in rows if all(r[key] == row[key] for key in ("engine", "onnxruntime"))]
    dense = max(same, key=lambda r: r["keep_ratio"])
    if dense is row:
        return None
    time_saved: float = 1 - row["median_ms"] / dense["median_ms"]
    flops_saved: float = 1 - row["flops"] / dense["flops"]
    return time_saved / flops_saved


if __name__ == "__main__":
    main()
