"""The training loop: from an open engine and a locked run folder to the last step.

Clock: monotonic seconds. With a schedule of rungs, the result depends only on the package, the
pictures and the options, and the clock decides only when a checkpoint is saved. With a budget,
the rungs depend on clock and meter; the steps record them, so that a schedule made from them
gives the same result.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NoReturn

from edge_runtime.data import Lookahead, ViewBatch, draw_inputs, view_batches
from edge_runtime.device import PeakMemory
from edge_runtime.engines.base import Batch, Engine, Hyper, StepResult
from edge_runtime.errors import (
    DataError,
    EdgeRuntimeError,
    EncoderMemoryError,
    EngineError,
    NoMemoryError,
)
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import APPLIED, LOSS
from edge_runtime.planning import Decision
from edge_runtime.records import RunWriter, events
from edge_runtime.records.checkpoints import CheckpointInfo
from edge_runtime.records.events import Event
from edge_runtime.records.totals import Losses
from edge_runtime.state import not_finite
from edge_runtime.training import endings
from edge_runtime.training.job import TrainingJob
from edge_runtime.training.metering import Metering
from edge_runtime.training.selector import RungSelector, UnknownLimit

# Updates in a row. Each halves the scale of a half-precision loss, and after 16 the initial
# scale is 1: gradients that are not finite then would not be so in float32 either. Twice that,
# since a scale may have grown: by 16 doublings in 32,000 steps without a skipped one.
MOST_SKIPPED = 32
_PAUSE_S = 0.2  # at most, between two calls of `stop`


class Loop:
    """One process's part of a run. Every event is in the run folder before it is yielded."""

    def __init__(
        self,
        job: TrainingJob,
        engine: Engine,
        writer: RunWriter,
        *,
        begun: CheckpointInfo | None,
        selector: RungSelector,
        metering: Metering,
    ) -> None:
        self._job, self._engine, self._writer = job, engine, writer
        self._selector, self._metering = selector, metering
        self._clock = job.options.clock
        self._first = self._done = self._saved = begun.step if begun else 0  # steps
        self._losses = replace(begun.totals.losses) if begun else Losses()
        self._rung: str | None = None
        self._stop: Decision | None = None  # by a limit
        self._paused_s = 0.0  # since the last step
        self._skipped: set[str] = set()  # pictures reported as such
        self._retried: ViewBatch | None = None  # of a step for which there was no memory
        teacher = job.package.manifest.teacher_first
        self._computes_ahead = teacher is not None and bool(teacher.delay)
        self._logged: list[Event] = []  # and not yielded yet
        self._started_s = self._saved_s = self._clock()
        self._peak = PeakMemory()

    def begin(self, *first: Event) -> None:
        """Log how the run begins or continues, and the plan.

        Raises:
            StorageError: it cannot be written.
        """
        self._metering.write_to(self._writer)
        for event in first:
            self._log(event)
        if plan := self._selector.plan:
            self._log(self._job.planned(plan, self._done))

    def run(self) -> Iterator[Event]:
        """Train the remaining steps.

        Raises:
            StoppedError: `stop` returned `True`; the state is saved.
            SensorError: a limit cannot be judged any more; the state is saved.
            DataError: the pictures ended; the state is saved.
            DivergedError: a loss, the state or many steps' gradients are not finite.
            EngineError: the runtime failed; the state is saved if it is valid.
            NoMemoryError: no smaller rung may be trained instead; as with `EngineError`.
            StorageError: a disk is full; earlier checkpoints are unchanged.
        """
        job, options = self._job, self._job.options
        try:
            with view_batches(
                job.source,
                job.package.manifest.views,
                batch_size=job.package.manifest.batch_size,
                seed=options.seed,
                first_step=self._done + 1,
                last_step=job.total_steps,
                threads=options.threads,
                decoding_limit_bytes=options.decoding_limit_bytes,
            ) as made:
                batches = Lookahead(made)
                while self._done < job.total_steps and not self._stop:
                    decision = self._decide()
                    yield from self._take_logged()
                    if decision.stopped_by:
                        self._stop = decision
                    elif decision.pause_s:
                        self._wait(decision.pause_s)
                    else:
                        self._train_step(batches, job.package.rung(decision.rung))
                    yield from self._take_logged()
            self._end()
            self._engine.close()  # before the totals: they count until the exit
            self._log(self._finished())
        except EdgeRuntimeError:
            yield from self._take_logged()
            raise
        yield from self._take_logged()

    def _take_logged(self) -> list[Event]:
        taken, self._logged = self._logged, []
        return taken

    def _log(self, event: Event) -> None:
        self._writer.record(event, self._metering.moment(self._clock()))
        self._logged.append(event)

    def _decide(self) -> Decision:
        """The next action: a step, a pause, or the end by a limit."""
        if self._job.options.stop():
            self._interrupt()
        for event in self._metering.sensor_events(self._done):
            self._log(event)
        if unknown := self._selector.unknown_limit():
            self._end_unjudged(unknown)
        decision = self._selector.decide(self._done, self._clock())
        if decision.stopped_by:
            return decision
        if decision.pause_s:
            if not self._paused_s:  # logged once, however often the governor checks again
                pause_s, reason = decision.pause_s, decision.reason
                self._log(events.Paused(step=self._done, pause_s=pause_s, reason=reason))
            return decision
        if decision.rung != self._rung:
            self._rung = decision.rung
            self._log(
                events.RungChanged(
                    step=self._done + 1,
                    rung=decision.rung,
                    keep_ratio=self._job.package.rung(decision.rung).keep_ratio,
                    reason=decision.reason or None,
                )
            )
        self._change_window(decision.rung)
        return decision

    def _wait(self, pause_s: float) -> None:
        """Wait for this time, but check `stop` in between."""
        begin_s = self._clock()
        self._job.options.sleep(min(pause_s, _PAUSE_S))
        self._paused_s += self._clock() - begin_s

    def _train_step(self, batches: Lookahead, rung: Rung) -> None:
        begin_s = self._clock()
        batch = self._retried or self._next_batch(batches)
        self._retried = None
        hyper = self._job.hyper(batch.step)
        draws = draw_inputs(
            rung.draws,
            seed=self._job.options.seed,
            epoch=batch.epoch,
            pictures=batch.pictures,
            crops=batch.crops,
        )
        following = self._following(batches)
        ready_s = self._clock()
        with self._engine_errors():
            try:
                result = self._engine.step(
                    rung.id, {**batch.images, **draws}, hyper, following=following
                )
            except NoMemoryError as error:
                if not self._may_repeat(rung, error):
                    raise
                self._retried = batch
                return
        self._run_periodic(batch.step, hyper)
        measured = self._measured(begin_s, ready_s, self._clock())
        self._record_step(batch, rung, hyper["lr"], result, measured)
        if not result.loaded:
            self._selector.trained(rung.id, begin_s, self._clock())
        self._finish_epoch()
        if self._clock() - self._saved_s >= self._job.options.checkpoint_every_s:
            with self._engine_errors(is_valid=False):
                self._save()

    def _record_step(
        self,
        batch: ViewBatch,
        rung: Rung,
        lr: float,
        result: StepResult,
        measured: events.Measured,
    ) -> None:
        metrics = {name: _finite(value) for name, value in result.metrics.items()}
        loss = metrics.pop(LOSS)
        metrics.pop(APPLIED, None)  # it is in the result
        self._losses.add(loss, applied=result.applied)
        if loss is None and result.applied:
            reason = f"the loss of step {batch.step} is {float(result.metrics[LOSS])}"
            self._diverge(batch.step, reason)
        self._done = batch.step
        record = events.StepRecord(
            step=batch.step,
            epoch=self._job.epoch_of(batch.step),
            rung=rung.id,
            keep_ratio=rung.keep_ratio,
            loss=loss,
            metrics=metrics,
            applied=result.applied,
            lr=lr,
            images=len(batch.pictures),
            measured=measured,
        )
        self._log(record)
        if self._losses.skipped_in_a_row >= MOST_SKIPPED:
            reason = f"the gradients of {MOST_SKIPPED} steps in a row were not finite"
            self._diverge(batch.step - MOST_SKIPPED + 1, reason)

    def _may_repeat(self, rung: Rung, error: NoMemoryError) -> bool:
        """Whether a step for which there was no memory may fit in another way."""
        if not isinstance(error, EncoderMemoryError):
            return self._selector.exclude(rung.id, str(error))
        # Every rung has the same encoder; features that come later have the same bytes
        was_ahead, self._computes_ahead = self._computes_ahead, False
        return was_ahead

    def _following(self, batches: Lookahead) -> Batch | None:
        """The images of the next step, if there is one and a delayed teacher can use them."""
        batch = batches.following() if self._computes_ahead else None
        return None if batch is None else batch.images

    def _next_batch(self, batches: Lookahead) -> ViewBatch:
        try:
            batch = next(batches)
        except DataError as error:
            self._end()
            self._log(
                events.SourceLost(
                    step=self._done, checkpoint=self._checkpoint(), reason=str(error)
                )
            )
            raise
        for picture in batch.skipped:
            if picture.key not in self._skipped:
                self._skipped.add(picture.key)
                self._log(
                    events.PictureSkipped(
                        step=batch.step, picture=picture.key, reason=picture.reason
                    )
                )
        return batch

    def _run_periodic(self, step: int, hyper: Hyper) -> None:
        for periodic in self._job.package.manifest.periodic:
            if step % periodic.every_steps == 0:
                with self._engine_errors(is_valid=False):
                    self._engine.run_periodic(periodic.graph, hyper)

    def _measured(self, begin_s: float, ready_s: float, end_s: float) -> events.Measured:
        moment, pause_s = self._metering.moment(end_s), self._paused_s
        self._paused_s = 0.0
        memory = self._peak.reading(end_s)
        return events.Measured(
            process=moment.process,
            t_s=moment.t_s,
            step_s=end_s - ready_s,
            wait_s=ready_s - begin_s,
            pause_s=pause_s,
            rss_bytes=None if memory is None else memory.rss_bytes,
        )

    def _finish_epoch(self) -> None:
        if self._done % self._job.steps_per_epoch:
            return
        epoch = self._job.epoch_of(self._done)
        if not self._losses.count:
            self._diverge(self._done, f"no step of epoch {epoch + 1} had a finite loss")
        mean = self._losses.sum / self._losses.count
        self._losses.begin_epoch()
        self._log(events.EpochFinished(step=self._done, epoch=epoch, mean_loss=mean))

    def _change_window(self, rung: str | None) -> None:
        if ended := self._metering.change_window(rung, self._done):
            self._log(ended)

    def _save(self) -> None:
        if self._saved == self._done:
            return
        begin_s = self._clock()
        state = self._engine.state_view()
        # A gradient can overflow although the loss was finite.
        if bad := not_finite(state):
            reason = f"{bad} contains NaN or infinity after step {self._done}"
            self._diverge(self._done + 1, reason)
        size_bytes = self._writer.save(
            state,
            step=self._done,
            epoch=self._job.epoch_of(self._done),
            spent=self._metering.spent(begin_s),
            losses=self._losses,
        )
        self._saved, self._saved_s = self._done, self._clock()
        self._log(
            events.CheckpointSaved(
                step=self._done,
                checkpoint=f"checkpoints/{self._done}",
                size_bytes=size_bytes,
                save_s=self._saved_s - begin_s,
            )
        )

    def _checkpoint(self) -> str | None:
        return f"checkpoints/{self._saved}" if self._saved else None

    def _end(self) -> None:
        """No more steps: end the last window, save the state."""
        self._change_window(None)
        with self._engine_errors(is_valid=False):
            self._save()

    def _interrupt(self) -> NoReturn:
        self._end()
        self._raise(endings.interrupted(self._done, self._job.total_steps, self._checkpoint()))

    def _end_unjudged(self, unknown: UnknownLimit) -> NoReturn:
        self._end()
        total = self._job.total_steps
        self._raise(endings.unjudged(unknown, self._done, total, self._checkpoint()))

    @contextmanager
    def _engine_errors(self, *, is_valid: bool = True) -> Iterator[None]:
        """End the run if the engine fails; a state that is that of the last step is saved."""
        try:
            yield
        except (EngineError, NoMemoryError) as error:
            device, run = self._engine.device, self._writer.run.path
            self._change_window(None)
            if is_valid and not endings.is_state_lost(error, device):
                with suppress(EngineError, NoMemoryError):  # it may be lost, too
                    self._save()
            self._raise(endings.failed(error, device, self._done, run, self._checkpoint()))

    def _diverge(self, step: int, reason: str) -> NoReturn:
        self._change_window(None)
        manifest, good = self._job.package.manifest, self._writer.last_good(step)
        self._raise(
            endings.diverged(step, reason, self._writer.run.path, good, manifest.precision)
        )

    def _raise(self, ending: endings.Ending) -> NoReturn:
        event, error = ending
        self._log(event)
        raise error

    def _finished(self) -> Event:
        elapsed_s = self._clock() - self._started_s
        batch_size, stop = self._job.package.manifest.batch_size, self._stop
        images = (self._done - self._first) * batch_size
        return events.Finished(
            steps=self._done,
            epochs=self._done / self._job.steps_per_epoch,
            images=self._done * batch_size,
            loss=self._losses.last,
            skipped=self._losses.skipped,
            checkpoint=self._checkpoint(),
            elapsed_s=elapsed_s,
            images_per_s=images / elapsed_s if images else None,
            peak_bytes=self._peak.peak_bytes(),
            card_bytes=self._peak.card_bytes,
            memory_limit_bytes=self._job.options.budget.memory_bytes,
            stopped_by=stop.stopped_by if stop else None,
            reason=stop.reason if stop else None,
            spent=self._metering.spent(self._clock()),
        )


def _finite(value: float) -> float | None:
    """JSON has no NaN and infinity."""
    return float(value) if math.isfinite(value) else None
