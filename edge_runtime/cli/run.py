"""edge-train run: train a package on pictures, into a run folder."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.cli.budget_flags import add_budget_arguments, budget_of
from edge_runtime.cli.profile import add_device_arguments, cost_text
from edge_runtime.cli.quantities import duration_s, natural, positive
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from edge_runtime.data import FrameSource, PictureSource
    from edge_runtime.device import Meter
    from edge_runtime.facts import Budget, CostProfile
    from edge_runtime.package import Package
    from edge_runtime.profiling import Environment
    from edge_runtime.records.events import Event
    from edge_runtime.training import Metering, TrainingOptions

AUTO = "auto"
_IDLE_S = 3.0  # long enough for the slowest sensor
_QUICK_S = 10.0  # of measured steps per rung: the budget pays for them
_STOPPING = "stopping after this step and saving"


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
        "--keep-ratio",
        metavar="R",
        type=keep_ratio,
        help="or `auto`: as the budget allows; default: auto with a budget, else the largest",
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
    parser.add_argument(
        "--profile",
        metavar="FILE",
        type=Path,
        help="cost profile; default: that of the cache, or measured first",
    )
    add_device_arguments(parser)
    add_budget_arguments(parser)
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
    parser.add_argument(
        "--metrics-port",
        metavar="N",
        type=positive,
        help="serve what the run does to Prometheus, see docs/watching.md",
    )
    parser.add_argument(
        "--metrics-address",
        metavar="HOST",
        default="127.0.0.1",
        help="where to serve it; default: 127.0.0.1, this machine alone",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON event per line")


def run(args: argparse.Namespace) -> int:
    """Train, and show every event."""
    from edge_runtime.cli.panel import progress_on
    from edge_runtime.data import open_source
    from edge_runtime.device import process_elapsed_s
    from edge_runtime.live.metrics import serve_metrics
    from edge_runtime.package import open_package
    from edge_runtime.profiling import Environment
    from edge_runtime.training import Metering, train

    began_s = time.monotonic() - process_elapsed_s()
    package, source = open_package(args.package), open_source(args.data)
    environment = Environment.detect(args.engine, threads=args.threads, board_file=args.board)
    metrics: AbstractContextManager[object] = nullcontext()
    if args.metrics_port:
        metrics = serve_metrics(args.output, args.metrics_port, args.metrics_address)
    with (
        metrics,
        stop_on_signals(_STOPPING) as stop,
        Metering(environment.sensor, board=environment.board, began_s=began_s) as metering,
        closing(progress_on(args.output, sys.stdout)) as progress,
    ):
        show = Shown(show_json if args.json else progress)
        options = options_of(args, package, metering, lambda: stop() or show.is_gone)
        if not is_finished(package, source, args.output, options):
            if options.rungs is None:
                profile = profile_for(package, environment, metering.meter, args, options)
                options = replace(options, profile=profile)
            know_idle_power(metering.meter, options.profile)
        for event in train(package, source, args.output, options):
            show(event)
    return 0


def options_of(
    args: argparse.Namespace,
    package: "Package",
    metering: "Metering",
    stop: Callable[[], bool],
) -> "TrainingOptions":
    """What the flags ask for, but for the cost profile.

    Raises:
        ConfigError: the package has no such rung, or flags contradict each other.
        EngineError: the engine is not installed.
    """
    from edge_runtime.engines import create_engine
    from edge_runtime.training import TrainingOptions

    budget = budget_of(args)
    candidates = rungs_of(package, args, budget)
    is_fixed = not budget.is_limited and args.keep_ratio != AUTO
    if is_fixed and args.profile:
        raise ConfigError("--profile is for a budget, or for --keep-ratio auto.")
    return TrainingOptions(
        engine=create_engine(args.engine, threads=args.threads),
        rungs=((1, candidates[0]),) if is_fixed else None,
        budget=budget,
        metering=metering,
        epochs=args.epochs,
        images_per_epoch=args.images,
        seed=args.seed,
        resume=args.resume,
        checkpoint_every_s=args.checkpoint_every,
        stop=stop,
    )


def is_finished(
    package: "Package",
    source: "PictureSource | FrameSource",
    run_dir: Path,
    options: "TrainingOptions",
) -> bool:
    """Whether there is nothing left to train, and so nothing to measure.

    Raises:
        EdgeRuntimeError: what `train` would refuse, before minutes are spent on measuring.
    """
    from edge_runtime.training import end_of, run_to_resume

    before = run_to_resume(package, source, run_dir, options)
    return before is not None and end_of(before) is not None


def show_json(event: "Event") -> None:
    """One line of JSON."""
    from edge_runtime.records.events import event_table

    print(json.dumps(event_table(event)), flush=True)


def keep_ratio(text: str) -> float | str:
    """Read `auto` or a number, as an argparse type."""
    if text == AUTO:
        return AUTO
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither `auto` nor a number") from None


def rungs_of(package: "Package", args: argparse.Namespace, budget: "Budget") -> list[str]:
    """Ids of the rungs that may be trained: one, all of a keep-ratio, or all there are.

    Raises:
        ConfigError: the package has no such rung.
    """
    rungs, ratio = package.manifest.rungs, args.keep_ratio
    if args.rung is not None:
        return [package.rung(args.rung).id]
    if ratio == AUTO or (ratio is None and budget.is_limited):
        return [rung.id for rung in rungs]
    wanted = max(rung.keep_ratio for rung in rungs) if ratio is None else float(ratio)
    return [rung.id for rung in package.rungs_with_keep_ratio(wanted)]


def profile_for(
    package: "Package",
    environment: "Environment",
    meter: "Meter",
    args: argparse.Namespace,
    options: "TrainingOptions",
) -> "CostProfile":
    """What the candidates cost here: as given, as measured before, or measured now.

    Raises:
        StoppedError: the options' `stop` said so.
        DeviceError: the profile that is given was measured in another environment, or a
            limit needs a sensor and there is none.
        RecordsError: it is damaged.
        EngineError: no rung fits into this machine, or one failed.
        BudgetError: the memory limit is below the package's state.
    """
    from edge_runtime.facts.costs import MEASURED
    from edge_runtime.planning import interpolate, require_state_fits
    from edge_runtime.profiling import profile_package, save_profile

    budget = options.budget
    require_state_fits(budget, package.manifest.state_bytes)
    if environment.sensor is None and (budget.energy_j or budget.power_w):
        raise DeviceError(
            "a limit on energy or power needs a power sensor, and this board shows none. "
            "`edge-train doctor` says what was tried; a board file (--board) with "
            "power.idle_w and power.full_w allows an estimate."
        )
    path = args.profile or environment.cached_profile_path(package)
    if args.profile or path.exists():
        profile = environment.load_profile(package, path)
    else:
        _say("no cost profile of this package on this board yet: measuring its rungs first")
        profile = profile_package(
            package,
            environment,
            meter,
            memory_bytes=args.memory,
            max_s=_QUICK_S,
            report=lambda cost: _say(cost_text(cost, environment.power_is_estimate)),
            stop=options.stop,
        )
        # A larger budget would need the rungs that this one left out, or killed.
        if all(cost.source == MEASURED for cost in profile.rungs):
            save_profile(profile, path)
    candidates = rungs_of(package, args, budget)
    costs = interpolate(profile.rungs)  # between all that are measured, then choose
    return replace(profile, rungs=tuple(cost for cost in costs if cost.rung in candidates))


def know_idle_power(meter: "Meter", profile: "CostProfile | None") -> None:
    """What the board takes at rest: as its profile says, else measured now."""
    if profile is not None:
        meter.idle_w = profile.idle_w
    elif meter.sensor is not None:
        _say(f"measuring the board's idle power for {_IDLE_S:g} s")
        meter.measure_idle(_IDLE_S)


def _say(text: str) -> None:
    """For the person who waits; stdout is for the run."""
    print(f"edge-train: {text}", file=sys.stderr, flush=True)


class Shown:
    """Shows events until nobody can see them: a closed pipe, a terminal that is gone."""

    def __init__(self, show: Callable[["Event"], None]) -> None:
        self._show = show
        self.is_gone = False

    def __call__(self, event: "Event") -> None:
        """Show one event."""
        if self.is_gone:
            return
        try:
            self._show(event)
        except OSError:
            self.is_gone = True
            # What is still in Python's buffer goes there, too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
