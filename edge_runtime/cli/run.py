"""edge-train run: train a package on pictures, into a run folder."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from edge_runtime.cli.budget_flags import (
    add_budget_arguments,
    add_epochs_argument,
    add_objective_arguments,
    add_rung_arguments,
    add_trained_argument,
    budget_of,
    calibration_path,
    named_rungs,
)
from edge_runtime.cli.output import discard_output, say_program, show_json
from edge_runtime.cli.paths import (
    add_data_argument,
    add_package_argument,
    any_path,
    require_place,
)
from edge_runtime.cli.profile import add_device_arguments, add_nice_argument
from edge_runtime.cli.quantities import AUTO, count, duration_s, port, seed
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.errors import ConfigError, DeviceError, StoppedError, StorageError

if TYPE_CHECKING:
    from edge_runtime.device import Meter
    from edge_runtime.facts import Budget
    from edge_runtime.package import Package
    from edge_runtime.records import Run
    from edge_runtime.records.events import Event

_STOPPING = "stopping after this step and saving"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_package_argument(parser)
    add_data_argument(parser)
    parser.add_argument(
        "-o", "--output", metavar="RUN", type=any_path, required=True, help="folder to create"
    )
    add_rung_arguments(parser, "auto with a budget, otherwise the largest")
    add_trained_argument(parser)
    add_epochs_argument(parser)
    parser.add_argument(
        "--images",
        metavar="N",
        type=count,
        help="pictures per epoch; a live source needs it",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        type=any_path,
        help="cost profile; default: that of the cache, or measured first",
    )
    add_device_arguments(parser)
    add_nice_argument(parser)
    add_objective_arguments(parser)
    add_budget_arguments(parser)
    parser.add_argument("--seed", metavar="S", type=seed, default=0, help="default: 0")
    parser.add_argument(
        "--resume", action="store_true", help="continue RUN; start it if it does not exist"
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="TIME",
        type=duration_s,
        default="5min",
        help="such as 90s or 1h; default: 5min",
    )
    parser.add_argument(
        "--metrics-port",
        metavar="N",
        type=port,
        help="serve metrics of the run to Prometheus, see docs/watching.md",
    )
    parser.add_argument(
        "--metrics-address",
        metavar="HOST",
        default="127.0.0.1",
        help="address to listen on; default: 127.0.0.1, this machine only",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON event per line")


def run(args: argparse.Namespace) -> int:
    """Train, and show every event."""
    from edge_runtime.device import Meter, load_board, open_sensor, process_elapsed_s

    began_s = time.monotonic() - process_elapsed_s()
    os.nice(args.nice)
    # First of all: loading libraries and pictures takes seconds, and more power than idling.
    sensor = open_sensor(load_board(args.board))
    with Meter(sensor, since_s=began_s, keep_until_handed_over=True) as meter:
        return _run(args, meter, began_s)


def _run(args: argparse.Namespace, meter: "Meter", began_s: float) -> int:
    from edge_runtime.cli.panel import progress_on
    from edge_runtime.live.metrics import serve_metrics
    from edge_runtime.records.beginning import Beginning
    from edge_runtime.records.events import Finished

    def report(text: str) -> None:
        say_program(text)
        begins.note(text)

    require_place(args.output)
    train = training_of(args)
    metrics: AbstractContextManager[object] = nullcontext()
    if args.metrics_port:
        metrics = serve_metrics(args.output, args.metrics_port, args.metrics_address)
    with (
        Beginning(args.output) as begins,
        metrics,
        stop_on_signals(_STOPPING) as stop,
        closing(progress_on(args.output, sys.stdout)) as progress,
    ):
        show = Shown(show_event if args.json else progress)
        try:
            for event in train(
                began_s=began_s,
                meter=meter,
                stop=lambda: stop() or show.failure is not None,
                report=report,
            ):
                begins.close()
                show(event)
        except StoppedError as error:
            if stop() or show.failure is None:
                raise
            say_program(str(error))
            raise show.failure from error
    if args.memory is None and isinstance(event, Finished) and event.is_out_of_memory:
        raise DeviceError(
            "other programs took the memory that the run needs. The state is saved: continue "
            "with the same command and --resume when there is more."
        )
    return 0


def training_of(args: argparse.Namespace) -> "partial[Generator[Event, None, Run]]":
    """`train_within` with the arguments of the flags.

    Raises:
        PackageError: the package cannot be opened.
        DataError: the pictures cannot be opened.
        ConfigError: the package has no such rung, or flags contradict each other.
    """
    from edge_runtime.data import open_source
    from edge_runtime.package import open_package
    from edge_runtime.within_budget import train_within

    package, source = open_package(args.package), open_source(args.data)
    budget = budget_of(args)
    return partial(
        train_within,
        package,
        source,
        args.output,
        budget=budget,
        rungs=rungs_of(package, args, budget),
        trained=args.trained,
        skip_unsupported=args.rung is None,
        epochs=args.epochs,
        images_per_epoch=args.images,
        seed=args.seed,
        board=args.board,
        engine=args.engine,
        device=args.device,
        forward_engine=args.forward_engine,
        threads=args.threads,
        profile=args.profile,
        calibration=calibration_path(args),
        resume=args.resume,
        checkpoint_every_s=args.checkpoint_every,
    )


def show_event(event: "Event") -> None:
    """One line of JSON."""
    from edge_runtime.records.events import event_table

    show_json(event_table(event))


def rungs_of(
    package: "Package", args: argparse.Namespace, budget: "Budget"
) -> list[str] | None:
    """Ids of the rungs that may be trained, an argument of `train_within`.

    Raises:
        ConfigError: the package has no such rung, or flags contradict each other.
    """
    ratio = args.keep_ratio
    is_planned = budget.is_limited or ratio == AUTO or args.calibration
    if args.profile and not is_planned:
        raise ConfigError("--profile needs a budget, --keep-ratio auto, or --calibration.")
    if (named := named_rungs(package, args, budget)) is not None:
        return named
    if ratio == AUTO and not (budget.is_limited or args.calibration):
        return [rung.id for rung in package.ladder(args.trained)]
    return None


class Shown:
    """Shows events until the output takes no more: a closed pipe or terminal, a full disk."""

    def __init__(self, show: Callable[["Event"], None]) -> None:
        self._show = show
        self.failure: BrokenPipeError | StorageError | None = None

    def __call__(self, event: "Event") -> None:
        """Show one event."""
        if self.failure is not None:
            return
        try:
            self._show(event)
        except (BrokenPipeError, StorageError) as error:
            self.failure = error
            discard_output()
