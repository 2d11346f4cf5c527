"""edge-train modes: in which power mode of this board a run takes the least energy or time."""

import argparse
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_runtime.cli.budget_flags import (
    add_budget_arguments,
    add_trained_argument,
    budget_of,
)
from edge_runtime.cli.modes_text import ModeRun, ModesFacts, render_text, table_of
from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import add_package_argument, path_text
from edge_runtime.cli.plan import epoch_of
from edge_runtime.cli.profile import (
    add_device_arguments,
    add_nice_argument,
    environment_of,
)
from edge_runtime.cli.quantities import count, duration_s
from edge_runtime.cli.signals import stop_on_signals
from edge_runtime.errors import BudgetError, ConfigError, DeviceError, ModeError
from edge_runtime.facts.plan import EPOCHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_runtime.device import PowerModes
    from edge_runtime.facts import Budget, CostProfile
    from edge_runtime.package import Package
    from edge_runtime.planning import Workload
    from edge_runtime.profiling import Environment, ModeCosts


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
    parser.add_argument(
        "--modes",
        metavar="A,B",
        help="power modes to compare, by name; default: all of nvpmodel on a Jetson, "
        "elsewhere the present governor of cpufreq at its highest clock rate, three quarters "
        "of it, and half",
    )
    add_trained_argument(parser)
    parser.add_argument(
        "--epochs", metavar="N", type=count, default=EPOCHS, help=f"default: {EPOCHS}"
    )
    parser.add_argument(
        "--images", metavar="N", type=count, help="pictures per epoch; default: all of DATA"
    )
    parser.add_argument(
        "--time-per-rung",
        metavar="TIME",
        type=duration_s,
        default="60s",
        help="at most for all its repetitions in one mode; default: 60s",
    )
    add_device_arguments(parser)
    add_budget_arguments(parser)
    add_nice_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure in every mode, put the mode back, compare."""
    from edge_runtime.device import mode_put_back, put_back_interrupted
    from edge_runtime.engines import create_engine, supported_rungs
    from edge_runtime.package import open_package
    from edge_runtime.planning import require_state_fits
    from edge_runtime.profiling import Environment, profile_modes

    if not args.time_per_rung:
        raise ConfigError("--time-per-rung is 0; expected a duration above zero, such as 60s.")
    package, budget = open_package(args.package), budget_of(args)
    require_state_fits(budget, package.manifest.state_bytes)
    trained = package.trained_sets(args.trained)[0]
    per_epoch, decoding = epoch_of(package, args)
    modes = _modes_here()
    put_back_interrupted(modes, say)  # before the present mode decides which to compare
    names = _in_order(args.modes, modes)
    os.nice(args.nice)
    here = environment_of(args, package)
    _require_sensor(here, budget)
    engine = create_engine(here.engine, device=here.device, threads=args.threads)
    rungs = supported_rungs(engine, package, package.manifest.rungs, say)
    say(f"comparing {', '.join(names)} of {modes.kind} on {here.board.id}")

    def show_results() -> None:
        facts = ModesFacts(
            package=package.path,
            board=here.board,
            kind=modes.kind,
            before=before,
            budget=budget,
            epochs=args.epochs,
            steps=args.epochs * per_epoch,
            trained=trained,
            runs=_runs(costs, package, trained, budget, per_epoch, args.epochs, decoding),
        )
        if args.json:
            show_json(table_of(facts))
        else:
            show(render_text(facts))

    costs: Sequence[ModeCosts] = ()
    try:
        with (
            stop_on_signals("stopping, then the power mode is put back") as stop,
            mode_put_back(modes, say) as before,
        ):
            costs = profile_modes(
                package,
                modes,
                names,
                detect=lambda: Environment.detect(
                    args.engine,
                    device=here.device,
                    threads=args.threads,
                    forward_engine=here.forward_engine,
                    board_file=args.board,
                ),
                rungs=rungs,
                max_s=args.time_per_rung,
                report=say,
                stop=stop,
            )
    except ModeError:
        if costs:  # everything was measured; the mode could not be put back
            with suppress(DeviceError):  # none could: the reasons were said
                show_results()
        raise
    say(f"power mode {before} is set, as before")
    show_results()
    return 0


def _modes_here() -> "PowerModes":
    """The board's modes.

    Raises:
        DeviceError: it has none, or is slowed down by heat.
    """
    from edge_runtime.device import Thermometer, cpufreq_problem, power_modes

    modes = power_modes()
    if modes is None and (problem := cpufreq_problem()):
        raise DeviceError(f"no power modes were found in the kernel's cpufreq: {problem}.")
    if modes is None:
        raise DeviceError(
            "no power modes were found: this board has no nvpmodel, and its kernel no "
            "cpufreq (devices/system/cpu/cpu*/cpufreq in sysfs). In a container or a virtual "
            "machine they belong to the host: run this command there."
        )
    thermometer = Thermometer()
    try:
        is_throttled = thermometer.is_throttled()
    finally:
        thermometer.close()
    if is_throttled:  # limits that are read now are not those that were set
        raise DeviceError(
            "the board is throttled now, so that its modes cannot be compared. Let it cool "
            "down, or improve its cooling; `edge-train doctor` shows temperatures."
        )
    return modes


def _in_order(wanted: str | None, modes: "PowerModes") -> list[str]:
    """The modes to compare, the present one last: what cannot be set is then known early."""
    given = modes.names() if wanted is None else wanted.split(",")
    names = list(dict.fromkeys(modes.resolve(name.strip()) for name in given))
    now = modes.current()
    return sorted(names, key=lambda name: name == now)


def _require_sensor(environment: "Environment", budget: "Budget") -> None:
    """Refuse a limit on energy that could not be judged, before anything is measured.

    Raises:
        DeviceError: there is no power sensor.
    """
    if not budget.needs_energy:
        return
    if environment.sensor is None or environment.power_is_estimate:
        raise DeviceError(
            "a limit on energy or power needs a power sensor, and none works on this board: "
            "an estimate from processor load does not know the clock rates of a mode. "
            "`edge-train doctor` shows what was tried; --time needs no sensor."
        )
    environment.sensor.close()  # it is opened again in every mode


def _runs(
    costs: "Sequence[ModeCosts]",
    package: "Package",
    trained: str,
    budget: "Budget",
    per_epoch: int,
    epochs: int,
    decoding: int,
) -> tuple[ModeRun, ...]:
    """The work in each mode.

    Raises:
        DeviceError: none of the modes could be measured.
    """
    from edge_runtime.device import memory_now
    from edge_runtime.planning import Workload, ladder_costs, overhead_of, with_decoding

    room_bytes = memory_now().limit_bytes
    runs: list[ModeRun] = []
    for each in costs:
        if each.profile is None:
            runs.append(ModeRun(costs=each))
            continue
        profile = _with_true_energy(each.profile)
        ladder = ladder_costs(profile, package.ladder(trained))
        epoch = Workload(
            costs=with_decoding(ladder, decoding),
            steps=per_epoch,
            overhead=overhead_of(profile),
            room_bytes=room_bytes,
        )
        runs.append(_run_in(each, epoch, budget, epochs))
    if all(run.problem for run in runs):
        reasons = "\n".join(f"  {run.costs.mode}: {run.problem}" for run in runs)
        raise DeviceError(f"none of these power modes could be measured:\n{reasons}")
    return tuple(runs)


def _run_in(costs: "ModeCosts", epoch: "Workload", budget: "Budget", epochs: int) -> ModeRun:
    from edge_runtime.planning import make_plan, single_rung_costs

    work = replace(epoch, steps=epochs * epoch.steps)
    try:
        alone = single_rung_costs(work, budget, steps_per_epoch=epoch.steps)
    except DeviceError as error:  # the energy of this mode is unknown
        return ModeRun(costs=costs, reason=str(error))
    try:
        plan = make_plan(
            work.costs,
            budget,
            steps=work.steps,
            overhead=work.overhead,
            room_bytes=work.room_bytes,
            steps_per_epoch=epoch.steps,
        )
    except BudgetError as error:
        return ModeRun(costs=costs, alone=alone, no_plan=str(error))
    return ModeRun(costs=costs, alone=alone, plan=plan)


def _with_true_energy(profile: "CostProfile") -> "CostProfile":
    """Without estimated joules: they come from processor load, whatever the clock rate."""
    if not profile.energy_is_estimate:
        return profile
    rungs = tuple(replace(cost, step_j=None, power_w=None) for cost in profile.rungs)
    return replace(profile, idle_w=None, checkpoint_j=None, rungs=rungs)
