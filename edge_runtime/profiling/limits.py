"""Refuses limits that no rung or no sensor can keep, before anything is measured."""

from collections.abc import Callable
from dataclasses import replace

from edge_runtime.device import Meter, gpus
from edge_runtime.errors import DeviceError
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.facts.costs import DOES_NOT_FIT
from edge_runtime.package import Package
from edge_runtime.planning import require_state_fits
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.for_run import wait_for_sensor
from edge_runtime.training.selector import require_temperature
from edge_runtime.units import bytes_text


def check_limits(
    package: Package, environment: Environment, budget: Budget, meter: Meter
) -> None:
    """Refuse what no rung can keep, before anything is measured.

    Raises:
        DeviceError: a limit needs a sensor and the board has none, or no temperature.
        BudgetError: the memory limit is below the package's state.
    """
    require_state_fits(budget, package.manifest.state_bytes)
    if environment.sensor is None and budget.needs_energy:
        raise DeviceError(
            "a limit on energy or power needs a power sensor, and none works on this board. "
            "`edge-train doctor` shows what was tried; a board file (--board) with "
            "power.idle_w and power.full_w allows an estimate."
        )
    if budget.temperature_c is not None:
        wait_for_sensor(lambda: not meter.heat_unknown())
        require_temperature(budget, meter)
    require_readings(budget, meter)


def fitting_on_card(costs: CostProfile, report: Callable[[str], None]) -> CostProfile:
    """Costs in which rungs do not fit that need more of a GPU's own memory than is free now.

    Args:
        costs: of the rungs; no engine is open on the GPU yet.
        report: called with a line of text for each rung that does not fit.
    """
    needs = {cost.rung: cost.need_card_bytes or 0 for cost in costs.rungs}
    # No driver is asked for a run on the CPU.
    free_bytes = gpus.card_free_bytes() if any(needs.values()) else None
    if free_bytes is None:
        return costs
    too_large = [rung for rung, need_bytes in needs.items() if need_bytes > free_bytes]
    for rung in too_large:
        report(
            f"without rung {rung}: of the GPU's own memory, it needs "
            f"{bytes_text(needs[rung])}, and {bytes_text(free_bytes)} are free"
        )
    rungs = [
        replace(cost, source=DOES_NOT_FIT) if cost.rung in too_large else cost
        for cost in costs.rungs
    ]
    return replace(costs, rungs=tuple(rungs))


def require_readings(budget: Budget, meter: Meter) -> None:
    """Refuse a limit on what the sensor cannot read, now and for some seconds.

    Raises:
        DeviceError: it is lost; the rail or file, and its value, are named.
    """
    if not budget.needs_energy:
        return
    wait_for_sensor(lambda: not meter.lost_because())
    if lost := meter.lost_because():
        raise DeviceError(
            f"a limit on energy or power cannot be kept: {lost}. Repair the sensor, see "
            "`edge-train doctor`, or leave the limit out."
        )
