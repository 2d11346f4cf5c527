"""A training job: options checked against the package, the pictures and the run folder."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from edge_runtime.data import FrameSource, PictureSource, steps_per_epoch
from edge_runtime.engines import Engine, create_engine, require_supported
from edge_runtime.errors import ConfigError
from edge_runtime.facts import Budget, CostProfile, Plan
from edge_runtime.facts.plan import EPOCHS
from edge_runtime.package import Package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.planning import TOKEN_BLOCKS, Objective
from edge_runtime.records import Run, Settings, differences, events, is_begun, open_run
from edge_runtime.state import State, problems_with, state_chunks
from edge_runtime.training.metering import Metering

_UNLIMITED = Budget()


def never() -> bool:
    """A `stop` that never stops the run."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Options of `train`."""

    # Not opened yet; `train` opens and closes it
    engine: Engine = field(default_factory=create_engine)
    device_reason: str | None = None  # why the engine's device was chosen; None: it was named
    epochs: int = EPOCHS
    # (first step, rung id), ascending, from step 1; None: `profile` and `budget` decide
    rungs: Sequence[tuple[int, str]] | None = None
    profile: CostProfile | None = None  # of the rungs that may be trained
    budget: Budget = _UNLIMITED
    objective: Objective = TOKEN_BLOCKS  # of the plans, with a profile
    calibration_sha256: str | None = None  # from which the objective or the rungs come
    # By set of trained parameters that is preferred to the profile's: why it is not trained
    refused_sets: Mapping[str, str] = field(default_factory=dict)
    state: State | None = None  # initial state; None: that of the package
    metering: Metering | None = None  # entered and left by the caller; None: no joules
    images_per_epoch: int | None = None  # None: all of the source
    seed: int = 0
    decoding_limit_bytes: int | None = None  # memory for decoding; None: no limit
    threads: int | None = None  # that decode pictures; None: half the processors, 1 to 4
    resume: bool = False
    checkpoint_every_s: float = 300.0
    stop: Callable[[], bool] = never  # called between two steps
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Options, and everything derived from them."""

    package: Package
    source: PictureSource | FrameSource
    run_dir: Path
    options: TrainingOptions
    settings: Settings
    steps_per_epoch: int
    total_steps: int
    run: Run | None  # to continue; None: a new run

    def epoch_of(self, step: int) -> int:
        """The epoch of a step, from 0, by the epoch length of the options."""
        return (step - 1) // self.steps_per_epoch

    def hyper(self, step: int) -> dict[str, float]:
        """The hyper-parameters of a step."""
        return hyper_parameters(
            self.package.manifest.hyper_parameters,
            step,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
        )

    def with_epochs(self, epochs: int) -> "TrainingJob":
        """This job of a new run, for another number of epochs."""
        return replace(
            self,
            options=replace(self.options, epochs=epochs),
            settings=replace(self.settings, epochs=epochs),
            total_steps=epochs * self.steps_per_epoch,
        )

    def first_state(self) -> State:
        """The state before the first step."""
        state = self.options.state
        return self.package.initial_state() if state is None else state

    def planned(self, plan: Plan, done: int) -> events.Planned:
        """The event of a plan for the steps after the first `done`."""
        return events.Planned(
            step=done,
            budget=self.options.budget,
            plan=plan,
            refused_sets=dict(self.options.refused_sets),
        )

    def finished(self) -> events.Finished | None:
        """The last event of a complete run; a run that its budget ended may continue.

        Raises:
            RecordsError: events.jsonl is damaged.
        """
        logged = self.run.events() if self.run else []
        for event in (entry.event for entry in logged):
            if isinstance(event, events.Finished) and event.stopped_by is None:
                return event
        return None


def prepare(
    package: Package,
    source: PictureSource | FrameSource,
    run_dir: Path,
    options: TrainingOptions,
) -> TrainingJob:
    """Check everything that needs no measurement and no open engine.

    Raises:
        ConfigError: epochs or rungs are invalid, the package has no such rung, the state
            does not fit it, `run_dir` exists, or a resumed run has other settings.
        EngineError: the engine cannot train a rung of the schedule.
        DataError: there are fewer pictures than in one batch.
        RecordsError: `run_dir` is damaged.
    """
    if options.epochs < 1:
        raise ConfigError(f"epochs is {options.epochs}; train 1 or more.")
    _check_rungs(package, options)
    _check_state(package, options.state)
    per_epoch = steps_per_epoch(
        source, package.manifest.batch_size, images=options.images_per_epoch
    )
    settings, total_steps = _settings(package, source, options), per_epoch * options.epochs
    run = _existing_run(run_dir, settings, total_steps, resume=options.resume)
    return TrainingJob(
        package, source, run_dir, options, settings, per_epoch, total_steps, run
    )


def _check_rungs(package: Package, options: TrainingOptions) -> None:
    if options.rungs is None:
        return
    firsts = [first for first, _ in options.rungs]
    if firsts[:1] != [1] or any(a >= b for a, b in pairwise(firsts)):
        raise ConfigError(f"rungs start at steps {firsts}; expected 1, then ascending.")
    for _, rung in options.rungs:
        require_supported(options.engine, package, package.rung(rung))


def _check_state(package: Package, state: State | None) -> None:
    if state is None:
        return
    if problems := problems_with(state, package.expected_state()):
        lines = "\n  ".join(problems)
        raise ConfigError(f"the given state does not fit {package.path}:\n  {lines}")


def _settings(
    package: Package, source: PictureSource | FrameSource, options: TrainingOptions
) -> Settings:
    return Settings(
        package_digest=package.digest,
        pictures_digest=_pictures_digest(source),
        state_sha256=_state_sha256(options.state),
        seed=options.seed,
        batch_size=package.manifest.batch_size,
        epochs=options.epochs,
        images_per_epoch=options.images_per_epoch,
        rungs=None if options.rungs is None else tuple(options.rungs),
        objective=options.objective.name,
        calibration_sha256=options.calibration_sha256,
    )


def _pictures_digest(source: PictureSource | FrameSource) -> str | None:
    if isinstance(source, FrameSource):
        return None
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.key(index).encode() + b"\0")
    return digest.hexdigest()


def _state_sha256(state: State | None) -> str | None:
    if state is None:
        return None
    digest = hashlib.sha256()
    for chunk in state_chunks(state):
        digest.update(chunk)
    return digest.hexdigest()


def _existing_run(
    run_dir: Path, settings: Settings, total_steps: int, *, resume: bool
) -> Run | None:
    if not is_begun(run_dir):
        return None
    if not resume:
        raise ConfigError(
            f"{run_dir} exists. Continue it with --resume, or choose another folder."
        )
    run = open_run(run_dir)
    problems = differences(run.info.settings, settings)
    if not problems and run.info.total_steps != total_steps:  # a video of another length
        problems = [f"  steps: the run has {run.info.total_steps}, not {total_steps}"]
    if problems:
        lines = "\n".join(problems)
        raise ConfigError(
            f"{run_dir} cannot be resumed with other settings:\n{lines}\n"
            "Use the settings of the run, or train into another folder."
        )
    return run
