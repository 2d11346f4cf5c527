"""`train`, the entry to training: begin a run, or continue one."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_runtime.data import FrameSource, PictureSource, left_out_of
from edge_runtime.device import cpu_threads, machine_facts, power_mode
from edge_runtime.engines import Engine, gpu_text, supported_rungs
from edge_runtime.errors import DataError
from edge_runtime.package import Package
from edge_runtime.records import (
    FORMAT,
    Run,
    RunInfo,
    RunWriter,
    create_run,
    events,
    find_checkpoint,
    utc_now,
)
from edge_runtime.records.events import Event
from edge_runtime.storage import StrPath
from edge_runtime.training.job import TrainingJob, TrainingOptions, prepare
from edge_runtime.training.loop import Loop
from edge_runtime.training.metering import NOTHING, Metering, minus
from edge_runtime.training.selector import rung_selector
from edge_runtime.version import __version__

# Distributions that affect the result of a step, besides the engine's runtime.
_DECIDING = ("numpy", "opencv-python", "opencv-python-headless", "pillow")


def train(
    package: Package,
    source: PictureSource | FrameSource,
    run_dir: StrPath,
    options: TrainingOptions | None = None,
) -> Iterator[Event]:
    """Train a package on pictures; nothing happens before the first event is requested.

    Every event is in the run folder before it is yielded. Resuming a finished run yields its
    `Finished` event again and nothing else.

    Args:
        package: what to train.
        source: the pictures.
        run_dir: the run folder; created, unless `options.resume` is set and it exists.
        options: `None`: the defaults. Without a schedule of rungs, a profile and a budget,
            the rung that keeps the most is trained.

    Raises:
        ConfigError: `run_dir` exists, a resumed run has other settings, or `options` do not
            fit the package.
        RecordsError: `run_dir` is damaged, or another process writes to it.
        EngineError: the engine refuses the package, or failed.
        DataError: too few pictures, too many unreadable ones, or a lost camera (the state is
            saved before).
        DivergedError: the loss or the state is not finite.
        StorageError: a disk is full; earlier checkpoints are unchanged.
        StoppedError: `options.stop` returned `True`; the state is saved.
    """
    options = options or TrainingOptions()
    is_governed = options.profile is not None or options.budget.is_limited
    if options.rungs is None and not is_governed:
        first, *_ = supported_rungs(options.engine, package, package.largest_rungs())
        options = replace(options, rungs=((1, first.id),))
    job = prepare(package, source, Path(run_dir), options)
    if finished := job.finished():
        yield finished
        return
    with open_loop(job) as loop:
        yield from loop.run()


@contextmanager
def open_loop(job: TrainingJob) -> Iterator[Loop]:
    """Open the engine, create or lock the run folder; everything is closed at the end.

    Raises:
        EdgeRuntimeError: see `train`. A run that cannot begin, or whose pictures cannot be
            read before the first step, leaves no folder.
    """
    with ExitStack() as stack:
        metering = job.options.metering or stack.enter_context(Metering(None))
        engine = stack.enter_context(job.options.engine)
        if job.run:
            writer = stack.enter_context(RunWriter(job.run))
            stack.callback(metering.stop_writing)  # before the writer is closed
            loop = _resume(job, engine, writer, metering)
        else:
            selector = rung_selector(job, metering, done=0)  # may refuse
            engine.open(job.package, job.first_state())  # may refuse, too: no folder yet
            run = create_run(job.run_dir, _run_info(job, engine, metering))
            stack.push(partial(_remove_without_steps, run))
            writer = stack.enter_context(RunWriter(run))
            stack.callback(metering.stop_writing)
            loop = Loop(job, engine, writer, begun=None, selector=selector, metering=metering)
            loop.begin(*_beginning(job, engine))
        yield loop


def _resume(job: TrainingJob, engine: Engine, writer: RunWriter, metering: Metering) -> Loop:
    checkpoint, damaged = find_checkpoint(writer.run, expected=job.package.expected_state())
    begun = checkpoint.info if checkpoint else None
    done = begun.step if begun else 0
    saved = begun.spent if begun else NOTHING
    metering.take_over(writer.run, writer.count_spending(checkpoint))
    metering.count_lost(saved)
    selector = rung_selector(job, metering, done=done)  # may refuse: nothing is changed yet
    engine.open(job.package, checkpoint.state if checkpoint else job.first_state())
    lost_steps = writer.go_back(checkpoint)
    loop = Loop(job, engine, writer, begun=begun, selector=selector, metering=metering)
    spent = metering.earlier
    resumed = events.Resumed(
        step=done,
        steps=job.total_steps,
        checkpoint=f"checkpoints/{done}" if checkpoint else None,
        lost_steps=lost_steps,
        lost_s=spent.lost_s - saved.lost_s,
        lost_j=minus(spent.lost_j, saved.lost_j),
        engine=engine.name,
        runtime=engine.runtime,
        device=engine.device,
        gpu=gpu_text(engine.device),
        threads=engine.threads or cpu_threads(),
        forward_engine=engine.forward_engine,
    )
    loop.begin(*damaged, resumed)
    return loop


def _remove_without_steps(run: Run, _: object, error: object, __: object) -> None:
    """No folder is left of a run that had no pictures for its first step.

    The same command works when the pictures are repaired, or the camera is connected.
    """
    if isinstance(error, DataError) and next(run.each_step(), None) is None:
        shutil.rmtree(run.path, ignore_errors=True)


def _beginning(job: TrainingJob, engine: Engine) -> Iterator[Event]:
    yield events.Started(
        steps=job.total_steps,
        steps_per_epoch=job.steps_per_epoch,
        engine=engine.name,
        runtime=engine.runtime,
        device=engine.device,
        gpu=gpu_text(engine.device),
        device_reason=job.options.device_reason,
        forward_engine=engine.forward_engine,
    )
    if files := left_out_of(job.source):
        yield events.FilesLeftOut(step=0, files=files)


def _run_info(job: TrainingJob, engine: Engine, metering: Metering) -> RunInfo:
    return RunInfo(
        format=FORMAT,
        created_at=utc_now(),
        settings=job.settings,
        package_path=str(job.package.path.resolve()),
        source=job.source.name,
        steps_per_epoch=job.steps_per_epoch,
        total_steps=job.total_steps,
        engine=engine.name,
        device=engine.device,
        gpu=gpu_text(engine.device),
        forward_engine=engine.forward_engine,
        threads=engine.threads or cpu_threads(),
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
    versions = {"edge-train": __version__, "runtime": engine.runtime}
    for name in _DECIDING:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
