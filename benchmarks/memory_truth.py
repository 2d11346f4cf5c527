"""Is the memory of a rung predicted correctly before it runs?

Three packages (and `--trials` more, drawn at random), each rung in a new process that only
trains it. Predicted: the memory of a process with only the runtime, measured once on this
machine, and the manifest's numbers for the rung. Measured: the process's peak resident memory.
One row is one rung on one onnxruntime.

    python benchmarks/memory_truth.py --ort-python /path/to/another/venv/bin/python
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from parts.common import (
    MIB,
    Row,
    in_fresh_process,
    machine,
    package_at,
    say,
    table,
    versions,
    vit_flags,
)

from edge_runtime.package import open_package
from edge_runtime.planning.costs import predicted_peak_bytes

Packages = dict[str, list[str] | None]  # name -> flags of `edge-train export`; None: its path


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    context = {"machine": machine(), "versions": versions("numpy")}
    pythons = [sys.executable, *args.ort_python]
    baselines = {python: measure(python, args, package=None) for python in pythons}
    rows = []
    for name, flags in packages_of(args).items():
        given = None if flags is not None else args.package
        with package_at(given, flags or []) as package:
            for python, baseline in baselines.items():
                rows += rows_of(name, package, python, baseline["baseline_bytes"], args)
    if args.json:
        print(json.dumps({"rows": rows, **context}, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--package", metavar="PKG", type=Path, help="only this one")
    parser.add_argument(
        "--ort-python",
        action="append",
        default=[],
        metavar="PATH",
        help="interpreter of another environment with onnxruntime; may be given several times",
    )
    parser.add_argument(
        "--trials", type=int, default=0, help="packages drawn at random; default: 0"
    )
    parser.add_argument("--seed", type=int, default=0, help="of these; default: 0")
    parser.add_argument("--threads", type=int, default=2, help="of the runtime; default: 2")
    parser.add_argument("--steps", type=int, default=4, help="of each process; default: 4")
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


def packages_of(args: argparse.Namespace) -> Packages:
    """The packages to measure, by the names of their rows."""
    if args.package is not None:
        return {args.package.name: None}
    if args.quick:
        return {"quick": vit_flags(1, 4, (1.0, 0.5))}
    flags_by_name: Packages = {
        "simclr-random": vit_flags(12, 16, (1.0, 0.75, 0.5, 0.25)),
        "mocov3-simprune": changed(
            vit_flags(6, 32, (1.0, 0.8, 0.6)), "--method mocov3 --tokens simprune"
        ),
        "simclr-96px": changed(
            vit_flags(8, 8, (1.0, 0.75, 0.5)),
            "--image-size 96 --patch-size 8 --width 256 --heads 4",
        ),
    }
    for trial in range(args.trials):
        flags_by_name[f"seed {args.seed} trial {trial}"] = drawn_flags(f"{args.seed} {trial}")
    return flags_by_name


def drawn_flags(seed: str) -> list[str]:
    """A random model that trains in well below a gigabyte."""
    rng = random.Random(seed)
    image, patch = rng.choice([(32, 4), (48, 8), (64, 8), (96, 8), (96, 16), (224, 16)])
    tokens, heads = (image // patch) ** 2 + 1, rng.choice([2, 3, 4, 6])
    width, depth = 64 * heads, rng.randint(2, 10)
    # The tensors of a block are about 20 times its tokens, for each of two views.
    batch = int(400 * MIB / (2 * depth * 20 * tokens * width * 4))
    ratios = (1.0, round(rng.uniform(0.2, 0.9), 2))
    more = f"--image-size {image} --patch-size {patch} --width {width} --heads {heads}"
    method, tokens = rng.choice(["simclr", "mocov3"]), rng.choice(["random", "simprune"])
    more += f" --method {method} --tokens {tokens}"
    return changed(vit_flags(depth, max(2, min(64, batch)), ratios), more)


def changed(flags: list[str], more: str) -> list[str]:
    """Flags, overridden by others after them."""
    return [*flags, *more.split()]


def measure(python: str, args: argparse.Namespace, **job: str | None) -> Row:
    """One new process."""
    return in_fresh_process(
        python, "memory", {**job, "threads": args.threads, "steps": args.steps}
    )


def rows_of(
    name: str, path: Path, python: str, baseline_bytes: int, args: argparse.Namespace
) -> Iterator[Row]:
    """Predict and measure every rung of a package."""
    manifest = open_package(path).manifest
    for rung in manifest.rungs:
        predicted_bytes = predicted_peak_bytes(manifest, rung, baseline_bytes)
        measured = measure(python, args, package=str(path), rung=rung.id)
        row = {
            "package": name,
            "rung": rung.id,
            "onnxruntime": measured["runtime"].rpartition(" ")[2],
            "predicted_bytes": predicted_bytes,
            "measured_bytes": measured["measured_bytes"],
            "baseline_bytes": baseline_bytes,
            "peak_activation_bytes": rung.peak_activation_bytes,
        }
        say(" ".join(line_of(row)))
        yield row


def line_of(row: Row) -> list[str]:
    """The cells of a row."""
    sizes = ("peak_activation_bytes", "predicted_bytes", "measured_bytes")
    return [
        row["package"],
        row["rung"],
        row["onnxruntime"],
        *(f"{row[key] / MIB:.0f}" for key in sizes),
        f"{row['predicted_bytes'] / row['measured_bytes'] - 1:+.1%}",
    ]


def text_of(rows: list[Row]) -> str:
    """The table."""
    columns = (
        "package", "rung", "onnxruntime", "tensors MiB", "predicted MiB", "measured MiB",
        "difference",
    )  # fmt: skip
    return table(columns, [line_of(row) for row in rows])


if __name__ == "__main__":
    main()
