"""The training loop: from an open engine and a held run folder to the last step.

Clock: monotonic seconds. With a schedule of rungs, what is trained depends on the package,
the pictures and the options alone, and the clock decides only when a checkpoint is saved.
With a budget, clock and meter choose the rungs; the steps say which, so that a schedule made
of them trains the same again.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from edge_runtime.data import ViewBatch, draw_inputs, view_batches
from edge_runtime.device import memory_now, process_tree_rss_bytes
from edge_runtime.engines.base import Engine
from edge_runtime.errors import DataError, DivergedError, EngineError, StoppedError
from edge_runtime.package.manifest import Rung
from edge_runtime.records import RunWriter, events
from edge_runtime.records.events import Event
from edge_runtime.state import State
from edge_runtime.training.course import Choice, Course
from edge_runtime.training.metering import Metering
from edge_runtime.training.options import Job
from edge_runtime.training.schedule import hyper_parameters

_MEMORY_EVERY_S = 1.0  # reading it walks through all processes of the machine
_PAUSE_S = 0.2  # at most, between two looks at `stop`


class Loop:
    """One process's part of a run. Every event is in the run folder before it is given out."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        writer: RunWriter,
        *,
        done: int,
        course: Course,
        metering: Metering,
    ) -> None:
        self._job, self._engine, self._writer = job, engine, writer
        self._course, self._metering = course, metering
        self._clock = job.options.clock
        self._first = self._done = self._saved = done  # steps
        epoch, last = job.epoch_of(done + 1), None
        self._losses: list[float] = []  # of the present epoch
        for last in writer.run.each_step():
            if last.epoch == epoch:
                self._losses.append(last.loss)
        self._last_loss = last.loss if last else None
        self._rung: str | None = None
        self._stopped_by: str | None = None
        self._paused_s = 0.0  # since the last step
        self._told: set[str] = set()  # pictures reported as skipped
        self._started_s = self._saved_s = self._clock()
        self._memory_s = -math.inf

    def begin(self, event: events.Started | events.Resumed) -> Iterator[Event]:
        """Say what begins, and what is planned.

        Raises:
            StorageError: it cannot be written.
        """
        self._metering.write_to(self._writer)
        yield self._log(event)
        if planned := self._course.planned(self._done):
            yield self._log(planned)

    def run(self) -> Iterator[Event]:
        """Train all steps that are left.

        Raises:
            StoppedError: `stop` said so; the state is saved.
            DataError: the pictures ended; the state is saved.
            DivergedError: a loss or the state is not finite; the last good state is kept.
            EngineError: the runtime failed; the state is saved if it is whole.
            StorageError: a disk is full; the checkpoints before are unchanged.
        """
        job, options = self._job, self._job.options
        with view_batches(
            job.source,
            job.package.manifest.views,
            batch_size=job.package.manifest.batch_size,
            seed=options.seed,
            first_step=self._done + 1,
            last_step=job.total_steps,
            threads=options.threads,
        ) as batches:
            while self._done < job.total_steps:
                if options.stop():
                    yield from self._interrupt()
                yield from self._log_all(self._metering.news(self._done))
                choice = self._course.choose(self._done, self._clock())
                if choice.stopped_by:
                    self._stopped_by = choice.stopped_by
                    break
                if choice.pause_s:
                    yield from self._pause(choice)
                    continue
                yield from self._take_rung(choice)
                yield from self._next_step(batches, choice.rung)
                if self._clock() - self._saved_s >= options.checkpoint_every_s:
                    yield from self._save()
        yield from self._end()
        yield self._log(self._finished())

    def _take_rung(self, choice: Choice) -> Iterator[Event]:
        if choice.rung != self._rung:
            self._rung = choice.rung
            event = events.RungChanged(
                step=self._done + 1,
                rung=choice.rung,
                keep_ratio=self._job.package.rung(choice.rung).keep_ratio,
                reason=choice.reason,
            )
            yield self._log(event)
        yield from self._log_all(self._metering.change_window(choice.rung, self._done))

    def _pause(self, choice: Choice) -> Iterator[Event]:
        """Wait as the governor says, but hear of `stop` soon."""
        if not self._paused_s:  # told once, however often the governor looks again
            yield self._log(
                events.Paused(
                    step=self._done, pause_s=choice.pause_s, reason=choice.reason or ""
                )
            )
        begin_s = self._clock()
        self._job.options.sleep(min(choice.pause_s, _PAUSE_S))
        self._paused_s += self._clock() - begin_s

    def _next_step(self, batches: Iterator[ViewBatch], rung_id: str) -> Iterator[Event]:
        begin_s = self._clock()
        try:
            batch = next(batches)
        except DataError as error:
            yield from self._source_lost(str(error))
            raise
        rung = self._job.package.rung(rung_id)
        yield from self._tell_of(batch)
        yield from self._train(batch, rung, begin_s)
        self._course.trained(rung_id, begin_s, self._clock())
        if self._done % self._job.steps_per_epoch == 0:
            mean = math.fsum(self._losses) / len(self._losses)
            self._losses.clear()
            yield self._log(
                events.EpochFinished(
                    step=self._done, epoch=self._job.epoch_of(self._done), mean_loss=mean
                )
            )

    def _tell_of(self, batch: ViewBatch) -> Iterator[Event]:
        for picture in batch.skipped:
            if picture.key not in self._told:
                self._told.add(picture.key)
                yield self._log(
                    events.PictureSkipped(
                        step=batch.step, picture=picture.key, reason=picture.reason
                    )
                )

    def _train(self, batch: ViewBatch, rung: Rung, begin_s: float) -> Iterator[Event]:
        hyper = self._hyper(batch.step)
        draws = draw_inputs(
            rung.draws,
            seed=self._job.options.seed,
            epoch=batch.epoch,
            pictures=batch.pictures,
        )
        ready_s = self._clock()
        try:
            metrics = self._engine.step(rung.id, {**batch.images, **draws}, hyper)
        except EngineError:
            with suppress(EngineError):  # it may have lost the state, too
                yield from self._end()
            raise
        end_s = self._clock()
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            yield from self._diverge(batch.step, f"the loss of step {batch.step} is {loss}")
        self._done = batch.step
        self._losses.append(loss)
        self._last_loss = loss
        moment = self._metering.moment(end_s)
        measured = events.Measured(
            process=moment.process,
            t_s=moment.t_s,
            step_s=end_s - ready_s,
            wait_s=ready_s - begin_s,
            pause_s=self._paused_s,
            rss_bytes=self._memory_bytes(end_s),
        )
        self._paused_s = 0.0
        yield self._log(
            events.StepRecord(
                step=batch.step,
                epoch=self._job.epoch_of(batch.step),
                rung=rung.id,
                keep_ratio=rung.keep_ratio,
                loss=loss,
                lr=hyper["lr"],
                images=len(batch.pictures),
                measured=measured,
            )
        )

    def _hyper(self, step: int) -> dict[str, float]:
        job = self._job
        return hyper_parameters(
            job.package.manifest.schedule,
            step,
            steps_per_epoch=job.steps_per_epoch,
            total_steps=job.total_steps,
        )

    def _memory_bytes(self, now_s: float) -> int | None:
        if now_s - self._memory_s < _MEMORY_EVERY_S:
            return None
        self._memory_s = now_s
        return process_tree_rss_bytes()

    def _save(self) -> Iterator[Event]:
        if self._saved == self._done:
            return
        begin_s = self._clock()
        state = self._engine.lend()
        # A gradient can overflow although the loss before it was a number.
        if bad := not_finite(state):
            reason = f"{bad} holds NaN or infinity after step {self._done}"
            yield from self._diverge(self._done + 1, reason)
        size_bytes = self._writer.save(
            state,
            step=self._done,
            epoch=self._job.epoch_of(self._done),
            spent=self._metering.spent(begin_s),
        )
        self._saved, self._saved_s = self._done, self._clock()
        yield self._log(
            events.CheckpointSaved(
                step=self._done,
                checkpoint=f"checkpoints/{self._done}",
                size_bytes=size_bytes,
                save_s=self._saved_s - begin_s,
            )
        )

    def _end(self) -> Iterator[Event]:
        """No more steps: the last window is over, the state is saved."""
        yield from self._log_all(self._metering.change_window(None, self._done))
        yield from self._save()

    def _interrupt(self) -> Iterator[Event]:
        yield from self._end()
        yield self._log(events.Interrupted(step=self._done, checkpoint=self._checkpoint()))
        raise StoppedError(
            f"stopped after step {self._done} of {self._job.total_steps}; "
            "go on by the same command with --resume."
        )

    def _source_lost(self, reason: str) -> Iterator[Event]:
        yield from self._end()
        yield self._log(
            events.SourceLost(step=self._done, checkpoint=self._checkpoint(), reason=reason)
        )

    def _diverge(self, step: int, reason: str) -> Iterator[Event]:
        yield from self._log_all(self._metering.change_window(None, self._done))
        good = self._writer.last_good(step)
        yield self._log(events.Diverged(step=step, reason=reason, checkpoint=good))
        kept = "No checkpoint was saved before that"
        if good:
            kept = f"The last good checkpoint is {self._writer.run.path / good}"
        raise DivergedError(
            f"training diverged: {reason}. {kept}. Export the package again with a lower "
            "learning rate or a longer warm-up."
        )

    def _finished(self) -> Event:
        elapsed_s = self._clock() - self._started_s
        batch_size = self._job.package.manifest.batch_size
        images = (self._done - self._first) * batch_size
        return events.Finished(
            steps=self._done,
            epochs=self._done / self._job.steps_per_epoch,
            images=self._done * batch_size,
            loss=self._last_loss,
            checkpoint=self._checkpoint(),
            elapsed_s=elapsed_s,
            images_per_s=images / elapsed_s if images else None,
            peak_bytes=memory_now().peak_bytes,
            stopped_by=self._stopped_by,
            spent=self._metering.spent(self._clock()),
        )

    def _checkpoint(self) -> str | None:
        return f"checkpoints/{self._saved}" if self._saved else None

    def _log_all(self, found: Iterable[Event]) -> Iterator[Event]:
        for event in found:
            yield self._log(event)

    def _log(self, event: Event) -> Event:
        self._writer.record(event, self._metering.moment(self._clock()))
        return event


def not_finite(state: State) -> str | None:
    """The name of a tensor that holds NaN or infinity, if there is one."""
    for name, tensor in state.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            return name
    return None
