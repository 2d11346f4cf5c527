"""edge-train plan: which rungs a budget allows, and the predicted costs of the run."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
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
from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import (
    add_package_argument,
    any_path,
    path_text,
)
from edge_runtime.cli.plan_text import PlanFacts, render_text, table_of
from edge_runtime.cli.profile import add_device_arguments, likely_environments
from edge_runtime.cli.quantities import count
from edge_runtime.errors import ConfigError, DataError, DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_runtime.facts import Calibration, CostProfile, RungCost
    from edge_runtime.package import Package
    from edge_runtime.package.manifest import Rung
    from edge_runtime.planning import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_package_argument(parser)
    parser.add_argument(
        "data",
        metavar="DATA",
        type=path_text,
        nargs="?",
        help="pictures to train on; they are counted, and so is the memory to decode them",
    )
    add_rung_arguments(parser, "auto")
    add_trained_argument(parser)
    add_epochs_argument(parser)
    parser.add_argument(
        "--images",
        metavar="N",
        type=count,
        help="pictures per epoch; default: all of DATA",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        type=any_path,
        help="cost profile; default: that of the cache. With --board it may be of another "
        "machine",
    )
    add_device_arguments(parser)
    add_objective_arguments(parser)
    add_budget_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Plan, and show every rung."""
    from edge_runtime.calibration import calibrated_rungs
    from edge_runtime.device import memory_now
    from edge_runtime.package import open_package
    from edge_runtime.planning import (
        Workload,
        first_feasible,
        objective_of,
        overhead_of,
        require_state_fits,
        with_decoding,
    )
    from edge_runtime.profiling import chosen_rungs, fitting_on_card

    package = open_package(args.package)
    calibration, (per_epoch, decoding) = _calibration(package, args), epoch_of(package, args)
    measured = None if calibration is None else package.rung(calibration.dense).trained
    budget = budget_of(args)
    named = named_rungs(package, args, budget)
    chosen = None if named is None else chosen_rungs(package, named, args.trained)
    sets = package.trained_sets(chosen[0].trained if chosen else args.trained or measured)
    require_state_fits(budget, package.manifest.state_bytes)
    path, profile = find_profile(package, args)
    if not _is_elsewhere(args):
        profile = fitting_on_card(profile, say)

    def plan_of_set(trained: str) -> PlanFacts:
        rungs: Sequence[Rung] = chosen or package.ladder(trained)
        if calibration is not None:
            rungs = calibrated_rungs(calibration, rungs, say)
        costs = costs_of(package, path, profile, rungs)
        epoch = Workload(
            costs=with_decoding(costs, decoding),
            steps=per_epoch,
            overhead=overhead_of(profile),
            room_bytes=None if _is_elsewhere(args) else memory_now().limit_bytes,
            objective=objective_of(calibration),
        )
        return _planned(package, path, profile, epoch, trained, args)

    facts, refused = first_feasible(sets, plan_of_set)
    facts = facts._replace(refused_sets=refused)
    if args.json:
        show_json(table_of(facts))
    else:
        show(render_text(facts))
    return 0


def costs_of(
    package: "Package", path: Path, profile: "CostProfile", rungs: "Sequence[Rung]"
) -> "tuple[RungCost, ...]":
    """Costs of these rungs of one ladder; those that the profile lacks are left out.

    Raises:
        DeviceError: it has none of them.
    """
    from edge_runtime.planning import ladder_costs
    from edge_runtime.profiling import key_of

    ids = [rung.id for rung in rungs]
    ladder = ladder_costs(profile, package.ladder(rungs[0].trained))
    costs = tuple(cost for cost in ladder if cost.rung in ids)
    if not costs:
        raise DeviceError(
            f"cost profile {path} has none of the rungs {', '.join(ids)}. Measure them "
            f"with {key_of(profile).profile_command(package.path)}."
        )
    return costs


