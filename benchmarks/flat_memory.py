"""Does training on a device take more memory with every step, or read memory that was freed?

Thousands of steps of a tiny package with a teacher, in one process, with snapshots; after
every step its inputs are overwritten, freed and their memory is taken by others
(`parts/many_steps.py`). The rung changes up and down in the warm-up. After it, memory, files
aside, has to stay within 1 %, fifth by fifth of the steps. Then the rung changes again, and
what each change leaves is told. Losses and the last state have to be those of a second process
that keeps all inputs as they are, bit for bit. Otherwise the exit code is 1.

    python benchmarks/flat_memory.py --device webgpu --python .venv-webgpu/bin/python

A software driver such as lavapipe keeps the device's memory in the process, so that it is
counted here; a GPU with memory of its own does not.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from parts.common import MIB, Row, in_fresh_process, machine, package_at, say, versions
from parts.many_steps import SAMPLED_EVERY

EXPORT = [
    *("--model", "vit_tiny", "--image-size", "8", "--patch-size", "2", "--depth", "1"),
    *("--width", "16", "--heads", "1", "--batch-size", "2"),
    *("--method", "mocov3", "--tokens", "random", "--keep-ratios", "1.0,0.75,0.5"),
]
TOLERANCE = 0.01  # of memory
PARTS = 5  # of the steps after the warm-up, whose medians are compared
LAST_SAMPLES = 3  # after the last change of the rung


def main(words: Sequence[str] | None = None) -> None:
    """Run both, print one JSON document, and say what is wrong."""
    args = parse(words)
    facts = machine()
    with package_at(args.package, EXPORT) as package:
        hostile, kept = (run(args, package, hostile=hostile) for hostile in (True, False))
    row = row_of(args, hostile, kept)
    known = {**versions("numpy"), "runtime": hostile["runtime"]}
    print(json.dumps({"rows": [row], "machine": facts, "versions": known}, indent=1))
    if problems := problems_of(row):
        raise SystemExit("\n".join(problems))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--device", default="cpu", help="as of `edge-train run`; default: cpu")
    parser.add_argument("--python", default=sys.executable, help="of another environment")
    parser.add_argument("--steps", type=int, default=5000, help="default: 5000")
    parser.add_argument("--warm-up", type=int, default=1000, help="of these; default: 1000")
    parser.add_argument(
        "--switch-every", type=int, default=100, help="of the warm-up; default: 100"
    )
    parser.add_argument("--changes", type=int, default=20, help="at the end; default: 20")
    parser.add_argument("--snapshot-every", type=int, default=250, help="steps; default: 250")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime; default: 1")
    args = parser.parse_args(words)
    if args.steps - args.warm_up < PARTS * SAMPLED_EVERY:
        parser.error(f"--steps: at least {PARTS * SAMPLED_EVERY} more than --warm-up")
    return args


def run(args: argparse.Namespace, package: Path, *, hostile: bool) -> Row:
    """One process."""
    say(f"{args.steps} steps on {args.device}, inputs {'destroyed' if hostile else 'kept'}")
    names = (
        "device",
        "steps",
        "warm_up",
        "switch_every",
        "changes",
        "snapshot_every",
        "threads",
    )
    job = {name: getattr(args, name) for name in names}
    job |= {"package": str(package), "hostile": hostile}
    return in_fresh_process(args.python, "many_steps", job)


def row_of(args: argparse.Namespace, hostile: Row, kept: Row) -> Row:
    """What both have shown."""
    held = hostile["held_bytes"]
    first, last = args.warm_up // SAMPLED_EVERY, args.steps // SAMPLED_EVERY
    size = (last - first) // PARTS
    medians = [statistics.median(held[first + i * size :][:size]) for i in range(PARTS)]
    left = statistics.median(held[-LAST_SAMPLES:]) - medians[-1]
    names = ("device", "steps", "warm_up", "switch_every", "snapshot_every", "changes")
    return {
        **{name: getattr(args, name) for name in names},
        "mib_by_fifth": [round(median / MIB, 2) for median in medians],
        "largest_change": round(max(abs(m / medians[0] - 1) for m in medians), 4),
        "kib_per_rung_change": round(left / 1024 / args.changes, 1),
        "peak_mib": round(max(held) / MIB, 2),
        "first_loss": hostile["losses"][0],
        "last_loss": hostile["losses"][-1],
        "different_losses": sum(
            a != b for a, b in zip(hostile["losses"], kept["losses"], strict=True)
        ),
        "same_state": hostile["state_sha256"] == kept["state_sha256"],
    }


def problems_of(row: Row) -> list[str]:
    """What must not be."""
    problems = []
    if row["largest_change"] > TOLERANCE:
        problems.append(
            f"memory is not flat: medians of {row['mib_by_fifth']} MiB by fifth, more than "
            f"{TOLERANCE:.0%} from the first"
        )
    if row["different_losses"] or not row["same_state"]:
        problems.append(
            f"{row['different_losses']} losses differ from those of a process that keeps its "
            f"inputs, and the last state is {'the same' if row['same_state'] else 'another'}: "
            "something reads inputs after its step"
        )
    return problems


if __name__ == "__main__":
    main()
