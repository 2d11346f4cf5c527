"""edge-train run: train a package on pictures, into a run folder."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from edge_runtime.cli.quantities import duration_s, natural, positive

if TYPE_CHECKING:
    from edge_runtime.package import Package

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPING = b"\nedge-train: stopping after this step and saving; once more stops at once\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "package", metavar="PKG", type=Path, help="made by `edge-train export`"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder or .tar of pictures, a video file, camera:N, or digits",
    )
    parser.add_argument(
        "-o", "--output", metavar="RUN", type=Path, required=True, help="folder to make"
    )
    rung = parser.add_mutually_exclusive_group()
    rung.add_argument(
        "--keep-ratio", metavar="R", type=float, help="default: the largest of the package"
    )
    rung.add_argument("--rung", metavar="ID", help="see `edge-train inspect PKG`")
    parser.add_argument(
        "--epochs", metavar="N", type=positive, default=100, help="default: 100"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=positive,
        help="pictures per epoch; a live source needs it",
    )
    parser.add_argument("--engine", choices=("auto", "ort", "ort-training"), default="auto")
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="of the engine; default: all processors"
    )
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="default: 0")
    parser.add_argument(
        "--resume", action="store_true", help="go on with RUN; start it if it is not there"
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="TIME",
        type=duration_s,
        default="5min",
        help="such as 90s or 1h; default: 5min",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON event per line")


def run(args: argparse.Namespace) -> int:
    """Train, and show every event."""
    from edge_runtime.cli.progress import Progress
    from edge_runtime.data import open_source
    from edge_runtime.engines import create_engine
    from edge_runtime.package import open_package
    from edge_runtime.records.events import Event, event_table
    from edge_runtime.training import TrainingOptions, train

    def show_json(event: Event) -> None:
        print(json.dumps(event_table(event)), flush=True)

    package = open_package(args.package)
    with stop_on_signals() as stop, closing(Progress(args.output, sys.stdout)) as progress:
        options = TrainingOptions(
            engine=create_engine(args.engine, threads=args.threads),
            rungs=((1, chosen_rung(package, args.rung, args.keep_ratio)),),
            epochs=args.epochs,
            images_per_epoch=args.images,
            seed=args.seed,
            resume=args.resume,
            checkpoint_every_s=args.checkpoint_every,
            stop=stop,
        )
        for event in train(package, open_source(args.data), args.output, options):
            show_json(event) if args.json else progress(event)
    return 0


def chosen_rung(package: "Package", rung_id: str | None, keep_ratio: float | None) -> str:
    """The id of the rung to train: by id, by keep-ratio, or the one that keeps most.

    Raises:
        ConfigError: the package has no such rung.
    """
    if rung_id is not None:
        return package.rung(rung_id).id
    if keep_ratio is not None:
        return package.rung_with_keep_ratio(keep_ratio).id
    return max(package.manifest.rungs, key=lambda rung: rung.keep_ratio).id


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGINT or SIGTERM came; a second one kills."""
    came = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, _STOPPING)  # print is not safe inside a signal handler

    before = {each: signal.signal(each, note) for each in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
