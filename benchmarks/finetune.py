"""What does adapting a checkpoint to new pictures gain and cost, by what is trained?

Pre-trains a small ViT on the first half of the classes, with the user's commands (export, run,
export-encoder), and adapts its encoder to the other half once per set of trained parameters
(export --init, run, eval). Quality is the accuracy of kNN and of a linear probe on all test
pictures of the new classes, before and after; cost is peak memory, time of a step and joules.

    python benchmarks/finetune.py --data cifar10 -o docs/results/finetune.jsonl

The data folder holds train/<class>/ and test/<class>/; training takes the first pictures of
each class. Each finished arm appends one JSON line to the output file, and is not repeated
when the benchmark is called again. With --work FOLDER an aborted run continues, too. Joules
are an estimate where the power sensor is one, and each line says so.
"""

import argparse
import json
import shlex
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from parts.common import Row, add_line, edge_train, machine, say, table, versions
from quality import IMAGE_PX, PATCH_PX, link_pictures, rows_in, work_folder

from edge_runtime.package import open_package
from edge_runtime.records import Run, open_run
from edge_runtime.records.events import Finished

ARMS = ("all", "last-2", "biases", "lora-8")
SETTINGS = ("method", "images", "epochs", "batch_size", "width", "heads", "depth", "seed")


def main(words: Sequence[str] | None = None) -> None:
    """Pre-train, adapt, evaluate, print."""
    args = parse(words)
    rows = []
    with work_folder(args.work) as work:
        folder = folder_of(args, work)
        for arm in args.arms:
            trial = {"trained": arm, **settings_of(args)}
            row = known_row(args.output, trial)
            if row is None:
                row = {**trial, **adapted(arm, folder, args), "machine": machine()}
                add_line(args.output, row)
            rows.append(row)
    print(json.dumps({"rows": rows}, indent=1) if args.json else text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="with train/ and test/"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a JSON line per arm is added"
    )
    parser.add_argument(
        "--work", metavar="FOLDER", type=Path, help="kept, and continued; default: temporary"
    )
    parser.add_argument(
        "--arms",
        type=lambda text: text.split(","),
        default=list(ARMS),
        metavar="SET,SET,...",
        help=f"default: {','.join(ARMS)}",
    )
    parser.add_argument("--method", default="simclr", help="default: simclr")
    parser.add_argument(
        "--images", type=int, default=5000, help="to train on, of each half; default: 5000"
    )
    parser.add_argument("--epochs", type=int, default=5, help="on each half; default: 5")
    parser.add_argument("--batch-size", type=int, default=128, help="default: 128")
    parser.add_argument("--width", type=int, default=192, help="default: 192")
    parser.add_argument("--heads", type=int, default=3, help="default: 3")
    parser.add_argument("--depth", type=int, default=6, help="blocks; default: 6")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--board", metavar="FILE", type=Path, help="a board profile; default: recognised"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


def settings_of(args: argparse.Namespace) -> Row:
    """What the arms of one comparison have in common."""
    return {
        "data": args.data.resolve().name,
        **{name: getattr(args, name) for name in SETTINGS},
    }


def folder_of(args: argparse.Namespace, work: Path) -> Path:
    """The folder of these settings alone, which a later call with them finds again."""
    folder = work / "-".join(map(str, settings_of(args).values()))
    folder.mkdir(exist_ok=True)
    return folder


def known_row(output: Path | None, trial: Row) -> Row | None:
    """The row of an earlier call with these settings."""
    return next((row for row in rows_in(output) if trial.items() <= row.items()), None)


def adapted(arm: str, folder: Path, args: argparse.Namespace) -> Row:
    """Adapt the pre-trained encoder to the new classes, and evaluate it."""
    pictures = {split: halves_of(args.data / split, folder) for split in ("train", "test")}
    old, new = (
        link_pictures(half, folder / f"pictures-{half.name}", args.images)
        for half in pictures["train"]
    )
    encoder = folder / "encoder.safetensors"
    if not encoder.exists():
        run = trained("pretrained", old, folder, args)
        edge_train(["export-encoder", str(run.path), "-o", str(encoder)])
    flags = ["--init", str(encoder), "--set", f"trained=[{arm!r}]"]
    return row_of(trained(arm, new, folder, args, *flags), new, pictures["test"][1])


