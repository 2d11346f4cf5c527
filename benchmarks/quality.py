"""Does training on real pictures improve the encoder, and what do fewer tokens change?

Trains a small ViT with the user's commands (export, run, eval) once per arm and seed. Arms of
one seed see the same pictures in the same order and begin with the same weights, so they are
compared in pairs. Quality is the accuracy of kNN and of a linear probe on all test pictures;
cost is the FLOPs of all training steps, and their time at the pace of the fastest tenth of
their rung's steps, so that other programs on the machine make no arm slower than another. Time
is compared where both arms were trained on one machine with as many threads.

    python benchmarks/quality.py --data cifar10 -o docs/results/quality.jsonl
    python benchmarks/quality.py --summary docs/results/quality.jsonl

The data folder holds train/<class>/ and test/<class>/; training takes the first pictures of
each class. Each finished run appends one JSON line to the output file, and is not repeated
when the benchmark is called again. With --work FOLDER an aborted run continues, too. The
accelerated arm is calibrated at the checkpoints of the dense run of its seed, once, if
--calibrations names a folder to keep.
"""

import argparse
import json
import math
import shlex
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from parts.common import Row, add_line, edge_train, fast_tenth, machine, say, table, versions

from edge_runtime.package import open_package
from edge_runtime.records import Run, open_run
from edge_runtime.records.events import StepRecord

IMAGE_PX, PATCH_PX = 32, 4
BASELINE = "dense"


@dataclass(frozen=True)
class Arm:
    """What is exported, and which rungs are trained."""

    tokens: str
    keep_ratios: tuple[float, ...]
    is_accelerated: bool = False  # rungs by `calibrate`; otherwise the first keep-ratio


LADDER = (1.0, 0.75, 0.5, 0.25)
# With a teacher, `random` shortens the student alone, `evit` and `simprune` shorten both.
ARMS = {
    BASELINE: Arm("random", LADDER),
    "accelerated": Arm("random", LADDER, is_accelerated=True),
    "random": Arm("random", (0.68,)),
    "evit": Arm("evit", (0.78,)),
    "simprune": Arm("simprune", (0.78,)),
}
# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}


@dataclass(frozen=True)
class Trial:
    """What makes two runs the same."""

    arm: str
    seed: int
    method: str
    train_pictures: int
    epochs: int
    batch_size: int
    depth: int

    def is_of(self, row: Row) -> bool:
        """Whether a row is this trial's."""
        return all(row.get(key) == value for key, value in asdict(self).items())


def main(words: Sequence[str] | None = None) -> None:
    """Export, train, evaluate, print."""
    args = parse(words)
    if args.summary is not None:
        print(summary_of(rows_in(args.summary)))
        return
    trials, rows = trials_of(args), []
    with work_folder(args.work) as folder:
        pictures = link_pictures(args.data / "train", folder / "pictures", args.images)
        for trial in trials:
            known = [row for row in rows_in(args.output) if trial.is_of(row)]
            rows.append(known[0] if known else measure(trial, pictures, folder, args))
    document = {"rows": rows, "machine": machine(), "versions": versions()}
    print(json.dumps(document, indent=1) if args.json else summary_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="with train/ and test/")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a JSON line per run is added"
    )
    parser.add_argument(
        "--work", metavar="FOLDER", type=Path, help="kept, and continued; default: temporary"
    )
    parser.add_argument(
        "--summary", metavar="FILE", type=Path, help="only compare the arms in such a file"
    )
    parser.add_argument(
        "--calibrations",
        metavar="FOLDER",
        type=Path,
        help="where the accelerated arm's are kept; default: the work folder",
    )
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--method", default="mocov3", help="default: mocov3")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[0, 1, 2],
        metavar="S,S,...",
        help="default: 0,1,2",
    )
    parser.add_argument(
        "--images", type=int, default=10_000, help="to train on; default: 10000"
    )
    parser.add_argument("--epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--depth", type=int, default=6, help="blocks; default: 6")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    if unknown := set(args.arms) - set(ARMS):
        parser.error(f"unknown arm {', '.join(unknown)}; known are {', '.join(ARMS)}")
    if args.summary is None and args.data is None:
        parser.error("give --data, or --summary")
    return args


