"""What happens in a run: one frozen dataclass per kind of event.

`StepRecord` is a line of `steps.jsonl`, all others are lines of `events.jsonl`. Steps count
from 1, epochs from 0. Paths are relative to the run folder. Durations are monotonic seconds.
Energies are gross joules of the board's total and `None` where nothing measured them.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edge_runtime.errors import RecordsError
from edge_runtime.facts import Budget, EvaluationResults, Plan, Spent, WindowEnergy
from edge_runtime.facts.budget import MEMORY
from edge_runtime.facts.devices import CPU
from edge_runtime.schema import (
    Bytes,
    Celsius,
    ClockSeconds,
    Float32,
    Joules,
    NonNegative,
    NonNegativeInt,
    PositiveInt,
    Seconds,
    Share,
    shown,
    structure,
    unstructure,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The time of an event, by the clock of all measurements of a run."""

    process: PositiveInt  # counts the processes that worked on the run, from 1
    t_s: ClockSeconds  # since the start of that process


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What differs between two runs with the same settings. `None`: not measured."""

    process: PositiveInt  # counts the processes that worked on the run, from 1
    t_s: ClockSeconds  # when the step ended, since the start of that process
    step_s: Seconds  # inside the engine
    wait_s: Seconds  # for pictures, before that
    pause_s: Seconds  # requested by the governor, before that
    rss_bytes: Bytes | None  # resident memory of the process tree, about once per second


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One training step. A repeated run gives the same, except for `measured`."""

    step: NonNegativeInt
    epoch: NonNegativeInt
    rung: str
    keep_ratio: Share
    loss: Float32 | None  # None: not finite, and the update was skipped
    # Of the objective, by name
    metrics: dict[str, Float32 | None] = field(default_factory=dict)
    applied: bool = True  # False: the update was skipped, and the state is unchanged
    lr: Float32
    images: NonNegativeInt  # pictures of this step
    measured: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run begins; `steps` counts all of its steps."""

    steps: NonNegativeInt
    steps_per_epoch: NonNegativeInt
    engine: str
    runtime: str
    device: str = CPU
    gpu: str | None = None  # behind the device, with its driver; None: the CPU, or unknown
    device_reason: str | None = None  # why `--device auto` took it; None: it was named
    # That runs encoders before steps: "tensorrt, TensorRT 10.3.0 on cuda:0"; None: none does
    forward_engine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A run continues after `step` from `checkpoint` (`None`: the initial state)."""

    step: NonNegativeInt
    steps: NonNegativeInt
    checkpoint: str | None
    lost_steps: NonNegativeInt  # records of steps that have to be trained again
    lost_s: Seconds  # spent after that checkpoint and lost; it counts against a budget
    lost_j: Joules | None
    engine: str
    runtime: str
    device: str = CPU
    gpu: str | None = None
    threads: PositiveInt | None = None  # of the engine; None: not recorded
    forward_engine: str | None = None  # as of `Started`


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan for the steps after `step`, within the remaining budget."""

    step: NonNegativeInt
    budget: Budget
    plan: Plan
    # Sets of trained parameters that the package prefers to the plan's: why none is feasible
    refused_sets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungChanged:
    """From `step` on another rung is trained."""

    step: NonNegativeInt
    rung: str
    keep_ratio: Share
    reason: str | None  # the governor's; None: given by the caller's schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """The run waits before the step after `step`, to stay within a limit."""

    step: NonNegativeInt
    pause_s: Seconds
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorLost:
    """The power sensor gives no readings after `step`; energy has a gap from here on."""

    step: NonNegativeInt
    sensor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorBack:
    """The power sensor gives readings again; over the gap the power is interpolated."""

    step: NonNegativeInt
    sensor: str
    gap_s: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRefused:
    """A reading cannot be true, and was not used. At most once a minute per sensor."""

    step: NonNegativeInt
    sensor: str
    reason: str  # names the rail or file, and its value


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneLost:
    """A temperature zone cannot be read any more, or reads what cannot be true."""

    step: NonNegativeInt
    zone: str
    temperature_c: Celsius | None  # at last
    reason: str  # names the file, and its value


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneBack:
    """A temperature zone can be read again."""

    step: NonNegativeInt
    zone: str
    temperature_c: Celsius | None
    gap_s: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUnknown:
    """A limit cannot be judged any more: the run ends after `step`."""

    step: NonNegativeInt
    limit: str  # "energy", "power" or "temperature"
    sensor: str
    reason: str  # names the rail, zone or file, and its value
    checkpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnded:
    """Power over a part of a run."""

    step: NonNegativeInt  # the last one before its end
    window: WindowEnergy  # `start_s` counts from the start of the process


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesLeftOut:
    """What looks like a picture in the data and is not read: other kinds, hidden ones, ..."""

    step: NonNegativeInt
    files: str  # for people: how many of each kind, and the first names


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSkipped:
    """A picture cannot be read and was replaced. Reported once per picture."""

    step: NonNegativeInt
    picture: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    """The state after `step` is on the disk."""

    step: NonNegativeInt
    checkpoint: str
    size_bytes: Bytes
    save_s: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDamaged:
    """A checkpoint was skipped, and removed, because it cannot be used."""

    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFinished:
    """An epoch ended with `step`."""

    step: NonNegativeInt
    epoch: NonNegativeInt
    mean_loss: Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The run was asked to stop after `step`."""

    step: NonNegativeInt
    checkpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLost:
    """There are no more pictures after `step`."""

    step: NonNegativeInt
    checkpoint: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFailed:
    """The engine failed after `step`, or got no memory. `checkpoint` is the last one."""

    step: NonNegativeInt
    device: str
    reason: str
    out_of_memory: bool
    checkpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged:
    """`step` gave NaN or infinity. `checkpoint` is the last one known to be good."""

    step: NonNegativeInt
    reason: str
    checkpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run is complete, or its budget is used up.

    `elapsed_s`, `images_per_s` and `peak_bytes` are those of the last process; `spent` is
    that of all processes of the run.
    """

    steps: NonNegativeInt
    epochs: NonNegative  # reached
    images: NonNegativeInt  # of all steps
    loss: Float32 | None  # of the last step; None: no step was trained, or it was not finite
    skipped: NonNegativeInt = 0  # steps of the run without an update
    checkpoint: str | None
    elapsed_s: Seconds
    images_per_s: NonNegative | None
    peak_bytes: Bytes  # resident, of the last process with its children and its GPU share
    card_bytes: Bytes | None = None  # the most of a GPU's own memory; None: unknown, or none
    memory_limit_bytes: Bytes | None = None  # that the peak should have kept
    stopped_by: str | None  # the limit that ended the run early: "energy", "time", ...
    reason: str | None = None  # for people, where a limit ended it
    spent: Spent

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the run ended early for lack of memory."""
        return self.stopped_by == MEMORY.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The encoder after `step` was evaluated, by a separate process."""

    step: NonNegativeInt
    results: EvaluationResults
    device: str = CPU
    forward_engine: str | None = None  # as of `Started`; None: not recorded
    spent_s: Seconds  # not part of the run's budget
    energy_j: Joules | None
    energy_is_estimate: bool


Event: TypeAlias = (
    StepRecord
    | Started
    | Resumed
    | Planned
    | RungChanged
    | Paused
    | SensorLost
    | SensorBack
    | ReadingRefused
    | ZoneLost
    | ZoneBack
    | LimitUnknown
    | WindowEnded
    | FilesLeftOut
    | PictureSkipped
    | CheckpointSaved
    | CheckpointDamaged
    | EpochFinished
    | Interrupted
    | SourceLost
    | EngineFailed
    | Diverged
    | Finished
    | Evaluation
)

_KINDS: dict[str, type[Event]] = {
    "step": StepRecord,
    "started": Started,
    "resumed": Resumed,
    "planned": Planned,
    "rung_changed": RungChanged,
    "paused": Paused,
    "sensor_lost": SensorLost,
    "sensor_back": SensorBack,
    "reading_refused": ReadingRefused,
    "zone_lost": ZoneLost,
    "zone_back": ZoneBack,
    "limit_unknown": LimitUnknown,
    "window": WindowEnded,
    "files_left_out": FilesLeftOut,
    "picture_skipped": PictureSkipped,
    "checkpoint_saved": CheckpointSaved,
    "checkpoint_damaged": CheckpointDamaged,
    "epoch_finished": EpochFinished,
    "interrupted": Interrupted,
    "source_lost": SourceLost,
    "engine_failed": EngineFailed,
    "diverged": Diverged,
    "finished": Finished,
    "evaluation": Evaluation,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def event_table(event: Event) -> dict[str, Any]:
    """Plain data of an event, with its kind under `event`."""
    return {"event": _NAMES[type(event)], **unstructure(event)}


def event_of(table: dict[str, Any], *, where: str) -> Event:
    """The event of a table made by `event_table`.

    Raises:
        RecordsError: it is of an unknown kind, or its fields are wrong.
    """
    name = table.get("event")
    if not isinstance(name, str) or name not in _KINDS:
        known = ", ".join(_KINDS)
        raise RecordsError(f"{where}: unknown event {shown(name)}; known are {known}.")
    fields = {key: value for key, value in table.items() if key != "event"}
    return structure(_KINDS[name], fields, where=where, error=RecordsError)
