"""The run folder, format 2, for readers, also during the run.

```
run.json         settings and environment of the run: `RunInfo`
steps.jsonl      one `StepRecord` per line; truncated when returning to a checkpoint
events.jsonl     one event per line with `at` (UTC, ISO 8601) and its `Moment`; append-only
power.jsonl      one `PowerRecord` per line; append-only
checkpoints/     see `edge_runtime.records.checkpoints`
```
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.errors import RecordsError
from edge_runtime.reading import read_json
from edge_runtime.records.checkpoints import (
    Checkpoint,
    checkpoint_paths,
    load_checkpoint,
    read_info,
)
from edge_runtime.records.events import (
    CheckpointDamaged,
    Event,
    Finished,
    Moment,
    RungChanged,
    StepRecord,
    WindowEnded,
    event_of,
)
from edge_runtime.records.jsonl import LineReader
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.settings import FORMAT, RunInfo
from edge_runtime.records.spending import Spending, add_table
from edge_runtime.records.totals import Totals
from edge_runtime.schema import shown, structure
from edge_runtime.state import TensorKind
from edge_runtime.storage import StrPath

RUN_FILE, STEPS_FILE, EVENTS_FILE = "run.json", "steps.jsonl", "events.jsonl"
POWER_FILE = "power.jsonl"
CHECKPOINTS = "checkpoints"
OWN_FILES = (RUN_FILE, STEPS_FILE, EVENTS_FILE, POWER_FILE, CHECKPOINTS)

logger = logging.getLogger(__name__)


class LoggedEvent(NamedTuple):
    """A line of `events.jsonl`."""

    at: str  # UTC, ISO 8601
    moment: Moment | None  # None: written by a process that does not train
    event: Event


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, to read."""

    path: Path
    info: RunInfo

    def each_step(self) -> Iterator[StepRecord]:
        """The records of all steps done, one by one.

        Raises:
            RecordsError: steps.jsonl is missing or damaged.
        """
        file = self.path / STEPS_FILE
        for table in LineReader(file):
            yield structure(StepRecord, table, where=str(file), error=RecordsError)

    def steps(self) -> list[StepRecord]:
        """All of `each_step`."""
        return list(self.each_step())

    def events(self) -> list[LoggedEvent]:
        """All events, oldest first, of every process that worked on the run.

        Raises:
            RecordsError: events.jsonl is missing or damaged.
        """
        file = self.path / EVENTS_FILE
        return [logged_event(table, where=str(file)) for table in LineReader(file)]

    def rung_at(self, step: int) -> str | None:
        """The rung of a step that is done, by the events; `None`: there is none.

        Raises:
            RecordsError: events.jsonl is missing or damaged.
        """
        # Every process logs its first rung, so what was lost is before it in the file.
        for entry in reversed(self.events()):
            if isinstance(entry.event, RungChanged) and entry.event.step <= step:
                return entry.event.rung
        return None

    def power(self) -> list[PowerRecord]:
        """All samples of the meter, in the order in which they were taken.

        Raises:
            RecordsError: power.jsonl is missing or damaged.
        """
        file = self.path / POWER_FILE
        return [
            structure(PowerRecord, table, where=str(file), error=RecordsError)
            for table in LineReader(file)
        ]

    def spending(self, until: Totals) -> Spending:
        """Seconds and joules of all processes, from their samples; reads them one by one.

        Args:
            until: what the samples before add up to; they are not read.

        Raises:
            RecordsError: power.jsonl is missing or damaged.
        """
        spending = replace(until.spending)
        for table in LineReader(self.path / POWER_FILE, start_bytes=until.power_bytes):
            add_table(spending, table)
        return spending

    def totals(self) -> Totals:
        """Sums over the records before the newest checkpoint; zeros if there is none."""
        for path in checkpoint_paths(self.path / CHECKPOINTS):
            with suppress(RecordsError):  # damaged, or removed a moment ago
                return read_info(path).totals
        return Totals()

    def newest_checkpoint(
        self,
        names: Collection[str] | None = None,
        *,
        expected: Mapping[str, TensorKind] | None = None,
    ) -> Checkpoint:
        """The newest checkpoint that can be used.

        Args:
            names: the tensors to keep of its state; `None`: all of them.
            expected: as of `load_checkpoint`.

        Raises:
            RecordsError: no checkpoint exists, or none can be used.
        """
        checkpoint, damaged = find_checkpoint(self, names, expected=expected)
        for each in damaged:
            logger.warning("skipped a damaged checkpoint: %s", each.reason)
        if checkpoint is None:
            raise RecordsError(
                f"{self.path} has no checkpoint yet. Continue with `edge-train run --resume`."
            )
        return checkpoint


