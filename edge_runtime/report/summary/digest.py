"""What a report needs of the records of a run: sums, lines and processes, however long it was.

Seconds and joules from the start of the run, without the pauses between processes: what
happened then is no part of it. Energy is gross, as the samples say; between two of them at
constant power, after the last one of a process unknown and not counted.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_runtime.facts import Budget
from edge_runtime.package.manifest import Manifest
from edge_runtime.records import LoggedEvent, Run
from edge_runtime.records.events import Planned
from edge_runtime.report.summary.lines import LineBuilder, StepMeans
from edge_runtime.report.summary.unknown import total

STEP, WAIT, PAUSE, CHECKPOINT = "step", "waiting for input", "pause", "checkpoint"
START_UP, OTHER, LOST = "start-up", "other", "lost work"
STAGES = (START_UP, STEP, WAIT, PAUSE, CHECKPOINT, OTHER, LOST)
MEAN_OVER_S = 2.0  # joules of a step are only given as a mean over this long
Span = tuple[float, float]  # begin and end, seconds in the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One of the processes that worked on a run."""

    number: int  # from 1
    begin_s: float  # what the processes before it took
    duration_s: float
    kept_s: float  # until then its work was kept; what came after had to be done again
    energy_j: float | None  # until the last reading of power; None: nothing measured it
    lost_j: float | None  # after `kept_s`
    first_step: int | None
    last_step: int | None

    @property
    def end_s(self) -> float:
        """When the next one begins."""
        return self.begin_s + self.duration_s

    @property
    def lost_s(self) -> float:
        """What it spent on work that had to be done again."""
        return self.end_s - self.kept_s


class RungSegment(NamedTuple):
    """Consecutive steps of one process on one rung."""

    begin_s: float  # in the run
    end_s: float
    first_step: int
    last_step: int
    rung: str
    keep_ratio: float


@dataclass(slots=True)
class SpanSums:
    """Spans of one stage."""

    time_s: float = 0.0
    gross_j: float = 0.0


@dataclass(slots=True)
class RungSums:
    """Steps on one rung; `measured` are those until the last reading of their process."""

    keep_ratio: float
    steps: int = 0
    images: int = 0
    time_s: float = 0.0
    peak_bytes: float | None = None
    measured_steps: int = 0
    measured_images: int = 0
    measured_s: float = 0.0
    measured_j: float = 0.0
    is_measured: bool = True  # every process that trained it had readings


@dataclass(slots=True)
class RailSums:
    """Trapezoids of one rail, as only the total is recorded as joules."""

    energy_j: list[float | None] = field(default_factory=list)  # of each process
    peak_w: float | None = None


@dataclass(slots=True)
class ReadingSums:
    """How often the power was read."""

    samples: int = 0
    known: int = 0  # of them with a total
    covered_s: float = 0.0  # between the first and the last reading of each process
    largest_gap_s: float | None = None
    gap_s: float = 0.0  # in gaps over the limit
    before_s: float = 0.0  # the first reading
    after_s: float = 0.0  # the last one


@dataclass(slots=True)
class Peaks:
    """The highest values of samples and steps; `None`: none was known."""

    total_w: float | None = None
    temperature_c: float | None = None
    throttled: float | None = None
    rss_bytes: float | None = None


@dataclass(slots=True)
class LossSums:
    """Losses at the beginning and the end of a run."""

    first: float | None = None
    last: float | None = None  # mean over the last epoch


class Lines:
    """What the figures show, in the making. x: seconds in the run, or steps of `loss`."""

    def __init__(self) -> None:
        self.total_w = LineBuilder()
        self.rails_w: dict[str, LineBuilder] = {}
        self.temperature_c = LineBuilder()
        self.clocks_hz = {"cpu_hz": LineBuilder(), "gpu_hz": LineBuilder()}
        self.rss_bytes = LineBuilder()
        self.loss = LineBuilder()
        self.spent_j = LineBuilder()  # ends where joules become unknown
        self.step_j = StepMeans(MEAN_OVER_S)


@dataclass(slots=True, kw_only=True)
class RunDigest:
    """One run, read."""

    run: Run
    events: list[LoggedEvent]
    manifest: Manifest | None  # None: the package is not where it was
    cut_files: tuple[str, ...] = ()  # that end in half a line
    # By file, the numbers of lines that had NULs and were left out
    zeroed_lines: dict[str, list[int]] = field(default_factory=dict)
    gap_limit_s: float  # readings further apart leave a gap
    steps: int = 0  # that were not lost
    skipped_steps: int = 0  # of them, without an update
    images: int = 0
    processes: list[Process] = field(default_factory=list)
    stages: defaultdict[str, SpanSums] = field(default_factory=lambda: defaultdict(SpanSums))
    rungs: dict[str, RungSums] = field(default_factory=dict)  # in the order of training
    rails: dict[str, RailSums] = field(default_factory=dict)
    readings: ReadingSums = field(default_factory=ReadingSums)
    peaks: Peaks = field(default_factory=Peaks)
    losses: LossSums = field(default_factory=LossSums)
    segments: list[RungSegment] = field(default_factory=list)
    gaps: list[Span] = field(default_factory=list)  # without readings of power
    lines: Lines = field(default_factory=Lines)

    @property
    def budget(self) -> Budget:
        """Of the last process: a resumed run may have another one than it began with."""
        planned = [each.event for each in self.events if isinstance(each.event, Planned)]
        return planned[-1].budget if planned else self.run.info.budget

    @property
    def duration_s(self) -> float:
        """Of all processes."""
        return sum(process.duration_s for process in self.processes)

    @property
    def gross_j(self) -> float | None:
        """Of all processes; `None`: nothing measured one of them."""
        return total(each.energy_j for each in self.processes) if self.processes else None

    def elapsed_s(self, logged: LoggedEvent, t_s: float | None = None) -> float | None:
        """When an event was logged, or another time of its process was."""
        moment = logged.moment
        if moment is None:
            return None
        (begin_s,) = (each.begin_s for each in self.processes if each.number == moment.process)
        return begin_s + (moment.t_s if t_s is None else t_s)
