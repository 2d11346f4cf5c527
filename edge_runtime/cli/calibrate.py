"""edge-train calibrate: errors of the gradients of every rung, at stages of a run."""

import argparse
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.budget_flags import add_trained_argument
from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import (
    add_data_argument,
    add_package_argument,
    any_path,
    require_output,
)
from edge_runtime.cli.plan import costs_of
from edge_runtime.cli.profile import add_device_arguments, environment_of
from edge_runtime.cli.quantities import seed, whole
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.cli.table import aligned
from edge_runtime.errors import ConfigError, DeviceError, EdgeRuntimeError
from edge_runtime.facts.calibration import FLOPS, JOULES, LEAST_BATCHES, MOST_BATCHES, SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_runtime.calibration.stages import Stage
    from edge_runtime.data import FrameSource, PictureSource
    from edge_runtime.facts import Calibration, CalibrationStage
    from edge_runtime.package import Package
    from edge_runtime.package.manifest import Rung
    from edge_runtime.profiling import Environment


_UNITS = {"time": SECONDS, "energy": JOULES}  # of `--cost`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_package_argument(parser)
    add_data_argument(parser)
    parser.add_argument(
        "--from",
        metavar="RUN",
        dest="run_folder",
        type=any_path,
        help="measure at its initial state and its checkpoints; default: at the initial state",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=any_path,
        default="calibration.json",
        help="for --calibration of `plan` and `run`; default: calibration.json",
    )
    parser.add_argument(
        "--batches",
        metavar="N",
        type=whole(LEAST_BATCHES, MOST_BATCHES),
        default=16,
        help="per stage and rung, from 2; default: 16",
    )
    parser.add_argument("--seed", metavar="S", type=seed, default=0, help="default: 0")
    parser.add_argument(
        "--profile",
        metavar="FILE",
        type=any_path,
        help="cost profile; default: that of the cache; without one, costs are FLOPs",
    )
    parser.add_argument(
        "--cost",
        choices=_UNITS,
        default="time",
        help="of a step, in the cost profile; default: time",
    )
    add_trained_argument(parser)
    add_device_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure, write, show."""
    from edge_runtime.calibration import CalibrationOptions, calibrate, save_calibration
    from edge_runtime.data import open_source
    from edge_runtime.engines import GRADIENTS, engine_name
    from edge_runtime.package import open_package

    require_output(args.output, "a calibration", _is_calibration)
    if engine_name(args.engine) != GRADIENTS:
        raise ConfigError(f"--engine is {args.engine}; only {GRADIENTS} can calibrate.")
    package, source = open_package(args.package), open_source(args.data)
    environment = environment_of(args, package)
    cost_unit, costs = _costs(package, _rungs(package, environment, args), environment, args)
    with stop_on_signals("stopping") as stop:
        calibration = calibrate(
            package,
            source,
            _stages(package, source, args.run_folder),
            costs,
            CalibrationOptions(
                cost_unit=cost_unit,
                batches=args.batches,
                seed=args.seed,
                device=environment.device,
                threads=args.threads,
                forward_engine=environment.forward_engine,
                run=None if args.run_folder is None else str(args.run_folder),
                report=say,
                stop=stop,
            ),
        )
    save_calibration(calibration, args.output)
    if args.json:
        show_json(table_of(calibration))
    else:
        show(f"{render_text(calibration)}\ncalibration: {args.output}")
    return 0


def _rungs(
    package: "Package", environment: "Environment", args: argparse.Namespace
) -> "Sequence[Rung]":
    """The rungs that can be compared here; each other one is named.

    Raises:
        ConfigError: no rung trains the set that the flags name.
        EngineError: the engine can train none of them.
    """
    from edge_runtime.engines import create_gradient_engine, supported_rungs

    ladder = package.ladder(args.trained)
    for rung in package.manifest.rungs:
        if rung not in ladder:
            trained = ladder[0].trained
            say(f"without rung {rung.id}: it trains {rung.trained}, others {trained}")
    engine = create_gradient_engine(environment.device, environment.threads)
    return supported_rungs(engine, package, ladder, say)


def _stages(
    package: "Package", source: "PictureSource | FrameSource", run_folder: "Path | None"
) -> "list[Stage]":
    from edge_runtime.calibration import initial_stage, stages_of_run
    from edge_runtime.data import PictureSource, steps_per_epoch
    from edge_runtime.records import open_run

    if run_folder is not None:
        return stages_of_run(package, open_run(run_folder), say)
    # Before the first step only curves with a warm-up depend on the length of an epoch.
    images = None if isinstance(source, PictureSource) else package.manifest.batch_size
    return [
        initial_stage(
            package, steps_per_epoch(source, package.manifest.batch_size, images=images)
        )
    ]


def _costs(
    package: "Package",
    rungs: "Sequence[Rung]",
    environment: "Environment",
    args: argparse.Namespace,
) -> tuple[str, dict[str, float]]:
    """The unit of costs, and the cost of a step by rung; without those of unknown cost.

    Raises:
        DeviceError: the given profile does not exist, or was measured elsewhere; the profile
            has none of the rungs; or joules are asked for, and there are none.
        RecordsError: it is damaged.
    """
    from edge_runtime.calibration.measure import dense_rung

    unit, command = _UNITS[args.cost], environment.key.profile_command(package.path)
    path = args.profile or environment.cached_profile_path(package)
    if args.profile is not None:
        profile = environment.load_profile(package, path)
    elif (cached := environment.cached_profile(package, say)) is not None:
        profile = cached
    elif unit == JOULES:
        raise DeviceError(f"--cost energy needs a cost profile. Measure one with {command}.")
    else:
        say(
            "no cost profile of this package on this board: the cost of a step is estimated "
            f"by its FLOPs. To measure it, first run {command}"
        )
        return FLOPS, {rung.id: float(rung.flops) for rung in rungs}
    known = costs_of(package, path, profile, rungs)
    values = {cost.rung: cost.step_s if unit == SECONDS else cost.step_j for cost in known}
    if unit == JOULES and not any(values.values()):
        raise DeviceError(
            "--cost energy: the cost profile has no energy. Take --cost time, or see "
            f"`edge-train doctor` for the sensors and measure again with {command}."
        )
    costs = {rung.id: value for rung in rungs if (value := values.get(rung.id))}
    for rung in rungs:
        if rung.id not in costs:
            say(f"without rung {rung.id}: the cost profile has no {args.cost} of it")
    if costs and (largest := dense_rung(package, rungs).id) not in costs:
        dense = dense_rung(package, map(package.rung, costs)).id
        say(f"gradients are compared with those of {dense}, not of the largest rung {largest}")
    return unit, costs


def _is_calibration(file: "Path") -> bool:
    """Whether a file is a calibration of edge-train."""
    from edge_runtime.calibration import load_calibration

    try:
        load_calibration(file)
    except EdgeRuntimeError:
        return False
    return True


_HEAD = "progress", "rung", "cost", "bias^2", "noise", "variance", "error", "bias^2/|g|^2", ""


def table_of(calibration: "Calibration") -> dict[str, Any]:
    """The file, and the cost-adjusted error of each rung at each stage."""
    from edge_runtime.schema import unstructure

    table: dict[str, Any] = unstructure(calibration)
    for stage, of_stage in zip(calibration.stages, table["stages"], strict=True):
        of_stage["errors"] = {
            each.rung: calibration.error(stage, each.rung) for each in stage.rungs
        }
    return table


def render_text(calibration: "Calibration") -> str:
    """One row per stage and rung, in units of the dense rung's variance at that stage."""
    mark = ", an estimate" if calibration.cost_is_estimate else ""
    dense = calibration.dense
    rows: list[tuple[str, ...]] = [_HEAD]
    for stage in calibration.stages:
        rows += _rows(calibration, stage)
    lines = [
        f"gradients of {calibration.batches} batches of {calibration.batch_size} pictures per "
        f"stage, compared with those of rung {dense}; costs in {calibration.cost_unit}{mark}",
        "",
        *aligned(rows),
        "",
        f"error = bias^2 + cost * variance, where {dense} has 1: below 1 is better than "
        f"{dense} for the same cost; a bias^2 below its noise may be chance",
    ]
    return "\n".join(lines)


def _rows(calibration: "Calibration", stage: "CalibrationStage") -> list[tuple[str, ...]]:
    errors = {each.rung: calibration.error(stage, each.rung) for each in stage.rungs}
    smallest = min(errors, key=errors.__getitem__)
    unit, norm = stage.of(calibration.dense).variance, stage.squared_norm
    return [
        (
            f"{stage.progress:.0%}",
            each.rung,
            f"{calibration.relative_cost(each.rung):.2f}",
            f"{each.squared_bias / unit:.3g}",
            f"{each.bias_noise / unit:.3g}",
            f"{each.variance / unit:.3g}",
            f"{errors[each.rung]:.3g}",
            "unknown" if norm is None else f"{each.squared_bias / norm:.3g}",
            "smallest" if each.rung == smallest else "",
        )
        for each in stage.rungs
    ]
