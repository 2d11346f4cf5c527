"""Does training on real pictures improve the encoder, and what does dropping tokens cost?

SimCLR with the user's commands (export, run, eval), once per keep-ratio: kNN
accuracy of the trained and of the untrained encoder on all test pictures, and the seconds of
all training steps, waits for pictures included.

    python benchmarks/quality.py --data cifar10 -o docs/results/quality.jsonl

The data folder holds train/<class>/ and test/<class>/; training takes the first pictures of
each class. Each finished run appends one JSON line to the output file. With --work FOLDER a
aborted benchmark continues where it stopped.
"""

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from parts.common import Row, add_line, edge_train, machine, say, table, versions

from edge_runtime.package import open_package
from edge_runtime.records import Run, open_run

IMAGE_PX, PATCH_PX = 32, 4


def main(words: Sequence[str] | None = None) -> None:
    """Export, train, evaluate, print."""
    args = parse(words)
    rows: list[Row] = []
    with work_folder(args.work) as folder:
        pictures = link_pictures(args.data / "train", folder / "pictures", args.images)
        package = folder / "package"
        if not package.exists():
            edge_train(["export", *export_flags(args), "-o", str(package)])
        refuse_another(package, args)
        for ratio in args.keep_ratios:
            run = train(package, pictures, folder / f"run-{ratio:g}", ratio, args)
            row = row_of(run, pictures, args.data / "test", ratio, args)
            rows.append(row)
            context = {"machine": machine(), "versions": {**versions(), **run.info.versions}}
            add_line(args.output, {**row, **context})
    print(json.dumps({"rows": rows, **context}, indent=1) if args.json else text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="with train/ and test/"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a JSON line per run is added"
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        help="kept, and continued; default: temporary",
    )
    parser.add_argument(
        "--images", type=int, default=10_000, help="to train on; default: 10000"
    )
    parser.add_argument("--epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--batch-size", type=int, default=256, help="default: 256")
    parser.add_argument("--depth", type=int, default=6, help="blocks; default: 6")
    parser.add_argument(
        "--keep-ratios",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[1.0, 0.5],
        metavar="R,R,...",
        help="default: 1.0,0.5",
    )
    parser.add_argument("--engine", choices=("ort", "ort-training"), default="ort")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


@contextmanager
def work_folder(folder: Path | None) -> Iterator[Path]:
    """The user's folder, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def link_pictures(source: Path, target: Path, images: int) -> Path:
    """A folder of links to the first pictures of each class, equally many of each."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    if images % len(classes):
        raise SystemExit(f"--images {images} is not a multiple of the {len(classes)} classes")
    if target.exists():  # of an earlier call, perhaps with more
        shutil.rmtree(target)
    for folder in classes:
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        for picture in sorted(folder.iterdir())[: images // len(classes)]:
            (target / folder.name / picture.name).symlink_to(picture.resolve())
    return target


def export_flags(args: argparse.Namespace) -> list[str]:
    """Flags of the export: the recipe's defaults except for sizes."""
    flags = {
        "--model": "vit_tiny",
        "--image-size": IMAGE_PX,
        "--patch-size": PATCH_PX,
        "--depth": args.depth,
        "--method": "simclr",
        "--tokens": "random",
        "--keep-ratios": ",".join(map(str, args.keep_ratios)),
        "--batch-size": args.batch_size,
        "--seed": args.seed,
    }
    return [str(word) for pair in flags.items() for word in pair]


def refuse_another(package: Path, args: argparse.Namespace) -> None:
    """Refuse a package that an earlier call exported with other flags."""
    manifest = open_package(package).manifest
    exported = (manifest.model.depth, manifest.batch_size)
    if exported != (args.depth, args.batch_size):
        raise SystemExit(
            f"{package} has {exported[0]} blocks and batches of {exported[1]}: not the "
            "requested ones. Choose another --work folder."
        )


def train(
    package: Path, pictures: Path, run: Path, keep_ratio: float, args: argparse.Namespace
) -> Run:
    """Train one keep-ratio to its end."""
    command = [
        *("run", str(package), str(pictures), "-o", str(run), "--resume"),
        *("--keep-ratio", str(keep_ratio), "--epochs", str(args.epochs)),
        *("--engine", args.engine, "--seed", str(args.seed)),
    ]
    say(f"edge-train {shlex.join(command)}")
    edge_train(command, show=True)
    return open_run(run)


def row_of(
    run: Run, pictures: Path, test: Path, keep_ratio: float, args: argparse.Namespace
) -> Row:
    """Evaluate a finished run."""
    command = ["eval", str(run.path), "--train", str(pictures), "--test", str(test), "--json"]
    scores = json.loads(edge_train(command))
    steps = run.steps()
    train_s = sum(step.measured.step_s + step.measured.wait_s for step in steps)
    images = sum(step.images for step in steps)
    knn = scores["knn"]
    return {
        "keep_ratio": keep_ratio,
        "knn": knn,
        "gain_points": round(100 * (knn["accuracy"] - knn["untrained_accuracy"]), 2),
        "train_s": round(train_s, 1),
        "images_per_s": round(images / train_s, 2),
        "last_epoch_loss": last_epoch_loss(run),
        "train_pictures": scores["train"]["pictures"],
        "test_pictures": scores["test"]["pictures"],
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "depth": args.depth,
        "seed": args.seed,
        "engine": args.engine,
        "command": shlex.join(["python", *sys.argv]),
    }


def last_epoch_loss(run: Run) -> float:
    """Mean loss of the last epoch."""
    steps = run.steps()
    last = [step.loss for step in steps if step.epoch == steps[-1].epoch]
    losses = [loss for loss in last if loss is not None]
    return round(sum(losses) / len(losses), 4)


def text_of(rows: list[Row]) -> str:
    """The table."""
    columns = ("keep-ratio", "kNN", "untrained", "points", "training s", "images/s")
    return table(
        columns,
        [
            [
                f"{row['keep_ratio']:g}",
                f"{row['knn']['accuracy']:.2%}",
                f"{row['knn']['untrained_accuracy']:.2%}",
                f"{row['gain_points']:+.2f}",
                f"{row['train_s']:.0f}",
                f"{row['images_per_s']:.1f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
