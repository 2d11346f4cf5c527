"""Training within a budget: measure costs if unknown, plan, train, and keep the budget.

Clock: monotonic seconds.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from edge_runtime.data import FrameSource, PictureSource
from edge_runtime.device import Meter
from edge_runtime.engines import create_engine
from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.facts.costs import MEASURED
from edge_runtime.package import Package
from edge_runtime.planning import interpolate, require_state_fits
from edge_runtime.profiling import Environment, profile_package, save_profile
from edge_runtime.records import Run, open_run
from edge_runtime.records.events import Event
from edge_runtime.state import State
from edge_runtime.training import Metering, TrainingOptions, never, open_loop, prepare

_IDLE_S = 3.0  # long enough for the slowest sensor
_QUICK_S = 10.0  # of measured steps per rung: they count against the budget
_UNLIMITED = Budget()

logger = logging.getLogger(__name__)


def train_within(
    package: Package,
    source: PictureSource | FrameSource,
    run_dir: Path,
    *,
    budget: Budget = _UNLIMITED,
    rungs: Sequence[str] | None = None,
    epochs: int = 100,
    images_per_epoch: int | None = None,
    seed: int = 0,
    state: State | None = None,
    board: Path | None = None,
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    profile: Path | None = None,
    resume: bool = False,
    checkpoint_every_s: float = 300.0,
    began_s: float | None = None,
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = logger.info,
) -> Generator[Event, None, Run]:
    """Train a package on pictures within a budget. docs/library.md has an example.

    With a budget, or with several `rungs`, the governor chooses the rung of every step by
    their costs on this board: those of `profile`, cached ones, or measured ones. Otherwise
    one rung is trained. Nothing happens before the first event is requested. Every event is
    in the run folder before it is yielded.

    Args:
        package: what to train.
        source: the pictures.
        run_dir: the run folder; created, unless `resume` is set and it exists.
        budget: limits of the run, over all its processes.
        rungs: ids of those that may be trained; `None`: all of them with a budget, otherwise
            the one that keeps the most.
        epochs: of the run.
        images_per_epoch: `None`: all of the source; a live source needs a number.
        seed: of all random numbers.
        state: the initial state; `None`: that of the package.
        board: file of a board profile; `None`: the board is recognised.
        engine: its name, or "auto".
        device: on which the engine runs.
        threads: of the engine; `None`: one per processor.
        profile: file of a cost profile that was measured here.
        resume: continue the run in `run_dir`, if it exists.
        checkpoint_every_s: time between two checkpoints.
        began_s: start of the budget, by the monotonic clock; `None`: now.
        stop: called between two steps, and while rungs are measured; `True` ends the run
            after a checkpoint.
        report: called with a line of text for each measurement before the first step.

    Returns:
        The run. Its newest checkpoint has the final state.

    Raises:
        EdgeRuntimeError: any error of `train`, and before training:
        BudgetError: no plan is feasible.
        DeviceError: `profile` was measured elsewhere, a limit is set on a quantity that
            no sensor measures, or the board is unknown.
        EngineError: the engine is not installed, or no rung fits into this machine.
    """
    environment = Environment.detect(engine, device=device, threads=threads, board_file=board)
    candidates = _candidates(package, rungs, budget)
    is_governed = budget.is_limited or len(candidates) > 1
    with Metering(environment.sensor, board=environment.board, began_s=began_s) as metering:
        options = TrainingOptions(
            engine=create_engine(engine, device=device, threads=threads),
            rungs=None if is_governed else ((1, candidates[0]),),
            budget=budget,
            state=state,
            metering=metering,
            epochs=epochs,
            images_per_epoch=images_per_epoch,
            seed=seed,
            resume=resume,
            checkpoint_every_s=checkpoint_every_s,
            stop=stop,
        )
        job = prepare(package, source, run_dir, options)
        if finished := job.finished():
            yield finished
            return open_run(run_dir)
        if is_governed:
            costs = _costs(package, environment, options, metering.meter, profile, report)
            chosen = tuple(cost for cost in costs.rungs if cost.rung in candidates)
            options = replace(options, profile=replace(costs, rungs=chosen))
        _set_idle_power(metering.meter, options.profile, report)
        with open_loop(replace(job, options=options)) as loop:
            yield from loop.run()
    return open_run(run_dir)


def _candidates(
    package: Package, rungs: Sequence[str] | None, budget: Budget
) -> tuple[str, ...]:
    """Ids of the rungs that may be trained.

    Raises:
        ConfigError: the package has no such rung, or no rung is given.
    """
    if rungs is not None:
        if not rungs:
            raise ConfigError("no rung to train: give at least one.")
        return tuple(package.rung(rung).id for rung in rungs)
    ladder = package.manifest.ladder()
    if budget.is_limited:
        return tuple(rung.id for rung in ladder)
    return (package.rung_with_keep_ratio(max(rung.keep_ratio for rung in ladder)).id,)


def _costs(
    package: Package,
    environment: Environment,
    options: TrainingOptions,
    meter: Meter,
    file: Path | None,
    report: Callable[[str], None],
) -> CostProfile:
    """Costs of all rungs here: given, cached, or measured now.

    Raises:
        StoppedError: `stop` of the options returned `True`.
        DeviceError: the given profile was measured in another environment, or a limit
            needs a sensor and the board has none.
        RecordsError: it is damaged.
        EngineError: no rung fits into this machine, or one failed.
        BudgetError: the memory limit is below the package's state.
    """
    budget = options.budget
    require_state_fits(budget, package.manifest.state_bytes)
    if environment.sensor is None and (budget.energy_j or budget.power_w):
        raise DeviceError(
            "a limit on energy or power needs a power sensor, and none works on this board. "
            "`edge-train doctor` shows what was tried; a board file (--board) with "
            "power.idle_w and power.full_w allows an estimate."
        )
    path = file or environment.cached_profile_path(package)
    if file or path.exists():
        profile = environment.load_profile(package, path)
    else:
        report("no cost profile of this package on this board yet: measuring its rungs first")
        is_estimate = environment.power_is_estimate
        profile = profile_package(
            package,
            environment,
            meter,
            memory_bytes=budget.memory_bytes,
            max_s=_QUICK_S,
            report=lambda cost: report(cost.text(is_estimate=is_estimate)),
            stop=options.stop,
        )
        # A larger budget would need the rungs that were left out, or killed.
        if all(cost.source == MEASURED for cost in profile.rungs):
            save_profile(profile, path)
    return replace(profile, rungs=interpolate(profile.rungs))


def _set_idle_power(
    meter: Meter, profile: CostProfile | None, report: Callable[[str], None]
) -> None:
    """Idle power of the board: from the cost profile, or measured now."""
    if profile is not None:
        meter.idle_w = profile.idle_w
    elif meter.sensor is not None:
        report(f"measuring the board's idle power for {_IDLE_S:g} s")
        meter.measure_idle(_IDLE_S)
