"""What a run does with a calibration: its candidates, its rungs where nothing limits it."""

from collections.abc import Callable, Sequence

from edge_runtime.errors import ConfigError
from edge_runtime.facts import Budget, Calibration, RungCost
from edge_runtime.facts.costs import EXTRAPOLATED, MEASURED
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning import GradientErrorObjective, Overhead, Workload
from edge_runtime.planning.path import best_path

_NONE = Overhead(
    startup_s=0.0,
    startup_j=None,
    switch_s=0.0,
    switch_j=None,
    checkpoint_s=0.0,
    checkpoint_j=None,
    idle_w=None,
)

Schedule = tuple[tuple[int, str], ...]  # (first step, rung id), ascending from step 1


def calibrated_rungs(
    calibration: Calibration, rungs: Sequence[Rung], report: Callable[[str], None]
) -> list[Rung]:
    """Those of the rungs that the calibration has; each other one is reported.

    Raises:
        ConfigError: it has none of them.
    """
    known = [rung for rung in rungs if rung.id in calibration.costs]
    if not known:
        raise ConfigError(
            f"the calibration has the rungs {', '.join(calibration.costs)}, and none of those "
            f"that may be trained: {', '.join(rung.id for rung in rungs)}. Measure again with "
            "`edge-train calibrate PKG DATA`."
        )
    for rung in rungs:
        if rung not in known:
            report(f"without rung {rung.id}: the calibration does not have it")
    return known


def require_epochs(epochs: int | None) -> int:
    """The number of epochs, which a calibration cannot decide.

    Raises:
        ConfigError: the budget was to decide it.
    """
    if epochs is None:
        raise ConfigError(
            "--epochs auto cannot be combined with --objective gradient-error: errors of "
            "gradients do not tell how many epochs are best. Give --epochs N."
        )
    return epochs


def unlimited_schedule(
    package: Package,
    calibration: Calibration,
    rungs: Sequence[Rung],
    steps: int,
) -> Schedule:
    """The rungs of a run without limits: those with the smallest error at each stage.

    Args:
        package: to train.
        calibration: of it.
        rungs: that may be trained, all of the calibration.
        steps: of the run.
    """
    workload = Workload(
        costs=tuple(_cost(package, calibration, rung) for rung in rungs),
        steps=steps,
        overhead=_NONE,
        objective=GradientErrorObjective(calibration),
    )
    path = best_path(workload, Budget())
    assert path is not None  # nothing limits it
    schedule, first = [], 1
    for rung, count in path.counts.items():
        schedule.append((first, rung))
        first += count
    return tuple(schedule)


def _cost(package: Package, calibration: Calibration, rung: Rung) -> RungCost:
    """As the search takes it: of equally good rungs it chooses the cheapest.

    Only the order of costs matters, so the unit of time is a step of the dense rung.
    """
    return RungCost(
        rung=rung.id,
        token_blocks=package.manifest.token_blocks(rung),
        flops=rung.flops,
        step_s=calibration.relative_cost(rung.id),
        step_s_low=None,
        step_s_high=None,
        step_j=None,
        power_w=None,
        peak_bytes=None,
        predicted_peak_bytes=None,
        source=EXTRAPOLATED if calibration.cost_is_estimate else MEASURED,
        micro_batch=rung.micro_batch,
    )
