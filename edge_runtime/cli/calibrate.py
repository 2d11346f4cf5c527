"""edge-train calibrate: errors of the gradients of every rung, at stages of a run."""

import argparse
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import any_path, path_text, require_output
from edge_runtime.cli.profile import add_device_arguments, environment_of
from edge_runtime.cli.quantities import count, seed
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.cli.table import aligned
from edge_runtime.errors import ConfigError, EdgeRuntimeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_runtime.calibration.stages import Stage
    from edge_runtime.data import FrameSource, PictureSource
    from edge_runtime.facts import Calibration, CalibrationStage
    from edge_runtime.package import Package
    from edge_runtime.package.manifest import Rung
    from edge_runtime.profiling import Environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "package", metavar="PKG", type=any_path, help="written by `edge-train export`"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        type=path_text,
        help="a folder or .tar of pictures, a video file, camera:N, or digits",
    )
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
        type=count,
        default=16,
        help="per stage and rung, at least 2; default: 16",
    )
    parser.add_argument("--seed", metavar="S", type=seed, default=0, help="default: 0")
    parser.add_argument(
        "--profile",
        metavar="FILE",
        type=any_path,
        help="cost profile; default: that of the cache; without one, costs are FLOPs",
    )
    add_device_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure, write, show."""
    from edge_runtime.calibration import CalibrationOptions, calibrate, save_calibration
    from edge_runtime.data import open_source
    from edge_runtime.engines import (
        GRADIENTS,
        create_gradient_engine,
        engine_name,
        supported_rungs,
    )
    from edge_runtime.package import open_package

    require_output(args.output, "a calibration", _is_calibration)
    if engine_name(args.engine) != GRADIENTS:
        raise ConfigError(f"--engine is {args.engine}; only {GRADIENTS} can calibrate.")
    package, source = open_package(args.package), open_source(args.data)
    environment = environment_of(args, package)
    engine = create_gradient_engine(environment.device, args.threads)
    ladder = package.manifest.ladder()
    for rung in package.manifest.rungs:
        if rung not in ladder:
            say(
                f"without rung {rung.id}: it trains {rung.trained}, others {ladder[0].trained}"
            )
    rungs = supported_rungs(engine, package, ladder, say)
    cost_unit, costs = _costs(package, rungs, environment, args.profile)
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
    file: "Path | None",
) -> tuple[str, dict[str, float]]:
    """The unit of costs, and the cost of a step by rung, of those that can be trained here.

    Raises:
        DeviceError: the given profile does not exist, or was measured elsewhere.
        RecordsError: it is damaged.
    """
    from edge_runtime.facts.calibration import FLOPS, SECONDS
    from edge_runtime.planning import interpolate

    if file is not None:
        profile = environment.load_profile(package, file)
    elif (cached := environment.cached_profile(package, say)) is not None:
        profile = cached
    else:
        say(
            "no cost profile of this package on this board: the cost of a step is estimated "
            "by its FLOPs. To measure it, first run "
            f"{environment.key.profile_command(package.path)}"
        )
        return FLOPS, {rung.id: float(rung.flops) for rung in rungs}
    comparable = {rung.id for rung in rungs}
    of_ladder = [cost for cost in profile.rungs if cost.rung in comparable]
    known = {cost.rung: cost.step_s for cost in interpolate(of_ladder)}
    costs = {}
    for rung in rungs:
        step_s = known.get(rung.id)
        if step_s is None:
            say(f"without rung {rung.id}: the cost profile has no time for it")
        else:
            costs[rung.id] = step_s
    return SECONDS, costs


def _is_calibration(file: "Path") -> bool:
    """Whether a file is a calibration of edge-train."""
    from edge_runtime.calibration import load_calibration

    try:
        load_calibration(file)
    except EdgeRuntimeError:
        return False
    return True


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
    """One row per stage and rung; values relative to the dense rung's mean gradient."""
    mark = ", an estimate" if calibration.cost_is_estimate else ""
    dense = calibration.dense
    lines = [
        f"gradients of {calibration.batches} batches of {calibration.batch_size} pictures per "
        f"stage, compared with those of rung {dense}; costs in {calibration.cost_unit}{mark}",
        "",
    ]
    rows = [
        ("progress", "rung", "cost", "bias^2/|g|^2", "noise", "variance/|g|^2", "error", "")
    ]
    for stage in calibration.stages:
        rows += _rows(calibration, stage)
    lines += aligned(rows)
    lines += [
        "",
        f"error: squared bias + cost * variance, over that of {dense}: below 1 is better than "
        f"{dense} for the same cost; a squared bias below its noise may be chance",
    ]
    return "\n".join(lines)


def _rows(
    calibration: "Calibration", stage: "CalibrationStage"
) -> list[tuple[str, str, str, str, str, str, str, str]]:
    errors = {each.rung: calibration.error(stage, each.rung) for each in stage.rungs}
    smallest = min(errors, key=errors.__getitem__)
    return [
        (
            f"{stage.progress:.0%}",
            each.rung,
            f"{calibration.relative_cost(each.rung):.2f}",
            _relative(each.squared_bias, stage.squared_norm),
            _relative(each.bias_noise, stage.squared_norm),
            _relative(each.variance, stage.squared_norm),
            f"{errors[each.rung]:.3g}",
            "smallest" if each.rung == smallest else "",
        )
        for each in stage.rungs
    ]


def _relative(square: float, squared_norm: float | None) -> str:
    return "unknown" if squared_norm is None else f"{square / squared_norm:.3g}"
