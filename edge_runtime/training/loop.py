"""The training loop: from an open engine and a held run folder to the last step.

Clock: monotonic seconds. What is trained depends on the package, the pictures and the
options alone; the clock decides only when a checkpoint is saved.
"""

import math
from collections.abc import Iterator

import numpy as np

from edge_runtime.data import ViewBatch, draw_inputs, view_batches
from edge_runtime.device import process_tree_rss_bytes
from edge_runtime.engines.base import Engine
from edge_runtime.errors import DataError, DivergedError, Interrupted
from edge_runtime.package.manifest import Rung
from edge_runtime.records import RunWriter, events
from edge_runtime.records.events import Event
from edge_runtime.state import State
from edge_runtime.training.options import Job
from edge_runtime.training.schedule import hyper_parameters

_MEMORY_EVERY_S = 1.0  # reading it walks through all processes of the machine


class Loop:
    """One process's part of a run. Every event is in the run folder before it is given out."""

    def __init__(self, job: Job, engine: Engine, writer: RunWriter, *, done: int) -> None:
        self._job, self._engine, self._writer = job, engine, writer
        self._clock = job.options.clock
        self._first = self._done = self._saved = done  # steps
        records = writer.run.steps()
        epoch = job.epoch_of(done + 1)
        self._losses = [record.loss for record in records if record.epoch == epoch]
        self._last_loss = records[-1].loss if records else math.nan
        self._told: set[str] = set()  # pictures reported as skipped
        self._started_s = self._saved_s = self._clock()
        self._memory_s = -math.inf

    def run(self) -> Iterator[Event]:
        """Train all steps that are left.

        Raises:
            Interrupted: `stop` said so; the state is saved.
            DataError: the pictures ended; the state is saved.
            DivergedError: a loss or the state is not finite; the last good state is kept.
            EngineError: the runtime failed.
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
                yield from self._next_step(batches)
                if self._clock() - self._saved_s >= options.checkpoint_every_s:
                    yield from self._save()
        yield from self._save()
        yield self._log(self._finished())

    def _next_step(self, batches: Iterator[ViewBatch]) -> Iterator[Event]:
        begin_s = self._clock()
        try:
            batch = next(batches)
        except DataError as error:
            yield from self._source_lost(str(error))
            raise
        rung = self._job.rung_at(batch.step)
        yield from self._tell_of(batch, rung)
        yield from self._train(batch, rung, begin_s)
        if self._done % self._job.steps_per_epoch == 0:
            mean = math.fsum(self._losses) / len(self._losses)
            self._losses.clear()
            yield self._log(
                events.EpochFinished(
                    step=self._done, epoch=self._job.epoch_of(self._done), mean_loss=mean
                )
            )

    def _tell_of(self, batch: ViewBatch, rung: Rung) -> Iterator[Event]:
        for picture in batch.skipped:
            if picture.key not in self._told:
                self._told.add(picture.key)
                yield self._log(
                    events.PictureSkipped(
                        step=batch.step, picture=picture.key, reason=picture.reason
                    )
                )
        if batch.step > 1 and rung != self._job.rung_at(batch.step - 1):
            yield self._log(
                events.RungChanged(step=batch.step, rung=rung.id, keep_ratio=rung.keep_ratio)
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
        metrics = self._engine.step(rung.id, {**batch.images, **draws}, hyper)
        end_s = self._clock()
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            yield from self._diverge(batch.step, f"the loss of step {batch.step} is {loss}")
        self._done = batch.step
        self._losses.append(loss)
        self._last_loss = loss
        measured = events.Measured(
            step_s=end_s - ready_s,
            wait_s=ready_s - begin_s,
            rss_bytes=self._memory_bytes(end_s),
        )
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
        state = self._engine.snapshot()
        # A gradient can overflow although the loss before it was a number.
        if bad := not_finite(state):
            reason = f"{bad} holds NaN or infinity after step {self._done}"
            yield from self._diverge(self._done + 1, reason)
        size_bytes = self._writer.save(
            state, step=self._done, epoch=self._job.epoch_of(self._done)
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

    def _interrupt(self) -> Iterator[Event]:
        yield from self._save()
        yield self._log(events.Interrupted(step=self._done, checkpoint=self._checkpoint()))
        raise Interrupted(
            f"stopped after step {self._done} of {self._job.total_steps}; "
            "go on by the same command with --resume."
        )

    def _source_lost(self, reason: str) -> Iterator[Event]:
        yield from self._save()
        yield self._log(
            events.SourceLost(step=self._done, checkpoint=self._checkpoint(), reason=reason)
        )

    def _diverge(self, step: int, reason: str) -> Iterator[Event]:
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
            images=self._done * batch_size,
            loss=self._last_loss,
            checkpoint=f"checkpoints/{self._done}",
            elapsed_s=elapsed_s,
            images_per_s=images / elapsed_s if images else None,
        )

    def _checkpoint(self) -> str | None:
        return f"checkpoints/{self._saved}" if self._saved else None

    def _log(self, event: Event) -> Event:
        self._writer.record(event)
        return event


def not_finite(state: State) -> str | None:
    """The name of a tensor that holds NaN or infinity, if there is one."""
    for name, tensor in state.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            return name
    return None
