"""Measuring the rungs of a run before it begins, within its budget.

Clock: monotonic seconds.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edge_runtime.device import process_tree_rss_bytes
from edge_runtime.engines import supported_rungs
from edge_runtime.errors import DeviceError
from edge_runtime.facts import Budget, CostProfile, RungCost, Spent
from edge_runtime.facts.costs import MEASURED
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning import ladder_costs
from edge_runtime.profiling.bench import kept_folder
from edge_runtime.profiling.cache import cache_writes, save_profile
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.profile import profile_package
from edge_runtime.training import Metering, TrainingOptions

_QUICK_S = 10.0  # of measured steps per rung: they count against the budget
_SHARE = 0.1  # of the budget, at most
_FIRST_READING_S = 3.0  # until the slowest sensor has been read


def measure_for_run(
    package: Package,
    environment: Environment,
    options: TrainingOptions,
    metering: Metering,
    report: Callable[[str], None],
    ladder: Sequence[Rung],
    cached: CostProfile | None,
) -> CostProfile:
    """Measure the rungs of a ladder that the engine can train, and cache them if all fit.

    Args:
        package: the package to train.
        environment: this machine.
        options: of the run.
        metering: of the run.
        report: called with a line of text.
        ladder: rungs that train the same parameters.
        cached: the profile in the cache, which has other rungs.

    Raises:
        StoppedError: `stop` of the options returned `True`.
        EngineError: a rung failed.
        BudgetError: measuring takes far longer than the budget allows, or more memory.
    """
    memory_bytes = options.budget.memory_bytes
    if memory_bytes is not None:  # of this process and of the measured one together
        memory_bytes = max(0, memory_bytes - process_tree_rss_bytes())
    report("no cost profile of this package on this board yet: measuring its rungs first")
    is_estimate = environment.power_is_estimate
    profile = profile_package(
        package,
        environment,
        metering.meter,
        rungs=supported_rungs(options.engine, package, ladder),
        memory_bytes=memory_bytes,
        max_s=_QUICK_S,
        left_s=_left_for_measuring(options.budget, metering),
        report=lambda cost: report(cost.text(is_estimate=is_estimate)),
        progress=report,
        stop=options.stop,
    )
    measured = {cost.rung for cost in profile.rungs}
    others = [cost for cost in cached.rungs if cost.rung not in measured] if cached else []
    whole = replace(profile, rungs=(*profile.rungs, *others))
    # A larger budget would need what was left out, or killed.
    if os.path.exists(kept_folder(package, environment)):
        known = ", ".join(cost.rung for cost in profile.rungs if cost.source == MEASURED)
        report(
            f"there was time and memory to measure {known}. This is kept; the next run or "
            f"{environment.key.profile_command()} continues from there"
        )
    elif all(_is_complete(cost, metering) for cost in profile.rungs):
        with cache_writes():
            save_profile(whole, environment.cached_profile_path(package))
    return whole


def costs_for_run(
    package: Package,
    environment: Environment,
    file: Path | None,
    candidates: Sequence[Rung],
    measure: Callable[[Sequence[Rung], CostProfile | None], CostProfile],
    report: Callable[[str], None],
) -> CostProfile:
    """Costs of the candidates here: given, cached, or measured now.

    Args:
        package: the package to train.
        environment: this machine.
        file: of a cost profile; `None`: that of the cache.
        candidates: rungs that train the same parameters.
        measure: `measure_for_run` with its first arguments.
        report: called with a line of text.

    Raises:
        DeviceError: the given profile was measured in another environment, or lacks a rung.
        RecordsError: it is damaged.
        EdgeRuntimeError: any error of `measure`.
    """
    ladder = package.ladder(candidates[0].trained)
    if file:
        known: CostProfile | None = environment.load_profile(package, file)
    else:
        known = environment.cached_profile(package, report)
    missing = _missing(candidates, known)
    if file and missing:
        raise DeviceError(
            f"cost profile {file} lacks {', '.join(missing)}. Measure again with "
            f"{environment.key.profile_command()}."
        )
    profile = measure(ladder, known) if known is None or missing else known
    ids, rungs = {rung.id for rung in candidates}, ladder_costs(profile, ladder)
    return replace(profile, rungs=tuple(cost for cost in rungs if cost.rung in ids))


def _missing(candidates: Sequence[Rung], profile: CostProfile | None) -> list[str]:
    known = {cost.rung for cost in profile.rungs} if profile else set()
    return [rung.id for rung in candidates if rung.id not in known]


def _is_complete(cost: RungCost, metering: Metering) -> bool:
    has_energy = cost.step_j is not None or metering.meter.sensor is None
    return cost.source == MEASURED and has_energy


def _left_for_measuring(budget: Budget, metering: Metering) -> Callable[[], float] | None:
    """Seconds that measuring may still take: a tenth of the time and energy that are left.

    Returns:
        A function that returns them; `None` without such a limit.
    """
    if budget.time_s is None and budget.energy_j is None:
        return None
    begin = _first_known(metering) if budget.energy_j else metering.spent(time.monotonic())

    def left_s() -> float:
        now = metering.spent(time.monotonic())
        used_s, left = now.time_s - begin.time_s, []
        if budget.time_s is not None:
            left.append(_SHARE * (budget.time_s - begin.time_s) - used_s)
        if budget.energy_j and now.energy_j and begin.energy_j is not None:
            used_j = now.energy_j - begin.energy_j
            left_j = _SHARE * (budget.energy_j - begin.energy_j) - used_j
            left.append(left_j * now.time_s / now.energy_j)  # at the mean power so far
        return min(left, default=math.inf)

    return left_s


def _first_known(metering: Metering) -> Spent:
    """The totals once a sensor that counts energy has been read twice."""
    wait_for_sensor(lambda: metering.spent(time.monotonic()).energy_j is not None)
    return metering.spent(time.monotonic())


def wait_for_sensor(has_read: Callable[[], bool]) -> None:
    """Wait for the first readings of a slow sensor, some seconds at most."""
    until_s = time.monotonic() + _FIRST_READING_S
    while not has_read() and time.monotonic() < until_s:
        time.sleep(0.02)
