"""The numbers of a report: one tree of plain facts, format 1, described in docs/report.md.

Page, JSON and CSV show these and nothing else. Units are in the names: seconds, joules,
watts, bytes. Energy is gross unless it is called net, which is gross without what the idle
board would have taken. `None` is unknown.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeVar

T = TypeVar("T")

FORMAT = 1


def copy_fields(kind: type[T], *sources: object, **others: Any) -> T:
    """A `kind` whose fields are those of the same names of some sources, and others.

    Raises:
        StopIteration: a field is in none of them.
    """
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name not in others:
            source = next(source for source in sources if hasattr(source, each.name))
            others[each.name] = getattr(source, each.name)
    return kind(**others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a reader has to know before the numbers."""

    kind: str  # "estimate", "damaged", "limit", "missing", "mixed", "lost" or "comparison"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """What was trained. Facts of the model are `None` where the package was moved."""

    package_digest: str
    package_path: str
    method: str | None
    tokens: str | None  # the token policy
    precision: str | None
    model: str | None
    image_size_px: int | None
    patch_size_px: int | None
    depth: int | None
    width: int | None
    source: str
    seed: int
    batch_size: int
    total_epochs: int  # asked for
    steps_per_epoch: int
    total_steps: int  # asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnvironment:
    """What it ran with and on, and what measured it."""

    board: str | None
    power_mode: str | None
    engine: str
    device: str
    gpu: str | None  # behind the device, with its driver; None: the CPU, or unknown
    threads: int | None  # of the engine; None: not recorded
    machine: dict[str, object]
    versions: dict[str, str]
    sensor: str | None
    power_is_estimate: bool
    calibration: dict[str, dict[str, float]]  # by rail; a rail that is not here is raw
    sample_rate_hz: float  # the most
    idle_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The whole run, all processes, lost work included."""

    time_s: float
    steps: int  # that were kept
    skipped_steps: int  # of them, without an update: their gradients were not finite
    epochs: float
    images: int
    images_per_s: float | None
    gross_j: float | None
    idle_j: float | None
    net_j: float | None
    mean_w: float | None
    peak_w: float | None
    energy_per_image_j: float | None
    images_per_j: float | None
    energy_per_epoch_j: float | None
    peak_bytes: int | None  # resident, with a share of GPU memory where the run ended itself
    card_bytes: int | None  # of a GPU's own memory, at most; known where the run ended itself
    peak_temperature_c: float | None
    throttled: bool | None  # at any time
    lost_s: float  # work that had to be done again
    lost_j: float | None
    first_loss: float | None
    last_loss: float | None  # mean of the last epoch's steps, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerQuality:
    """How well the power is known."""

    samples: int
    known_samples: int  # that have a total
    mean_rate_hz: float | None
    largest_gap_s: float | None  # between two known samples of a process
    gap_s: float  # sum of the gaps over `gap_limit_s`, where the power is interpolated
    gap_limit_s: float
    before_s: float  # gaps before the first known samples, counted at their power
    after_s: float  # gaps after the last known samples, not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """One limit of the budget."""

    limit: str  # "memory", "energy", "time", "power" or "temperature"
    unit: str  # "bytes", "J", "s", "W" or "C"
    allowed: float
    used: float | None
    share: float | None  # used of allowed
    kept: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageUse:
    """Time and energy of one stage of the loop. The stages of a run add up to its totals."""

    stage: str  # one of `edge_runtime.report.summary.usage.STAGES`
    time_s: float
    share: float | None  # of the run's time
    gross_j: float | None
    idle_j: float | None
    net_j: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RungUse:
    """One rung: what its steps took in this run, and what the cost profile says of it."""

    rung: str
    keep_ratio: float | None
    steps: int
    images: int
    time_s: float  # steps and their waiting for input
    gross_j: float | None
    step_s: float | None  # mean, waiting included
    step_j: float | None  # mean, where power is known for 2 s of its steps or more
    mean_w: float | None
    seconds_per_image: float | None
    energy_per_image_j: float | None
    peak_bytes: int | None  # most that was seen while it trained, about once per second
    token_blocks: int | None
    profile_step_s: float | None
    profile_step_j: float | None
    profile_peak_bytes: int | None
    profile_source: str | None
    profile_is_estimate: bool | None
    dominated_by: str | None  # a rung that keeps as much and costs no more of anything


@dataclass(frozen=True, slots=True, kw_only=True)
class RailUse:
    """One power rail over the whole run."""

    rail: str
    energy_j: float | None
    mean_w: float | None
    peak_w: float | None
    gain: float | None  # calibration
    offset_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """One of the processes that worked on the run."""

    process: int
    began_at: str | None  # UTC
    begins_s: float  # in the run
    time_s: float
    gross_j: float | None
    first_step: int | None  # that was kept
    last_step: int | None
    lost_s: float
    lost_j: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRow:
    """A named window, as the meter measured it while it ran."""

    name: str
    process: int | None
    begins_s: float | None  # in the run
    duration_s: float | None
    gross_j: float | None
    net_j: float | None
    mean_w: float | None
    peak_w: float | None
    gap_s: float | None
    is_estimate: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """What was decided or happened, and why."""

    at: str  # UTC
    process: int | None
    elapsed_s: float | None  # in the run
    step: int | None
    kind: str  # the name of the event
    rung: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """A number of the first plan, and what became of it."""

    name: str
    unit: str
    planned: float | None
    actual: float | None
    difference: float | None  # actual - planned
    is_estimate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """One evaluation of the encoder, by a process of its own; not part of the totals."""

    at: str
    step: int
    classifier: str  # "kNN" or "linear probe"
    device: str
    accuracy: float
    untrained_accuracy: float | None
    test_pictures: int | None
    spent_s: float | None
    energy_j: float | None
    energy_is_estimate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Everything that a report says of one run."""

    name: str
    path: str
    created_at: str
    state: str  # as docs/report.md lists them
    energy_is_estimate: bool
    energy_is_incomplete: bool  # power is unknown for a part of the run: joules are too few
    notes: tuple[Note, ...]
    trained: TrainingSetup
    conditions: RunEnvironment
    totals: Totals
    metering: PowerQuality
    budget: tuple[LimitUse, ...]
    stages: tuple[StageUse, ...]
    rungs: tuple[RungUse, ...]
    rails: tuple[RailUse, ...]
    processes: tuple[ProcessUse, ...]
    windows: tuple[WindowRow, ...]
    decisions: tuple[EventRow, ...]
    plan: tuple[PlanRow, ...]
    evaluations: tuple[EvaluationRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One number of a run beside that of the first run."""

    run: str
    name: str
    unit: str
    first: float | None
    value: float | None
    difference: float | None  # value - first
    relative: float | None  # of the first, where that is above zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole of `edge-train report --json`."""

    format: int
    made_by: str  # edge-train and its version
    notes: tuple[Note, ...]  # about the comparison
    runs: tuple[RunSummary, ...]
    differences: tuple[Difference, ...]  # of the other runs from the first