def trials_of(args: argparse.Namespace) -> list[Trial]:
    """All trials, seed by seed: an aborted benchmark leaves whole pairs."""
    return [
        Trial(arm, seed, args.method, args.images, args.epochs, args.batch_size, args.depth)
        for seed in args.seeds
        for arm in args.arms
    ]


def rows_in(path: Path | None) -> list[Row]:
    """The rows of a file of JSON lines; none if there is no file yet."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


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


def measure(trial: Trial, pictures: Path, folder: Path, args: argparse.Namespace) -> Row:
    """Train and evaluate; the row is in the output file."""
    package = package_of(trial, folder)
    run = train(trial, package, pictures, folder, args)
    row = row_of(trial, run, package, pictures, args.data / "test")
    context = {"machine": machine(), "versions": {**versions(), **run.info.versions}}
    add_line(args.output, {**row, **context})
    return row


def package_of(trial: Trial, folder: Path) -> Path:
    """The package of an arm; arms of one token policy and ladder share it."""
    arm = ARMS[trial.arm]
    ratios = ",".join(f"{ratio:g}" for ratio in arm.keep_ratios)
    package = folder / f"package-{arm.tokens}-{ratios}-{name_of(trial)}"
    if not package.exists():
        flags = {
            "--model": "vit_tiny",
            "--image-size": IMAGE_PX,
            "--patch-size": PATCH_PX,
            "--depth": trial.depth,
            "--method": trial.method,
            "--tokens": arm.tokens,
            "--keep-ratios": ratios,
            "--batch-size": trial.batch_size,
            "--seed": trial.seed,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        edge_train(["export", *words, "-o", str(package)])
    return package


def name_of(trial: Trial) -> str:
    """What the arms of one pair have in common."""
    return "-".join(str(value) for key, value in asdict(trial).items() if key != "arm")


def train(
    trial: Trial, package: Path, pictures: Path, folder: Path, args: argparse.Namespace
) -> Run:
    """Train to the end, from where an earlier call stopped."""
    arm, run = ARMS[trial.arm], folder / f"run-{trial.arm}-{name_of(trial)}"
    rungs = ["--keep-ratio", f"{arm.keep_ratios[0]:g}"]
    if arm.is_accelerated:
        calibration = calibrated(trial, package, pictures, folder, args)
        rungs = ["--objective", "gradient-error", "--calibration", str(calibration)]
    command = [
        *("run", str(package), str(pictures), "-o", str(run), "--resume", *rungs),
        *("--engine", "ort", "--epochs", str(trial.epochs), "--seed", str(trial.seed)),
    ]
    say(f"edge-train {shlex.join(command)}")
    edge_train(command, show=True)
    return open_run(run)


def calibrated(
    trial: Trial, package: Path, pictures: Path, folder: Path, args: argparse.Namespace
) -> Path:
    """Gradient errors at the checkpoints of the dense run, which is trained if it is missing.

    Costs are FLOPs, since there is no cost profile in an empty cache: not the moment decides.
    """
    kept: Path = args.calibrations or folder
    file = kept / f"calibration-{name_of(trial)}.json"
    if not file.exists():
        dense = train(replace(trial, arm=BASELINE), package, pictures, folder, args)
        command = ["calibrate", str(package), str(pictures), "--from", str(dense.path)]
        say(f"edge-train {shlex.join(command)}")
        cache = {"EDGE_TRAIN_CACHE": str(folder / "cache")}
        edge_train([*command, "-o", str(file)], show=True, environment=cache)
    return file


def row_of(trial: Trial, run: Run, package: Path, pictures: Path, test: Path) -> Row:
    """Evaluate a finished run."""
    command = ["eval", str(run.path), "--train", str(pictures), "--test", str(test)]
    scores = json.loads(edge_train([*command, "--linear", "--json"]))
    steps, exported = run.steps(), open_package(package)
    return {
        **asdict(trial),
        "knn": scores["knn"],
        "linear": scores["linear"],
        "last_epoch_loss": last_epoch_loss(steps),
        "training_flops": sum(exported.rung(step.rung).flops for step in steps),
        "train_s": round(sum(s.measured.step_s + s.measured.wait_s for s in steps), 1),
        "steps": dict(Counter(step.rung for step in steps)),  # by rung, in their order
        "fast_step_s": fast_step_s(steps),
        "threads": run.info.threads,
        "test_pictures": scores["test"]["pictures"],
    }


def fast_step_s(steps: list[StepRecord]) -> dict[str, float]:
    """By rung, the time that a tenth of its steps took at most."""
    by_rung: dict[str, list[float]] = {}
    for step in steps:
        by_rung.setdefault(step.rung, []).append(step.measured.step_s)
    return {rung: fast_tenth(times) for rung, times in by_rung.items()}


def undisturbed_s(row: Row) -> float:
    """Time of all steps, each at the fast pace of its rung."""
    return float(sum(count * row["fast_step_s"][rung] for rung, count in row["steps"].items()))


def last_epoch_loss(steps: list[StepRecord]) -> float:
    """Mean loss of the last epoch."""
    last = [step.loss for step in steps if step.epoch == steps[-1].epoch]
    losses = [loss for loss in last if loss is not None]
    return round(sum(losses) / len(losses), 4)


def summary_of(rows: list[Row]) -> str:
    """A table per method: each arm, and its differences from the dense one by seed."""
    methods = dict.fromkeys(row["method"] for row in rows)
    return "\n\n".join(
        f"{method}\n{table_of([row for row in rows if row['method'] == method])}"
        for method in methods
    )


def table_of(rows: list[Row]) -> str:
    """The arms of one method."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        pairs = pairs_of(arm, rows)
        of_arm = [row for row in rows if row["arm"] == arm]
        lines.append(
            [
                arm,
                str(len(of_arm)),
                *(mean_percent(of_arm, score) for score in ("knn", "linear")),
                *(difference_text(pairs, score) for score in ("knn", "linear")),
                share_text(pairs, lambda row: row["training_flops"]),
                share_text([pair for pair in pairs if on_one_machine(*pair)], undisturbed_s),
            ]
        )
    columns = (
        "arm", "seeds", "kNN", "linear", "kNN - dense", "linear - dense", "FLOPs", "time",
    )  # fmt: skip
    return table(columns, lines)