def halves_of(source: Path, folder: Path) -> tuple[Path, Path]:
    """Two folders with links to the first and to the second half of the classes."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    middle = len(classes) // 2
    halves = {"first": classes[:middle], "second": classes[middle:]}
    for name, members in halves.items():
        target = folder / f"{source.name}-{name}"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier call
        target.mkdir()
        for member in members:
            (target / member.name).symlink_to(member.resolve())
    return folder / f"{source.name}-first", folder / f"{source.name}-second"


def trained(
    name: str, pictures: Path, folder: Path, args: argparse.Namespace, *flags: str
) -> Run:
    """Export a package and train it to its end, from where an earlier call stopped."""
    package, run = folder / f"package-{name}", folder / f"run-{name}"
    if not package.exists():
        edge_train(["export", *export_flags(args), *flags, "-o", str(package)])
    command = [
        *("run", str(package), str(pictures), "-o", str(run), "--resume"),
        *("--engine", "ort", "--epochs", str(args.epochs), "--seed", str(args.seed)),
        *(() if args.board is None else ("--board", str(args.board))),
    ]
    say(f"edge-train {shlex.join(command)}")
    edge_train(command, show=True)
    return open_run(run)


def export_flags(args: argparse.Namespace) -> list[str]:
    """Flags of every export: the recipe's defaults except for sizes."""
    flags = {
        "--model": "vit_tiny",
        "--image-size": IMAGE_PX,
        "--patch-size": PATCH_PX,
        "--width": args.width,
        "--heads": args.heads,
        "--depth": args.depth,
        "--method": args.method,
        "--tokens": "none",
        "--batch-size": args.batch_size,
        "--seed": args.seed,
    }
    return [str(word) for pair in flags.items() for word in pair]


def row_of(run: Run, pictures: Path, test: Path) -> Row:
    """Evaluate a finished run; untrained accuracies are those before the adaptation."""
    command = ["eval", str(run.path), "--train", str(pictures), "--test", str(test)]
    scores = json.loads(edge_train([*command, "--linear", "--json"]))
    manifest = open_package(run.info.package_path).manifest
    finished = end_of(run)
    step_s = [step.measured.step_s for step in run.steps()]
    return {
        "knn": scores["knn"],
        "linear": scores["linear"],
        "peak_bytes": finished.peak_bytes,
        "state_bytes": manifest.state_bytes,
        "step_flops": manifest.rungs[0].flops,
        "median_step_s": round(statistics.median(step_s), 4),
        "least_step_s": round(min(step_s), 4),
        "time_s": round(finished.spent.time_s, 1),
        "energy_j": finished.spent.energy_j,
        "energy_is_estimate": finished.spent.energy_is_estimate,
        "sensor": run.info.sensor,
        "test_pictures": scores["test"]["pictures"],
        "versions": {**versions(), **run.info.versions},
    }


def end_of(run: Run) -> Finished:
    """How a finished run ended."""
    return [each.event for each in run.events() if isinstance(each.event, Finished)][-1]


def text_of(rows: list[Row]) -> str:
    """The table."""
    before, columns = rows[0], ("trained", "kNN", "linear", "step", "peak", "energy")
    untrained = (f"{before[score]['untrained_accuracy']:.2%}" for score in ("knn", "linear"))
    lines = [["before", *untrained, "", "", ""]]
    for row in rows:
        accuracies = (f"{row[score]['accuracy']:.2%}" for score in ("knn", "linear"))
        step, peak = f"{row['median_step_s']:.3f} s", f"{row['peak_bytes'] / 2**20:.0f} MiB"
        lines.append([row["trained"], *accuracies, step, peak, energy_text(row)])
    return table(columns, lines)


def energy_text(row: Row) -> str:
    """Joules of the whole run, marked if they are an estimate."""
    if row["energy_j"] is None:
        return "unknown"
    return f"{row['energy_j']:.0f} J{' (estimate)' if row['energy_is_estimate'] else ''}"


if __name__ == "__main__":
    main()
