"""Run folders as a training process writes them, line by line."""

from dataclasses import replace
from pathlib import Path

from training_fakes import INFO, SPENT, STEP

from edge_runtime.live import Status
from edge_runtime.records import LoggedEvent, Run, RunWriter, create_run, events
from edge_runtime.records.events import Event, Moment, StepRecord
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.spending import Spending

AT = "2030-01-01T12:00:00.000+00:00"
STARTED = events.Started(steps=10, steps_per_epoch=5, engine="fake", runtime="numpy")
RUNG = events.RungChanged(step=1, rung="k100", keep_ratio=1.0, reason=None)
FINISHED = events.Finished(
    steps=10,
    epochs=2.0,
    images=40,
    loss=0.5,
    checkpoint="checkpoints/10",
    elapsed_s=10.0,
    images_per_s=4.0,
    peak_bytes=3 << 20,
    stopped_by=None,
    spent=SPENT,
)
STOPPED = events.Interrupted(step=4, checkpoint="checkpoints/4")
DIVERGED = events.Diverged(step=5, reason="the loss of step 5 is nan", checkpoint=None)
LOST = events.SourceLost(step=3, checkpoint=None, reason="the camera is gone.")


def resumed(step: int) -> events.Resumed:
    return events.Resumed(
        step=step,
        steps=10,
        checkpoint=f"checkpoints/{step}",
        lost_steps=0,
        lost_s=0.0,
        lost_j=None,
        engine="fake",
        runtime="numpy",
    )


def step(number: int, t_s: float, *, process: int = 1, **changes) -> StepRecord:
    """One of four pictures that took half a second, and waited a quarter before."""
    measured = replace(STEP.measured, process=process, t_s=t_s, rss_bytes=2 << 20)
    return replace(
        STEP, step=number, epoch=(number - 1) // 5, measured=measured, loss=1.5, **changes
    )


def sample(t_s: float, total_w: float | None, *, process: int = 1, **changes) -> PowerRecord:
    """As if the power had been the same from the start of the process on."""
    given = {
        "process": process,
        "t_s": t_s,
        "total_w": total_w,
        "energy_j": None if total_w is None else t_s * total_w,
        "rails_w": {"VDD_IN": total_w},
        "temperature_c": 54.0,
        "throttled": False,
        "cpu_hz": None,
        "gpu_hz": None,
        "gpu_load": None,
    }
    return PowerRecord(**given | changes)


class Writing:
    """A process that works on a run; a context manager that lets go of it."""

    def __init__(self, folder: Path, *, process: int = 1, **info) -> None:
        exists = folder.exists()
        self.run = Run(folder, INFO) if exists else create_run(folder, replace(INFO, **info))
        self._writer, self._process = RunWriter(self.run), process

    def event(self, t_s: float, event: Event) -> None:
        self._writer.record(event, Moment(process=self._process, t_s=t_s))

    def steps(self, *numbers: int) -> None:
        """Each at the second of its number."""
        for number in numbers:
            self.event(number, step(number, float(number), process=self._process))

    def samples(self, *samples: PowerRecord) -> None:
        for each in samples:
            self._writer.sample(each)

    def __enter__(self) -> "Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def finished_run(folder: Path, **info) -> Run:
    """Ten steps, their samples, and the end."""
    with Writing(folder, **info) as writing:
        writing.event(0.1, STARTED)
        writing.event(0.2, RUNG)
        writing.steps(*range(1, 11))
        writing.samples(*(sample(float(second), 5.0) for second in range(1, 11)))
        writing.event(10.5, FINISHED)
    return writing.run


def status_of(*logged: events.Event, **info) -> Status:
    """What these events of a run make of its status."""
    status = Status(replace(INFO, **info), Spending())
    for event in logged:
        if isinstance(event, events.StepRecord):
            status.add_step(event)
        else:
            status.add_event(LoggedEvent(AT, None, event))
    return status