def pairs_of(arm: str, rows: list[Row]) -> list[tuple[Row, Row]]:
    """(arm, dense) of every seed that both have."""
    dense = {row["seed"]: row for row in rows if row["arm"] == BASELINE}
    return [
        (row, dense[row["seed"]]) for row in rows if row["arm"] == arm and row["seed"] in dense
    ]


def on_one_machine(row: Row, other: Row) -> bool:
    """Whether two runs had the same processor, memory, kernel and number of threads."""
    facts = ("cpu_model", "memory_bytes", "kernel")
    same = all(row["machine"][fact] == other["machine"][fact] for fact in facts)
    return same and row.get("threads") == other.get("threads")  # older rows have none


def mean_percent(rows: list[Row], score: str) -> str:
    """Mean accuracy over seeds."""
    return f"{statistics.mean(row[score]['accuracy'] for row in rows):.2%}"


def difference_text(pairs: list[tuple[Row, Row]], score: str) -> str:
    """Mean difference in points, with the 95 % interval of paired seeds."""
    points = [100 * (a[score]["accuracy"] - b[score]["accuracy"]) for a, b in pairs]
    if not any(points):
        return "-"
    if len(points) < 2:
        return f"{points[0]:+.2f}"
    half = T_95[len(points) - 1] * statistics.stdev(points) / math.sqrt(len(points))
    return f"{statistics.mean(points):+.2f} +- {half:.2f}"


def share_text(pairs: list[tuple[Row, Row]], cost: Callable[[Row], float]) -> str:
    """Median over seeds of the share of the dense arm."""
    return f"{statistics.median(cost(a) / cost(b) for a, b in pairs):.2f}" if pairs else "-"


if __name__ == "__main__":
    main()
