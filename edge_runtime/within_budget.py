"""Training within a budget: measure costs if unknown, plan, train, and keep the budget.

Clock: monotonic seconds.
"""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edge_runtime.calibration import (
    calibrated_rungs,
    load_calibration,
    require_epochs,
    unlimited_schedule,
)
from edge_runtime.data import (
    FrameSource,
    PictureSource,
    decoder_code_bytes,
    decoding_bytes,
    steps_per_epoch,
)
from edge_runtime.device import Meter, cpu_threads
from edge_runtime.engines import FORWARD_ENGINES, ORT, ForwardOptions, create_engine
from edge_runtime.engines.encoders import choose_encoder_engine
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.facts.devices import AUTO
from edge_runtime.facts.plan import EPOCHS
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning import (
    first_feasible,
    objective_of,
    require_bounded,
    with_decoding,
)
from edge_runtime.profiling import (
    Environment,
    check_limits,
    choose_device,
    chosen_candidates,
    costs_for_run,
    default_candidates,
    fitting_on_card,
    is_memory_tight,
    limit_beside_costs,
    limit_beside_rungs,
    measure_for_run,
    require_readings,
)
from edge_runtime.records import Run, RunInfo, is_begun, open_run
from edge_runtime.records.events import Event
from edge_runtime.state import State
from edge_runtime.storage import StrPath
from edge_runtime.training import (
    Metering,
    TrainingOptions,
    never,
    open_loop,
    prepare,
)
from edge_runtime.training.auto_epochs import with_auto_epochs
from edge_runtime.training.job import TrainingJob
from edge_runtime.training.selector import rung_selector

_IDLE_S = 3.0  # long enough for the slowest sensor
_UNLIMITED = Budget()

logger = logging.getLogger(__name__)


