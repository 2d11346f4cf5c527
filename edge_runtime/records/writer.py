"""Writes a run folder: one training process at a time; events also from others."""

import json
import shutil
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from edge_runtime.facts import Spent
from edge_runtime.records.checkpoints import (
    Checkpoint,
    checkpoint_paths,
    remove_checkpoint,
    save_checkpoint,
    set_aside,
)
from edge_runtime.records.events import Event, Moment, StepRecord, event_table
from edge_runtime.records.jsonl import LineFile
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.run import (
    CHECKPOINTS,
    EVENTS_FILE,
    POWER_FILE,
    RUN_FILE,
    STEPS_FILE,
    Run,
)
from edge_runtime.records.settings import RunInfo
from edge_runtime.records.spending import Spending
from edge_runtime.records.totals import Losses, Totals
from edge_runtime.schema import unstructure
from edge_runtime.state import State
from edge_runtime.storage import new_folder, storage_errors


def utc_now() -> str:
    """The wall clock, for people; wrong on boards without a battery-backed clock."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def create_run(path: Path, info: RunInfo) -> Run:
    """Create a run folder, complete or not at all.

    Raises:
        StorageError: it cannot be written, or the path is in use.
    """
    with new_folder(path) as building, storage_errors("write", path):
        (building / RUN_FILE).write_text(json.dumps(unstructure(info), indent=2) + "\n")
        (building / STEPS_FILE).touch()
        (building / EVENTS_FILE).touch()
        (building / POWER_FILE).touch()
        (building / CHECKPOINTS).mkdir()
    return Run(path, info)


def log_event(path: Path, event: Event) -> None:
    """Add one event to a run folder, also while another process trains.

    Raises:
        StorageError: it cannot be written.
    """
    file = LineFile(path / EVENTS_FILE)
    try:
        _log(file, event, None)
    finally:
        file.close()


def _log(file: LineFile, event: Event, moment: Moment | None) -> None:
    stamp = {"process": None, "t_s": None} if moment is None else unstructure(moment)
    with file.locked():
        file.append({"at": utc_now(), **stamp, **event_table(event)})


class RunWriter:
    """Locks a run folder and writes to it; a context manager that releases it at the end."""

    def __init__(self, run: Run) -> None:
        """Lock the folder for this process and remove what a killed one left incomplete.

        Raises:
            RecordsError: another process writes to it.
            StorageError: it cannot be written.
        """
        self.run = run
        self._checkpoints = run.path / CHECKPOINTS
        self._spending = Spending()
        self._sampling = threading.Lock()  # of the file of samples, and their sum
        with ExitStack() as opened:
            self._steps, self._events, self._power = (
                opened.enter_context(closing(LineFile(run.path / name)))
                for name in (STEPS_FILE, EVENTS_FILE, POWER_FILE)
            )
            self._steps.hold()
            with storage_errors("clear", self._checkpoints):
                for half_done in self._checkpoints.glob(".*"):
                    shutil.rmtree(half_done)
            self._files = opened.pop_all()  # no error: kept until `close`

    def record(self, event: Event, moment: Moment) -> None:
        """Write one step or event; a step already contains its time.

        Raises:
            StorageError: it cannot be written.
        """
        if isinstance(event, StepRecord):
            self._steps.append(unstructure(event))
        else:
            _log(self._events, event, moment)

    def sample(self, record: PowerRecord) -> None:
        """Write one sample; may be called from another thread than `record`.

        Raises:
            StorageError: it cannot be written.
        """
        with self._sampling:
            self._power.append(unstructure(record))
            self._spending.add(record.process, record.t_s, record.energy_j)

    def count_spending(self, checkpoint: Checkpoint | None) -> Spending:
        """What all processes of the run spent until now.

        Args:
            checkpoint: from which the run continues; the samples before it are not read.

        Raises:
            RecordsError: power.jsonl is missing or damaged.
        """
        self._spending = self.run.spending(checkpoint.info.totals if checkpoint else Totals())
        return replace(self._spending)

    def save(
        self, state: State, *, step: int, epoch: int, spent: Spent, losses: Losses
    ) -> int:
        """Save the state after `step` with all records up to it. Returns the state's bytes.

        Raises:
            StorageError: it cannot be written; the checkpoints before it are unchanged.
        """
        with self._sampling:
            power_bytes, spending = self._power.size_bytes(), replace(self._spending)
        self._steps.sync()  # the checkpoint needs these lines
        self._events.sync()
        self._power.sync()
        return save_checkpoint(
            self._checkpoints,
            state,
            step=step,
            epoch=epoch,
            spent=spent,
            totals=Totals(power_bytes=power_bytes, spending=spending, losses=losses),
            package_digest=self.run.info.settings.package_digest,
            steps_bytes=self._steps.size_bytes(),
        )

    def go_back(self, checkpoint: Checkpoint | None) -> int:
        """Remove all steps after a checkpoint (`None`: all). Returns the number of lost steps.

        Raises:
            StorageError: it cannot be read or written.
        """
        step = checkpoint.info.step if checkpoint else 0
        steps_bytes = checkpoint.info.steps_bytes if checkpoint else 0
        for path in checkpoint_paths(self._checkpoints):
            if int(path.name) > step:
                remove_checkpoint(path)
        lost_steps = self._steps.count_after(steps_bytes)
        self._steps.truncate(steps_bytes)
        return lost_steps

    def last_good(self, before_step: int) -> str | None:
        """The newest checkpoint with a finite loss after it; that of `before_step` is not.

        A checkpoint right before that step is set aside: its state gave NaN or infinity.

        Raises:
            StorageError: it cannot be written.
        """
        for path in checkpoint_paths(self._checkpoints):
            if int(path.name) < before_step - 1:
                return f"{CHECKPOINTS}/{path.name}"
            set_aside(path)
        return None

    def close(self) -> None:
        """Release the folder. May be called twice."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
