"""What a run is doing now: the fold of its records that every view of a run shows.

Units: seconds, joules, watts, bytes, degrees Celsius. `None` is unknown, never 0.
"""

from collections import deque

from edge_runtime.live.pace import Pace
from edge_runtime.records import LoggedEvent, RunInfo, events
from edge_runtime.records.events import Event, StepRecord
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.spending import Spending

# After one of these the process that trained ends; `Resumed` begins another one.
ENDINGS = (
    events.Finished,
    events.Interrupted,
    events.SourceLost,
    events.EngineFailed,
    events.LimitUnknown,
    events.Diverged,
)
_NEWS = 50
_NO_NEWS = (events.Started, events.EpochFinished, events.WindowEnded)


class Status:
    """Takes in records: steps, events and samples each in their order, in any mixture."""

    def __init__(self, info: RunInfo, spending: Spending) -> None:
        """Begin.

        Args:
            info: of the run.
            spending: by the samples that will not be added.
        """
        self.info = info
        self.budget = info.budget
        self.pace = Pace(info.total_steps)
        self.spending = spending
        self.last_step: StepRecord | None = None
        self.rss_bytes: int | None = None
        self.sample: PowerRecord | None = None  # the newest
        self.rung: events.RungChanged | None = None  # the last change
        self.epoch_loss: float | None = None  # mean of the last whole epoch
        self.resumed: events.Resumed | None = None  # the last time
        self.paused: events.Paused | None = None  # since the last step
        self.sensor_lost: events.SensorLost | None = None  # and not back yet
        self.ended: Event | None = None  # how; and not resumed since
        self.was_killed = False  # set by a reader that looked for its process
        self.news: deque[LoggedEvent] = deque(maxlen=_NEWS)

    def add_step(self, record: StepRecord) -> None:
        """Take a step in."""
        self.last_step, self.paused = record, None
        self.pace.follow(record)
        if record.measured.rss_bytes is not None:
            self.rss_bytes = record.measured.rss_bytes

    def add_event(self, logged: LoggedEvent) -> None:
        """Take an event in."""
        event = logged.event
        if not isinstance(event, _NO_NEWS):
            if self.news and type(event) is type(self.news[-1].event) is events.Paused:
                self.news.pop()  # one pause after the other: the newest is enough
            self.news.append(logged)
        match event:
            case events.Resumed():
                self.resumed, self.ended = event, None
                # What follows was of the process before.
                self.last_step = self.rung = self.rss_bytes = None
                self.paused = self.sensor_lost = None
            case events.Planned():
                self.budget = event.budget  # a resumed run may have a larger one
            case events.RungChanged():
                self.rung = event
            case events.Paused():
                self.paused = event
            case events.EpochFinished():
                self.epoch_loss = event.mean_loss
            case events.SensorLost():
                self.sensor_lost = event
            case events.SensorBack():
                self.sensor_lost = None
            case _ if isinstance(event, ENDINGS):
                self.ended = event

    def add_sample(self, record: PowerRecord) -> None:
        """Take the newest sample in; `spending` needs all of them."""
        self.sample = record

    @property
    def finished(self) -> events.Finished | None:
        """Its summary, if it came to its end or to that of its budget."""
        return self.ended if isinstance(self.ended, events.Finished) else None

    @property
    def steps_done(self) -> int:
        """Of `info.total_steps`."""
        if self.last_step is not None:
            return self.last_step.step
        return self.resumed.step if self.resumed else 0

    @property
    def images_done(self) -> int:
        """Pictures of all steps that count."""
        return self.steps_done * self.info.settings.batch_size

    @property
    def is_estimate(self) -> bool:
        """Whether joules and watts are computed from something that is no power."""
        if self.finished and self.finished.spent.energy_is_estimate:
            return True
        return self.info.power_is_estimate

    @property
    def spent_s(self) -> float:
        """By all processes of the run, from process start; its own account once it is done."""
        return self.finished.spent.time_s if self.finished else self.spending.time_s

    @property
    def spent_j(self) -> float | None:
        """See `spent_s`."""
        return self.finished.spent.energy_j if self.finished else self.spending.energy_j

    @property
    def mean_w(self) -> float | None:
        """Over all that was spent."""
        if self.spent_j is None or self.spent_s <= 0:
            return None
        return self.spent_j / self.spent_s

    @property
    def power_w(self) -> float | None:
        """Of the board's total, by the newest sample."""
        return None if self.sample is None else self.sample.total_w

    @property
    def left_s(self) -> float | None:
        """Until the last step; `None` also if no process trains."""
        return None if self.ended or self.was_killed else self.pace.left_s
