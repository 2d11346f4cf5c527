"""Does training on a device take more memory with every step, or read memory that was freed?

Thousands of steps of a tiny package with a teacher, in one process: the rung changes up and
down, snapshots are taken, and after every step its inputs are overwritten, freed and their
memory is taken by others (`parts/many_steps.py`). Memory, files aside, has to stay within 1 %
over all steps, without what changes of the rung leave, which is told. Losses and the last
state have to be those of a second process that keeps all inputs as they are, bit for bit.
Otherwise the exit code is 1.

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
MIN_SAMPLES = 10  # of memory, on one rung


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
    parser.add_argument("--switch-every", type=int, default=200, help="steps; default: 200")
    parser.add_argument("--snapshot-every", type=int, default=250, help="steps; default: 250")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime; default: 1")
    args = parser.parse_args(words)
    if args.switch_every < (least := MIN_SAMPLES * SAMPLED_EVERY):
        parser.error(f"--switch-every: at least {least}")
    if args.steps - args.warm_up < 2 * args.switch_every:
        parser.error("--steps: at least twice --switch-every more than --warm-up")
    return args


def run(args: argparse.Namespace, package: Path, *, hostile: bool) -> Row:
    """One process."""
    say(f"{args.steps} steps on {args.device}, inputs {'destroyed' if hostile else 'kept'}")
    names = ("device", "steps", "switch_every", "snapshot_every", "threads")
    job = {name: getattr(args, name) for name in names}
    job |= {"package": str(package), "hostile": hostile}
    return in_fresh_process(args.python, "many_steps", job)


def row_of(args: argparse.Namespace, hostile: Row, kept: Row) -> Row:
    """What both have shown."""
    stretches = stretches_of(args, hostile["held_bytes"])
    medians = [statistics.median(each) for each in stretches]
    change_bytes = sum(2 * half_change(each) for each in stretches)
    per_change_bytes = (medians[-1] - medians[0] - change_bytes) / (len(medians) - 1)
    names = ("device", "steps", "warm_up", "switch_every", "snapshot_every")
    return {
        **{name: getattr(args, name) for name in names},
        "rung_changes": len(stretches) - 1,
        "first_mib": round(medians[0] / MIB, 2),
        "last_mib": round(medians[-1] / MIB, 2),
        "change_on_rungs": round(change_bytes / medians[0], 4),
        "kib_per_rung_change": round(per_change_bytes / 1024, 1),
        "peak_mib": round(max(hostile["held_bytes"]) / MIB, 2),
        "first_loss": hostile["losses"][0],
        "last_loss": hostile["losses"][-1],
        "different_losses": sum(
            a != b for a, b in zip(hostile["losses"], kept["losses"], strict=True)
        ),
        "same_state": hostile["state_sha256"] == kept["state_sha256"],
    }


def stretches_of(args: argparse.Namespace, held_bytes: Sequence[int]) -> list[list[int]]:
    """Samples after the warm-up, by the whole stretches of steps on one rung."""
    found: dict[int, list[int]] = {}
    for index, held in enumerate(held_bytes):
        step = (index + 1) * SAMPLED_EVERY
        if step > args.warm_up:
            found.setdefault(step // args.switch_every, []).append(held)
    return [each for each in found.values() if len(each) >= MIN_SAMPLES]


def half_change(samples: Sequence[int]) -> float:
    """By how much the second half is above the first."""
    middle = len(samples) // 2
    return statistics.median(samples[middle:]) - statistics.median(samples[:middle])


def problems_of(row: Row) -> list[str]:
    """What must not be."""
    problems = []
    if abs(row["change_on_rungs"]) > TOLERANCE:
        problems.append(
            f"memory is not flat: steps without a change of the rung have changed it by "
            f"{row['change_on_rungs']:+.2%}"
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
