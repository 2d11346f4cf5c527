"""edge-train plan: which rungs a budget allows, and the predicted costs of the run."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.cli.budget_flags import add_budget_arguments, budget_of
from edge_runtime.cli.profile import add_device_arguments, environment_of
from edge_runtime.cli.quantities import count_text, positive
from edge_runtime.cli.table import aligned
from edge_runtime.errors import ConfigError, DataError, DeviceError
from edge_runtime.units import bytes_text, duration_text, energy_text, power_text, step_text

if TYPE_CHECKING:
    from edge_runtime.facts import Budget, CostProfile, Plan
    from edge_runtime.package import Package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "package", metavar="PKG", type=Path, help="written by `edge-train export`"
    )
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="pictures to train on; they are counted"
    )
    parser.add_argument(
        "--epochs", metavar="N", type=positive, default=100, help="default: 100"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=positive,
        help="pictures per epoch; default: all of DATA",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        type=Path,
        help="cost profile; default: that of the cache. With --board it may be of another "
        "machine",
    )
    add_device_arguments(parser)
    add_budget_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


class PlanFacts(NamedTuple):
    """A plan and its inputs."""

    package: Path
    profile_path: Path
    profile: "CostProfile"
    budget: "Budget"
    epochs: int
    images: int  # per epoch
    batch_size: int
    plan: "Plan"


def run(args: argparse.Namespace) -> int:
    """Plan, and show every rung."""
    from edge_runtime.device import memory_now
    from edge_runtime.package import open_package
    from edge_runtime.planning import interpolate, make_plan, overhead_of, require_state_fits

    budget, package = budget_of(args), open_package(args.package)
    manifest, per_epoch = package.manifest, _steps_per_epoch(package, args)
    require_state_fits(budget, manifest.state_bytes)
    path, profile = find_profile(package, args)
    ladder = [rung.id for rung in manifest.ladder()]
    unplanned = {rung.id for rung in manifest.rungs}.difference(ladder)
    costs = [cost for cost in profile.rungs if cost.rung not in unplanned]
    if not costs:
        raise DeviceError(
            f"cost profile {path} has none of the rungs {', '.join(ladder)}. Measure them "
            f"with `edge-train profile {package.path}`."
        )
    plan = make_plan(
        interpolate(costs),
        budget,
        steps=args.epochs * per_epoch,
        overhead=overhead_of(profile),
        room_bytes=None if _is_elsewhere(args) else memory_now().limit_bytes,
    )
    facts = PlanFacts(
        package=package.path,
        profile_path=path,
        profile=profile,
        budget=budget,
        epochs=args.epochs,
        images=args.images or per_epoch * manifest.batch_size,
        batch_size=manifest.batch_size,
        plan=plan,
    )
    print(json.dumps(table_of(facts)) if args.json else render_text(facts))
    return 0


def table_of(facts: PlanFacts) -> dict[str, Any]:
    """The document that `--json` prints; docs/planning.md has its keys."""
    from edge_runtime.schema import unstructure

    profile = unstructure(facts.profile)
    del profile["rungs"]
    return {
        "package": str(facts.package),
        "profile": {"path": str(facts.profile_path), **profile},
        "budget": unstructure(facts.budget),
        "epochs": facts.epochs,
        "images": facts.images,
        "batch_size": facts.batch_size,
        "energy_is_estimate": facts.profile.energy_is_estimate,
        "plan": unstructure(facts.plan),
    }


def _steps_per_epoch(package: "Package", args: argparse.Namespace) -> int:
    from edge_runtime.data import open_source, steps_per_epoch

    batch_size = package.manifest.batch_size
    if args.data is not None:
        return steps_per_epoch(open_source(args.data), batch_size, images=args.images)
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
    return int(args.images // batch_size)


def _is_elsewhere(args: argparse.Namespace) -> bool:
    """Whether the plan is for another board than this machine."""
    return args.profile is not None and args.board is not None


def find_profile(package: "Package", args: argparse.Namespace) -> tuple[Path, "CostProfile"]:
    """The profile to plan with: the given one, or that of the cache.

    Raises:
        DeviceError: it does not exist, or is of another package or environment.
        RecordsError: it is damaged.
    """
    if _is_elsewhere(args):
        return args.profile, _profile_of_board(package, args.profile, args.board)
    environment = environment_of(args)
    path = args.profile or environment.cached_profile_path(package)
    if args.profile is None and not path.exists():
        raise DeviceError(
            f"no cost profile of {package.path} on {environment.board.id} with "
            f"{environment.engine} ({environment.runtime}) yet. Measure it with `edge-train "
            f"profile {package.path}`, or give one with --profile."
        )
    return path, environment.load_profile(package, path)


def _profile_of_board(package: "Package", path: Path, board_file: Path) -> "CostProfile":
    """A profile of another machine: package and board must match."""
    from edge_runtime.device import load_board
    from edge_runtime.profiling import check_fits, key_of, load_profile

    profile = load_profile(path)
    key = key_of(profile)._replace(board=load_board(board_file).id)
    rungs = [rung.id for rung in package.manifest.rungs]
    check_fits(profile, package.digest, key, rungs=rungs)
    return profile


def render_text(facts: PlanFacts) -> str:
    """The plan for people."""
    from edge_runtime.facts.plan import steps_text

    plan, profile = facts.plan, facts.profile
    mark = " (estimate)" if profile.energy_is_estimate else ""
    rows = [
        (
            "profile",
            f"{facts.profile_path}, of {profile.created_at} on {profile.board} with "
            f"{profile.engine} ({profile.runtime})",
        ),
        ("budget", str(facts.budget) or "none"),
        ("run", f"{facts.epochs} epochs of {facts.images} pictures: {plan.steps} steps"),
        ("plan", steps_text((part.rung, part.steps) for part in plan.segments)),
        ("takes", _totals(plan, mark)),
        ("limited by", ", ".join(f"--{name}" for name in plan.binding) or "nothing"),
    ]
    if facts.budget.temperature_c is not None:
        rows.append(("note", "a temperature is not planned; the run watches it, and pauses"))
    return "\n".join([*aligned(rows), "", *_verdict_lines(plan, mark)])


def _totals(plan: "Plan", mark: str) -> str:
    parts = [duration_text(plan.time_s)]
    if plan.wait_s:
        parts[0] += f", of which {duration_text(plan.wait_s)} idle to keep --power"
    if plan.energy_j is not None:
        parts.append(f"{energy_text(plan.energy_j)}{mark}")
    if plan.power_w is not None:
        parts.append(f"{power_text(plan.power_w)} on average{mark}")
    if plan.peak_bytes is not None:
        parts.append(f"{bytes_text(plan.peak_bytes)} at most")
    return "; ".join(parts)


def _verdict_lines(plan: "Plan", mark: str) -> list[str]:
    rows = [("rung", "token-blocks", "step", "energy", "power", "memory", "steps", "why")]
    for verdict in plan.verdicts:
        is_measured = verdict.source == "measured"
        step_mark = "" if is_measured else f" ({verdict.source})"
        row = (
            verdict.rung,
            count_text(verdict.token_blocks),
            _cell(step_text, verdict.step_s, step_mark),
            _cell(energy_text, verdict.step_j, mark),
            _cell(power_text, verdict.power_w, mark),
            _cell(bytes_text, verdict.peak_bytes, "" if is_measured else " (predicted)"),
            str(verdict.steps),
            verdict.reason,
        )
        rows.append(row)
    return aligned(rows)


def _cell(text: Callable[[float], str], value: float | None, mark: str) -> str:
    return "unknown" if value is None else f"{text(value)}{mark}"
