"""Start, resume or find finished: `train`, the entry to training."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_runtime.data import FrameSource, PictureSource
from edge_runtime.device import machine_facts, power_mode
from edge_runtime.engines.base import Engine
from edge_runtime.errors import ConfigError
from edge_runtime.package import Package
from edge_runtime.records import (
    FORMAT,
    Run,
    RunInfo,
    RunWriter,
    create_run,
    differences,
    events,
    find_checkpoint,
    open_run,
    utc_now,
)
from edge_runtime.records.events import Event
from edge_runtime.training.accounts import NOTHING, minus
from edge_runtime.training.course import course_of
from edge_runtime.training.loop import Loop
from edge_runtime.training.metering import Metering
from edge_runtime.training.options import Job, TrainingOptions, plan_job
from edge_runtime.version import __version__

# Distributions that decide what a step computes, next to the engine's runtime.
_DECIDING = ("numpy", "opencv-python", "opencv-python-headless")


def train(
    package: Package,
    source: PictureSource | FrameSource,
    run_dir: Path,
    options: TrainingOptions,
) -> Iterator[Event]:
    """Train a package on pictures; nothing happens before the first event is asked for.

    Every event is in the run folder before it is given out. A finished run that is resumed
    gives its `Finished` event again and nothing else.

    Args:
        package: what to train.
        source: the pictures.
        run_dir: the run folder; made, unless `options.resume` and it is there.
        options: how.

    Raises:
        ConfigError: `run_dir` is in the way, a resumed run has other settings, or `options`
            do not fit the package.
        RecordsError: `run_dir` is damaged, or another process writes to it.
        EngineError: the engine refuses the package, or failed.
        DataError: too few pictures, too many unreadable ones, or a lost camera (the state is
            saved before).
        DivergedError: the loss or the state is not finite.
        StorageError: a disk is full; the checkpoints before are unchanged.
        StoppedError: `options.stop` said so; the state is saved.
    """
    job = plan_job(package, source, options)
    run = _existing_run(run_dir, job)
    if run and (finished := end_of(run)):
        yield finished
        return
    with ExitStack() as stack:
        metering = options.metering or stack.enter_context(Metering(None))
        engine = stack.enter_context(options.engine)
        if run:
            metering.take_over(run)
            writer = stack.enter_context(RunWriter(run))
            stack.callback(metering.stop_writing)  # before the writer is closed
            loop = yield from _go_on(job, engine, writer, metering)
        else:
            course = course_of(job, metering, done=0)  # may refuse
            engine.open(package, package.initial_state())  # may refuse, too: no folder yet
            info = _info(job, engine, metering)
            writer = stack.enter_context(RunWriter(create_run(run_dir, info)))
            stack.callback(metering.stop_writing)
            loop = Loop(job, engine, writer, done=0, course=course, metering=metering)
            yield from loop.begin(_started(job, engine))
        yield from loop.run()


def run_to_resume(
    package: Package,
    source: PictureSource | FrameSource,
    run_dir: Path,
    options: TrainingOptions,
) -> Run | None:
    """The run that `train` would go on with; `None` where it would begin one.

    For those who measure before they train: `options.profile` may still be missing.

    Raises:
        ConfigError: `run_dir` is in the way, a resumed run has other settings, or `options`
            do not fit the package.
        RecordsError: `run_dir` is damaged.
        DataError: there are too few pictures.
    """
    return _existing_run(run_dir, plan_job(package, source, options))


def _existing_run(run_dir: Path, job: Job) -> Run | None:
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return None
    if not job.options.resume:
        raise ConfigError(
            f"{run_dir} exists. Go on with it by --resume, or choose another folder."
        )
    run = open_run(run_dir)
    problems = differences(run.info.settings, job.settings())
    if not problems and run.info.total_steps != job.total_steps:  # a video of another length
        problems = [f"  steps: the run has {run.info.total_steps}, not {job.total_steps}"]
    if problems:
        lines = "\n".join(problems)
        raise ConfigError(
            f"{run_dir} cannot be resumed with other settings:\n{lines}\n"
            "Give those of the run, or train into another folder."
        )
    return run


def end_of(run: Run) -> events.Finished | None:
    """The end of a complete run; one that its budget ended may get a larger one.

    Raises:
        RecordsError: events.jsonl is damaged.
    """
    for logged in run.events():
        event = logged.event
        if isinstance(event, events.Finished) and event.stopped_by is None:
            return event
    return None


def _go_on(
    job: Job, engine: Engine, writer: RunWriter, metering: Metering
) -> Generator[Event, None, Loop]:
    checkpoint, damaged = find_checkpoint(writer.run)
    done = checkpoint.info.step if checkpoint else 0
    saved = checkpoint.info.spent if checkpoint else NOTHING
    metering.count_lost(saved)
    course = course_of(job, metering, done=done)  # may refuse: nothing is changed yet
    engine.open(job.package, checkpoint.state if checkpoint else job.package.initial_state())
    lost_steps = writer.go_back(checkpoint)
    for event in damaged:
        writer.record(event, metering.moment(job.options.clock()))
        yield event
    loop = Loop(job, engine, writer, done=done, course=course, metering=metering)
    spent = metering.earlier
    yield from loop.begin(
        events.Resumed(
            step=done,
            steps=job.total_steps,
            checkpoint=f"checkpoints/{done}" if checkpoint else None,
            lost_steps=lost_steps,
            lost_s=spent.lost_s - saved.lost_s,
            lost_j=minus(spent.lost_j, saved.lost_j),
            engine=engine.name,
            runtime=engine.runtime,
        )
    )
    return loop


def _started(job: Job, engine: Engine) -> events.Started:
    return events.Started(
        steps=job.total_steps,
        steps_per_epoch=job.steps_per_epoch,
        engine=engine.name,
        runtime=engine.runtime,
    )


def _info(job: Job, engine: Engine, metering: Metering) -> RunInfo:
    return RunInfo(
        format=FORMAT,
        created_at=utc_now(),
        settings=job.settings(),
        package_path=str(job.package.path.resolve()),
        source=job.source.name,
        steps_per_epoch=job.steps_per_epoch,
        total_steps=job.total_steps,
        engine=engine.name,
        threads=engine.threads,
        versions=_versions(engine),
        machine=dict(machine_facts()),
        board=metering.board.id if metering.board else None,
        power_mode=power_mode(),
        sensor=metering.sensor_name,
        power_is_estimate=metering.is_estimate,
        calibration=metering.calibration,
        sample_rate_hz=metering.meter.rate_hz,
        idle_w=metering.meter.idle_w,
        budget=job.options.budget,
        profile=job.options.profile,
    )


def _versions(engine: Engine) -> dict[str, str]:
    found = {"edge-train": __version__, "runtime": engine.runtime}
    for name in _DECIDING:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
