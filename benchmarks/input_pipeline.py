"""Does making views from files cost training time?

Images per second of a whole run, with pictures decoded and augmented from JPEG files, compared
with the same steps fed from memory: same engine, same batches, prepared before. Each
measurement is a new process; the two alternate. Start-up and checkpoints, negligible in a long
run, are excluded.

    python benchmarks/input_pipeline.py --data path/to/pictures
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
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

from edge_runtime.data.digits import Digits

FED_FROM = ("files", "memory")
SIZE_PX = 32


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    flags = vit_flags(args.depth, args.batch_size, [args.keep_ratio])
    with package_at(args.package, flags) as package, pictures_at(args.data) as data:
        facts = machine()
        measured = interleaved(
            FED_FROM, args.rounds, lambda fed_from: measure(fed_from, package, data, args)
        )
    rows = rows_of(measured)
    if args.json:
        names = ("onnxruntime", "opencv-python-headless", "numpy")
        runtime = {"runtime": measured["files"][0]["runtime"]}
        document = {
            "rows": rows,
            "machine": facts,
            "versions": {**versions(*names), **runtime},
        }
        print(json.dumps(document, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, with the changes of `--quick`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_common_arguments(parser, rounds=5, steps=40)
    parser.add_argument("--keep-ratio", metavar="R", type=float, default=1.0)
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help="pictures; default: the embedded digits, written as JPEG files of 32 px",
    )
    parser.add_argument("--engine", choices=("ort", "ort-training"), default="ort")
    parser.add_argument(
        "--ort-python", metavar="PATH", default=sys.executable, help="interpreter that trains"
    )
    parser.add_argument("--threads", type=int, help="as of `edge-train run`")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before; default: 5")
    args = parser.parse_args(words)
    if args.quick:
        args.rounds, args.steps, args.warm_up, args.depth = 1, 5, 2, 2
    return args


@contextmanager
def pictures_at(folder: Path | None) -> Iterator[Path]:
    """The user's pictures, or the digits as files."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        source = Digits("train")
        for index in range(len(source)):
            picture = cv2.resize(source.read(index), (SIZE_PX, SIZE_PX))
            cv2.imwrite(str(Path(temporary) / f"{index:04}.jpg"), picture)
        yield Path(temporary)


def measure(fed_from: str, package: Path, data: Path, args: argparse.Namespace) -> Row:
    """One process."""
    job = {
        "fed_from": fed_from,
        "package": str(package),
        "data": str(data),
        "engine": args.engine,
        "keep_ratio": args.keep_ratio,
        "threads": args.threads,
        "warm_up": args.warm_up,
        "steps": args.steps,
    }
    row = in_fresh_process(args.ort_python, "fed_step", job)
    say(f"{fed_from:8}{row['images_per_s']:9.1f} images/s")
    return row


def rows_of(measured: dict[str, list[Row]]) -> list[Row]:
    """A row per source; `of_memory` is the median over rounds of the ratio within a round."""
    pairs = zip(*(measured[fed_from] for fed_from in FED_FROM), strict=True)
    ratios = [files["images_per_s"] / memory["images_per_s"] for files, memory in pairs]
    return [
        {
            "fed_from": fed_from,
            **spread([r["images_per_s"] for r in results], "images_per_s"),
            "of_memory": round(statistics.median(ratios), 4) if fed_from == "files" else 1.0,
            "wait_ms": round(statistics.median(r["wait_ms"] for r in results), 2),
            "cpus_busy": round(statistics.median(r["cpus_busy"] for r in results), 2),
        }
        for fed_from, results in measured.items()
    ]


def text_of(rows: list[Row]) -> str:
    """The table."""
    columns = ("fed from", "images/s", "min", "max", "of memory", "wait ms", "CPUs busy")
    keys = ("median_images_per_s", "min_images_per_s", "max_images_per_s")
    return table(
        columns,
        [
            [
                row["fed_from"],
                *(f"{row[key]:.1f}" for key in keys),
                f"{row['of_memory']:.3f}",
                f"{row['wait_ms']:.1f}",
                f"{row['cpus_busy']:.2f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