def _planned(
    package: "Package",
    path: Path,
    profile: "CostProfile",
    epoch: "Workload",
    trained: str,
    args: argparse.Namespace,
) -> PlanFacts:
    """The plan with the rungs of one set of trained parameters.

    Raises:
        BudgetError: it is not feasible.
    """
    from edge_runtime.planning import auto_epochs, best_epochs, make_plan, single_rung_costs

    budget, best, epochs, per_epoch = budget_of(args), None, args.epochs, epoch.steps
    if epochs is None:
        best = auto_epochs(epoch, budget)
        epochs = best.epochs
    elif budget.is_bounded and not epoch.objective.is_staged:
        best = best_epochs(epoch, budget)
    plan = make_plan(
        epoch.costs,
        budget,
        steps=epochs * per_epoch,
        overhead=epoch.overhead,
        room_bytes=epoch.room_bytes,
        steps_per_epoch=per_epoch,
        objective=epoch.objective,
    )
    batch_size = package.manifest.batch_size
    return PlanFacts(
        package=package.path,
        profile_path=path,
        profile=profile,
        calibration_path=args.calibration,
        budget=budget,
        epochs=epochs,
        is_auto=args.epochs is None,
        best=best,
        images=args.images or per_epoch * batch_size,
        batch_size=batch_size,
        trained=trained,
        plan=plan,
        alone=single_rung_costs(
            replace(epoch, steps=plan.steps), budget, steps_per_epoch=per_epoch
        ),
    )


def _calibration(package: "Package", args: argparse.Namespace) -> "Calibration | None":
    """The calibration to plan with; `None`: by token-blocks.

    Raises:
        ConfigError: flags contradict each other, or it is of another package.
        RecordsError: it is damaged.
    """
    from edge_runtime.calibration import load_calibration, require_epochs

    if (path := calibration_path(args)) is None:
        return None
    require_epochs(args.epochs)
    return load_calibration(path, package)


def epoch_of(package: "Package", args: argparse.Namespace) -> tuple[int, int]:
    """Steps of an epoch, and the memory in bytes that decoding its pictures takes.

    Raises:
        ConfigError: neither DATA nor `--images` is given.
        DataError: the pictures cannot be read, or are too few.
    """
    from edge_runtime.data import (
        decoder_code_bytes,
        decoding_bytes,
        open_source,
        steps_per_epoch,
    )

    batch_size, views = package.manifest.batch_size, package.manifest.views
    if args.data is not None:
        source = open_source(args.data)
        decoding = decoding_bytes(source, views, batch_size=batch_size, threads=None)
        decoding += decoder_code_bytes(source)
        return steps_per_epoch(source, batch_size, images=args.images), decoding
    if args.images is None:
        raise ConfigError(
            "a plan needs the pictures per epoch: give DATA, whose pictures are counted, or "
            "--images N."
        )
    if args.images < batch_size:
        raise DataError(
            f"a batch of {batch_size} is larger than an epoch of {args.images} picture(s). "
            "Add pictures, or export the package with a smaller batch size."
        )
    return int(args.images // batch_size), 0


def _is_elsewhere(args: argparse.Namespace) -> bool:
    """Whether the plan is for another board than this machine."""
    return args.profile is not None and args.board is not None


def find_profile(package: "Package", args: argparse.Namespace) -> tuple[Path, "CostProfile"]:
    """The profile to plan with: the given one, or that of the cache.

    Builds no TensorRT engine: where `auto` may take tensorrt or ort, the profile says which of
    them its costs are of.

    Raises:
        DeviceError: it does not exist, or is of another package or environment.
        RecordsError: it is damaged.
    """
    from edge_runtime.profiling import load_profile

    if _is_elsewhere(args):
        return args.profile, _profile_of_board(package, args.profile, args.board)
    environments = likely_environments(args, package)
    if args.profile is not None:
        runtime = load_profile(args.profile).runtime
        fitting = (each for each in environments if each.runtime == runtime)
        environment = next(fitting, environments[0])
        return args.profile, environment.load_profile(package, args.profile)
    for environment in environments:
        path = environment.cached_profile_path(package)
        if os.path.exists(path):
            return path, environment.load_profile(package, path)
    here = environments[0]
    raise DeviceError(
        f"no cost profile of {package.path} on {here.board.id} with {here.engine} "
        f"({here.runtime}) on {here.device} yet. Measure it with "
        f"{here.key.profile_command(package.path)}, or give one with --profile."
    )


def _profile_of_board(package: "Package", path: Path, board_file: Path) -> "CostProfile":
    """A profile of another machine: package and board must match."""
    from edge_runtime.device import load_board
    from edge_runtime.profiling import check_fits, check_package, key_of, load_profile

    profile = load_profile(path)
    key = key_of(profile)._replace(board=load_board(board_file).id)
    rungs = [rung.id for rung in package.manifest.rungs]
    check_fits(profile, package.digest, key, rungs=rungs)
    check_package(profile, package, f"cost profile {path}")
    return profile
