"""edge-train profile: measure what a step of every rung costs on this board."""

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.cli.output import say, say_program, show, show_json
from edge_runtime.cli.paths import (
    add_package_argument,
    any_path,
    require_output,
)
from edge_runtime.cli.quantities import duration_s, niceness, size_bytes, threads
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.errors import ConfigError, EdgeRuntimeError, EngineError
from edge_runtime.facts.devices import AUTO, CPU
from edge_runtime.units import duration_text

if TYPE_CHECKING:
    from edge_runtime.device import SensorEvent
    from edge_runtime.facts import CostProfile
    from edge_runtime.package import Package
    from edge_runtime.profiling import Environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_package_argument(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=any_path,
        help="output file; default: the cache, from which `plan` and `run` read",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        type=size_bytes,
        help="skip rungs with a higher predicted peak, such as 1.5GiB",
    )
    parser.add_argument(
        "--time-per-rung",
        metavar="TIME",
        type=duration_s,
        default="60s",
        help="at most for all its repetitions, once it is loaded; ends earlier if the median "
        "is precise; default: 60s",
    )
    add_device_arguments(parser)
    add_nice_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the environment: engines, device, threads, board."""
    parser.add_argument(
        "--engine",
        metavar="NAME",
        default="auto",
        help="one of those that `edge-train doctor` lists; default: auto",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="of the engine: cpu (default), webgpu, cuda, cuda:N, or auto: the one on which a "
        "step takes the least time",
    )
    add_forward_engine_argument(parser, "a frozen encoder or teacher before the step")
    parser.add_argument(
        "--threads", metavar="N", type=threads, help="of the engine; default: all processors"
    )
    parser.add_argument(
        "--board", metavar="FILE", type=any_path, help="a board profile; default: recognised"
    )


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where an encoder runs: device, forward engine, threads, board."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="on which the encoder runs: cpu (default), webgpu, cuda, cuda:N, or auto: the "
        "one on which a training step takes the least time",
    )
    add_forward_engine_argument(parser, "the encoder")
    parser.add_argument("--threads", metavar="N", type=threads, help="default: all processors")
    parser.add_argument(
        "--board", metavar="FILE", type=any_path, help="a board profile; default: recognised"
    )


def encoder_device(args: argparse.Namespace, package: "Package") -> str:
    """The device of `add_encoder_arguments`, or that which `auto` takes.

    Raises:
        ConfigError: the board file is wrong, or the device unknown.
    """
    from edge_runtime.profiling import choose_device

    return choose_device(
        package,
        args.device,
        threads=args.threads,
        board_file=args.board,
        report=say_program,
    ).device


def add_forward_engine_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare `--forward-engine`; `what` is what it runs."""
    parser.add_argument(
        "--forward-engine",
        metavar="NAME",
        default="auto",
        help=f"that runs {what}: ort, tensorrt, or auto (default): tensorrt where it is "
        "installed, has a GPU and gives the features of ort; see docs/tensorrt.md",
    )