def train_within(
    package: Package,
    source: PictureSource | FrameSource,
    run_dir: StrPath,
    *,
    budget: Budget = _UNLIMITED,
    rungs: Sequence[str] | None = None,
    trained: str | None = None,
    skip_unsupported: bool = False,
    epochs: int | None = EPOCHS,
    images_per_epoch: int | None = None,
    seed: int = 0,
    state: State | None = None,
    board: StrPath | None = None,
    engine: str = "auto",
    device: str | None = None,
    forward_engine: str = "auto",
    threads: int | None = None,
    profile: StrPath | None = None,
    calibration: StrPath | None = None,
    resume: bool = False,
    checkpoint_every_s: float = 300.0,
    began_s: float | None = None,
    meter: Meter | None = None,
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = logger.info,
) -> Generator[Event, None, Run]:
    """Train a package on pictures within a budget. docs/library.md has an example.

    With a budget, several `rungs` or a `profile`, the governor chooses the rung of every step
    by their costs on this board: those of `profile`, cached ones, or measured ones. Otherwise
    one rung is trained. Nothing happens before the first event is requested. Every event is
    in the run folder before it is yielded.

    Args:
        package: what to train.
        source: the pictures.
        run_dir: the run folder; created, unless `resume` is set and it exists.
        budget: limits of the run, over all its processes.
        rungs: ids of those that may be trained; all of them train the same parameters.
            `None`: with a budget, the ladder, as far as the engine can train it; otherwise the
            rung that keeps the most.
        trained: the set of parameters that is trained, such as "last-2". `None`: with a budget
            or too little free memory, the first of the package's sets that has a feasible
            plan, otherwise the first; a run that is continued by a plan keeps its set.
        skip_unsupported: leave out those of `rungs` that the engine cannot train.
        epochs: of the run. `None`: as many as time and energy give; a run that is continued
            keeps its number.
        images_per_epoch: `None`: all of the source; a live source needs a number.
        seed: of all random numbers.
        state: the initial state; `None`: that of the package.
        board: file of a board profile; `None`: the board is recognised.
        engine: its name, or "auto".
        device: on which the engine runs. `None`: the CPU; "auto": that on which a step takes
            the least time. With both, a run that is continued keeps its device.
        forward_engine: that runs the encoders before the package's steps, if any: "ort",
            "tensorrt", or "auto", tensorrt where it is installed, has a GPU and gives the
            features of ort. It may be built first, in minutes. With "auto", a run that is
            continued keeps ort.
        threads: of the engine; `None`: one per processor; a run that is continued keeps its
            number, since sums in another order are rounded otherwise.
        profile: file of a cost profile that was measured here.
        calibration: file of a calibration: steps are planned by the errors of their gradients,
            also without a budget. `None`: by token-blocks.
        resume: continue the run in `run_dir`, if it exists.
        checkpoint_every_s: time between two checkpoints.
        began_s: start of the budget, by the monotonic clock; `None`: now.
        meter: one that has measured since `began_s` or soon after, with
            `keep_until_handed_over`; `None`: a new one.
        stop: called between two steps, and while rungs are measured; `True` ends the run
            after a checkpoint.
        report: called with a line of text for each measurement before the first step.

    Returns:
        The run. Its newest checkpoint has the final state.

    Raises:
        EdgeRuntimeError: any error of `train`, and before training:
        BudgetError: no plan is feasible.
        ConfigError: the package has no such rungs, they train different parameters, the
            budget does not limit the number of epochs that it has to decide, or the
            calibration is of another package.
        DeviceError: `profile` was measured elsewhere, a limit is set on a quantity that
            no sensor measures, or the board is unknown.
        EngineError: the engine is not installed, it cannot train a rung, or no rung fits into
            this machine.
    """
    run_dir, manifest = Path(run_dir), package.manifest
    calibrated = None if calibration is None else load_calibration(Path(calibration), package)
    if calibrated is not None:
        require_epochs(epochs)
        trained = trained or package.rung(calibrated.dense).trained
    begun = open_run(run_dir).info if resume and is_begun(run_dir) else None
    if begun is not None:
        threads = _threads_of(begun, threads, report)
    board_file = None if board is None else Path(board)
    choice = choose_device(
        package,
        device,
        recorded=begun.device if begun else None,
        engine=engine,
        threads=threads,
        board_file=board_file,
        report=report,
        stop=stop,
    )
    forward = choose_encoder_engine(
        package,
        _forward_engine_of(begun, forward_engine, report),
        ForwardOptions(device=choice.device, threads=threads, report=report, stop=stop),
    )
    environment = Environment.detect(
        engine,
        device=choice.device,
        threads=threads,
        forward_engine=forward,
        board_file=board_file,
        open_already=meter.sensor if meter else None,
    )
    trainer = create_engine(
        engine, device=choice.device, threads=threads, forward_engine=forward
    )
    recorded = begun.settings if begun else None
    is_auto = epochs is None and recorded is None
    if is_auto:
        require_bounded(budget)
    decoding = decoding_bytes(
        source, manifest.views, batch_size=manifest.batch_size, threads=None
    )
    code = decoder_code_bytes(source)
    if begun is not None and trained is None and rungs is None:
        trained = _set_of(package, begun)
    is_tight = is_memory_tight(package, rungs, trained, recorded, decoding + code)
    if rungs is None:
        by_costs = budget.is_limited or is_tight or calibrated is not None
        sets = default_candidates(package, trainer, trained, by_costs, report)
    else:
        sets = chosen_candidates(package, trainer, rungs, trained, skip_unsupported, report)
    if calibrated is not None:
        sets = {name: calibrated_rungs(calibrated, sets[name], report) for name in sets}
    candidates = [rung for ladder in sets.values() for rung in ladder]
    is_chosen = calibrated is None and len(candidates) > 1
    is_governed = budget.is_limited or is_tight or is_chosen or profile is not None
    schedule: Sequence[tuple[int, str]] = ((1, candidates[0].id),)
    if calibrated is not None and not is_governed:
        per_epoch = steps_per_epoch(source, manifest.batch_size, images=images_per_epoch)
        steps = per_epoch * require_epochs(epochs)
        schedule = unlimited_schedule(package, calibrated, candidates, steps)
    with Metering(
        environment.sensor, board=environment.board, began_s=began_s, meter=meter
    ) as metering:
        options = TrainingOptions(
            engine=trainer,
            device_reason=choice.reason,
            rungs=None if is_governed else schedule,
            budget=budget,
            objective=objective_of(calibrated),
            calibration_sha256=None if calibrated is None else calibrated.sha256,
            state=state,
            metering=metering,
            # Until the costs are known, a new run has one epoch: its pictures are checked.
            epochs=(recorded.epochs if recorded else 1) if epochs is None else epochs,
            images_per_epoch=images_per_epoch,
            seed=seed,
            resume=resume,
            checkpoint_every_s=checkpoint_every_s,
            decoding_limit_bytes=None
            if is_governed
            else limit_beside_rungs(package, [rung for _, rung in schedule]),
            stop=stop,
        )
        job = prepare(package, source, run_dir, options)
        if finished := job.finished():
            yield finished
            return open_run(run_dir)
        if is_governed:
            check_limits(package, environment, budget, metering.meter)
            governing = _Governing(
                job=job,
                environment=environment,
                metering=metering,
                file=None if profile is None else Path(profile),
                decoding=decoding,
                code=code,
                is_auto=is_auto,
                report=report,
            )
            job = governing.job_within_budget(sets)
        _set_idle_power(metering.meter, job.options.profile, report)
        with open_loop(job) as loop:
            yield from loop.run()
    return open_run(run_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Governing:
    """What a job needs whose rungs are chosen by their costs."""

    job: TrainingJob
    environment: Environment
    metering: Metering
    file: Path | None  # of a cost profile
    decoding: int  # bytes that decoding the pictures takes
    code: int  # bytes of the decoders
    is_auto: bool  # the budget decides the number of epochs
    report: Callable[[str], None]

    def job_within_budget(self, sets: Mapping[str, Sequence[Rung]]) -> TrainingJob:
        """The job on the first of these sets of trained parameters that has a feasible plan.

        Args:
            sets: the rungs that may be trained, by what they train.

        Raises:
            BudgetError: there is none.
            EdgeRuntimeError: any other error of `train_within` before training.
        """

        def job_of_set(trained: str) -> TrainingJob:
            job = self._with_costs(sets[trained])
            if len(sets) > 1 and not self.is_auto:  # whose plan is feasible
                rung_selector(job, self.metering, done=0)  # refuses if no plan is
            return job

        job, refused = first_feasible(list(sets), job_of_set)
        return replace(job, options=replace(job.options, refused_sets=refused))

    def _with_costs(self, candidates: Sequence[Rung]) -> TrainingJob:
        """The job with the costs of its rungs, its epochs, and its limit on decoding."""
        job, environment, report = self.job, self.environment, self.report
        budget, metering = job.options.budget, self.metering
        measure = partial(
            measure_for_run, job.package, environment, job.options, metering, report
        )
        costs = costs_for_run(job.package, environment, self.file, candidates, measure, report)
        costs = fitting_on_card(costs, report)
        limit = limit_beside_costs(job.source, costs, budget, self.decoding, self.code, report)
        costs = replace(costs, rungs=with_decoding(costs.rungs, limit + self.code))
        require_readings(budget, metering.meter)
        if budget.needs_energy:
            environment.check_energy(costs)
        if self.is_auto:
            job = with_auto_epochs(job, costs, metering, report)
        options = replace(job.options, profile=costs, decoding_limit_bytes=limit)
        return replace(job, options=options)


def _set_of(package: Package, begun: RunInfo) -> str | None:
    """What the governor trains in a run that is continued; `None`: it has no governor."""
    if begun.profile is None or begun.settings.package_digest != package.digest:
        return None
    return package.rung(begun.profile.rungs[0].rung).trained


def _forward_engine_of(begun: RunInfo | None, name: str, report: Callable[[str], None]) -> str:
    """The forward engine that is named; of "auto" that of the run, if it is ort."""
    if begun is None or begun.forward_engine is None:
        return name
    recorded = begun.forward_engine.partition(",")[0]
    if recorded in FORWARD_ENGINES and name not in (AUTO, recorded):
        report(f"the run began with forward engine {recorded} and goes on with {name}")
    return ORT if (name, recorded) == (AUTO, ORT) else name


def _threads_of(
    begun: RunInfo, threads: int | None, report: Callable[[str], None]
) -> int | None:
    """The threads with which a run goes on; `None`: one per processor."""
    if begun.threads is None:  # not recorded
        return threads
    if threads is not None and threads != begun.threads:
        report(
            f"the run began with --threads {begun.threads} and goes on with {threads}: from "
            "here on its results differ in their last bits from those of one process"
        )
        return threads
    # Costs are measured for `None` where that is the same number.
    return None if begun.threads == cpu_threads() else begun.threads


def _set_idle_power(
    meter: Meter, profile: CostProfile | None, report: Callable[[str], None]
) -> None:
    """Idle power of the board: from the cost profile, or measured now."""
    if profile is not None:
        meter.idle_w = profile.idle_w
    elif meter.sensor is not None:
        report(f"measuring the board's idle power for {_IDLE_S:g} s")
        meter.measure_idle(_IDLE_S)