def has_estimates(info: RunInfo, logged: Iterable[LoggedEvent]) -> bool:
    """Whether joules of any process of a run are derived, not read as power."""
    return info.power_is_estimate or any(
        bool(event.window.is_estimate)
        if isinstance(event, WindowEnded)
        else isinstance(event, Finished) and event.spent.energy_is_estimate
        for _, _, event in logged
    )


def logged_event(table: dict[str, Any], *, where: str) -> LoggedEvent:
    """A line of `events.jsonl`.

    Raises:
        RecordsError: it is of an unknown kind, or its fields are wrong.
    """
    stamp = {key: table.get(key) for key in ("at", "process", "t_s")}
    if not isinstance(stamp["at"], str):
        raise RecordsError(f"{where}: at: expected a string, got {shown(stamp['at'])}.")
    moment = None
    if stamp["process"] is not None:
        fields = {"process": stamp["process"], "t_s": stamp["t_s"]}
        moment = structure(Moment, fields, where=where, error=RecordsError)
    fields = {key: value for key, value in table.items() if key not in stamp}
    return LoggedEvent(stamp["at"], moment, event_of(fields, where=where))


def find_checkpoint(
    run: Run,
    names: Collection[str] | None = None,
    *,
    expected: Mapping[str, TensorKind] | None = None,
) -> tuple[Checkpoint | None, list[CheckpointDamaged]]:
    """The newest checkpoint that can be used (`None` before the first), and those skipped.

    Args:
        run: its checkpoints are looked at.
        names: as of `load_checkpoint`.
        expected: as of `load_checkpoint`.

    Raises:
        RecordsError: there are checkpoints, but none can be used.
    """
    damaged: list[CheckpointDamaged] = []
    for path in checkpoint_paths(run.path / CHECKPOINTS):
        try:
            checkpoint = load_checkpoint(
                path,
                package_digest=run.info.settings.package_digest,
                steps_file=run.path / STEPS_FILE,
                expected=expected,
                names=names,
            )
        except RecordsError as error:
            name = f"{CHECKPOINTS}/{path.name}"
            damaged.append(CheckpointDamaged(checkpoint=name, reason=str(error)))
        else:
            return checkpoint, damaged
    if not damaged:
        return None, []
    reasons = "\n".join(f"  {each.reason}" for each in damaged)
    raise RecordsError(
        f"{run.path} has no checkpoint that can be used:\n{reasons}\n"
        "Restore the files, or train again into another folder."
    )


def is_begun(path: Path) -> bool:
    """Whether a run folder exists and is not empty."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def open_run(path: StrPath) -> Run:
    """Open a run folder for reading.

    Args:
        path: the folder.

    Raises:
        RecordsError: it is missing, damaged or of an unknown format.
    """
    path = Path(path)
    file = path / RUN_FILE
    try:
        table = read_json(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordsError(
            f"{path} is not a run folder: {RUN_FILE} cannot be read ({reason}). "
            "Create one with `edge-train run`."
        ) from error
    version = table.get("format") if isinstance(table, dict) else None
    if version in range(1, FORMAT):
        versions = table.get("versions")
        writer = versions.get("edge-train") if isinstance(versions, dict) else None
        raise RecordsError(
            f"{file}: run format {version} is of an earlier edge-train; this one reads format "
            f"{FORMAT}. Read it with edge-train {writer or 'of that time'}, or train again "
            "into another folder."
        )
    if version != FORMAT:
        raise RecordsError(
            f"{file}: run format {shown(version)} is unknown; this edge-train reads format "
            f"{FORMAT}."
        )
    return Run(path, structure(RunInfo, table, where=str(file), error=RecordsError))