def add_nice_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--nice`."""
    parser.add_argument(
        "--nice",
        metavar="N",
        type=niceness,
        default=0,
        help="from 0 to 19: let other programs of the board go first; default: 0",
    )


def environment_of(args: argparse.Namespace, package: "Package") -> "Environment":
    """This machine, with what the flags name, or `auto` takes.

    A TensorRT engine that it needs is built.

    Raises:
        ConfigError: the board file is wrong, or an engine unknown.
        DeviceError: the board is unknown.
        EngineError: no runtime is installed, or the forward engine that is named cannot run
            an encoder that runs before the package's steps.
    """
    from edge_runtime.engines import ForwardOptions
    from edge_runtime.engines.encoders import choose_encoder_engine

    device = _device_of(args, package)
    options = ForwardOptions(device=device, threads=args.threads, report=say)
    forward_engine = choose_encoder_engine(package, args.forward_engine, options)
    return _environment(args, device, forward_engine)


def likely_environments(args: argparse.Namespace, package: "Package") -> "list[Environment]":
    """Those that `environment_of` may give, the likelier first; builds nothing.

    Raises:
        ConfigError: the board file is wrong, or an engine unknown.
        DeviceError: the board is unknown.
        EngineError: no runtime is installed.
    """
    from edge_runtime.engines import ORT
    from edge_runtime.engines.encoders import likely_encoder_engine

    device = _device_of(args, package)
    likely = likely_encoder_engine(package, args.forward_engine, device)
    if args.forward_engine != AUTO or likely == ORT:
        return [_environment(args, device, likely)]
    found = []
    with suppress(EngineError):  # installed, and cannot be imported
        found.append(_environment(args, device, likely))
    return [*found, _environment(args, device, ORT)]


def _device_of(args: argparse.Namespace, package: "Package") -> str:
    from edge_runtime.profiling import choose_device

    return choose_device(
        package,
        args.device,
        engine=args.engine,
        threads=args.threads,
        board_file=args.board,
        report=say,
    ).device


def _environment(args: argparse.Namespace, device: str, forward_engine: str) -> "Environment":
    from edge_runtime.profiling import Environment

    return Environment.detect(
        args.engine,
        device=device,
        threads=args.threads,
        forward_engine=forward_engine,
        board_file=args.board,
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write, show."""
    from edge_runtime.device import Meter
    from edge_runtime.engines import create_engine, supported_rungs
    from edge_runtime.facts import Budget
    from edge_runtime.package import open_package
    from edge_runtime.planning import require_state_fits
    from edge_runtime.profiling import forget_measurements, profile_package
    from edge_runtime.schema import unstructure

    if not args.time_per_rung:
        raise ConfigError("--time-per-rung is 0; expected a duration above zero, such as 60s.")
    if args.output is not None:
        require_output(args.output, "a cost profile", is_profile)
    os.nice(args.nice)
    package = open_package(args.package)
    require_state_fits(Budget(memory_bytes=args.memory), package.manifest.state_bytes)
    environment = environment_of(args, package)
    engine = create_engine(args.engine, device=environment.device, threads=args.threads)
    rungs = supported_rungs(engine, package, package.manifest.rungs, say)
    say(
        f"measuring {len(rungs)} rungs on {environment.board.id} three times: at most "
        f"{duration_text(len(rungs) * args.time_per_rung)}, and the time to load each"
    )
    with (
        stop_on_signals("stopping") as stop,
        Meter(environment.sensor, on_event=lambda event: say(sensor_text(event))) as meter,
    ):
        profile = profile_package(
            package,
            environment,
            meter,
            rungs=rungs,
            memory_bytes=args.memory,
            max_s=args.time_per_rung,
            report=lambda cost: say(cost.text(is_estimate=environment.power_is_estimate)),
            progress=say,
            stop=stop,
        )
    path = _save(profile, args.output, environment.cached_profile_path(package))
    forget_measurements(package, environment)
    if args.json:
        show_json(unstructure(profile))
    else:
        where = f"\nprofile: {path}" if path is not None else ""
        show(f"{profile_text(profile)}{where}")
    return 0


def is_profile(file: Path) -> bool:
    """Whether a file is a cost profile of edge-train."""
    from edge_runtime.profiling import load_profile

    try:
        load_profile(file)
    except EdgeRuntimeError:
        return False
    return True


def _save(profile: "CostProfile", output: Path | None, cached: Path) -> Path | None:
    """Write the profile; where it is, or `None` if there is no cache and no other path."""
    from edge_runtime.profiling import cache_writes, save_profile

    if output is not None:
        save_profile(profile, output)
        return output
    with cache_writes():
        save_profile(profile, cached)
        return cached
    return None


def sensor_text(event: "SensorEvent") -> str:
    """The text of what a power sensor reported."""
    from edge_runtime.records.event_text import event_text
    from edge_runtime.training.metering import event_of_sensor

    return event_text(event_of_sensor(event, step=0))


def profile_text(profile: "CostProfile") -> str:
    """Where the profile is valid, and its fixed costs."""
    where = "GPU" if profile.device == CPU else profile.device
    on_gpu = f", {where}: {profile.gpu}" if profile.gpu else ""
    sensor = profile.sensor or "none: joules stay unknown"
    if profile.energy_is_estimate:
        sensor += " (an estimate)"
    lines = [
        f"board {profile.board}, {profile.engine} on {profile.runtime}{on_gpu}",
        f"power sensor: {sensor}",
        f"start {profile.startup_s:.1f} s, load a rung {profile.switch_s:.1f} s, "
        f"end with a checkpoint {profile.checkpoint_s:.1f} s",
    ]
    if profile.idle_w is not None:
        lines.append(f"idle: {profile.idle_w:.2f} W")
    lines += [cost.text(is_estimate=profile.energy_is_estimate) for cost in profile.rungs]
    return "\n".join(lines)
