"""A run as plain lines, for a pipe or a file; on a terminal see `edge_runtime.cli.panel`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from edge_runtime.cli.output import show
from edge_runtime.facts import Spent
from edge_runtime.live import Pace
from edge_runtime.printable import printable
from edge_runtime.records import events
from edge_runtime.records.event_text import event_text, loss_text
from edge_runtime.records.events import Event, StepRecord
from edge_runtime.units import bytes_text, duration_text, energy_text

_EVERY_S = 5.0
_REPORTED_ELSEWHERE = (
    events.FilesLeftOut,  # when the pictures were opened
    # by the error
    events.Interrupted,
    events.SourceLost,
    events.EngineFailed,
    events.LimitUnknown,
    events.Diverged,
)


def finished_text(event: events.Finished, run_dir: Path) -> str:
    """The summary at the end."""
    lines = [event_text(event), spent_text(event.spent, event.peak_bytes, event.card_bytes)]
    if event.checkpoint is not None:
        lines.append(printable(f"checkpoint: {run_dir / event.checkpoint}"))
    return "\n".join(lines)


def spent_text(spent: Spent, peak_bytes: int, card_bytes: int | None) -> str:
    """Time, energy and memory of the run, from process start."""
    parts = [duration_text(spent.time_s)]
    if spent.energy_j is not None:
        mark = " (estimate)" if spent.energy_is_estimate else ""
        parts.append(energy_text(spent.energy_j) + mark)
    parts.append(f"at most {bytes_text(peak_bytes)} resident")
    if card_bytes is not None:
        parts.append(f"{bytes_text(card_bytes)} of the GPU's own memory")
    lost = f"; of these lost {duration_text(spent.lost_s)}" if spent.lost_s else ""
    return f"spent: {', '.join(parts)}{lost}"


class Progress:
    """Shows the events of one run."""

    def __init__(
        self, run_dir: Path, stream: TextIO, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_dir, self._stream, self._clock = run_dir, stream, clock
        self._pace: Pace | None = None
        self._total_steps = 0
        self._rss_bytes: int | None = None
        self._shown_s = self._epoch_shown_s = -float("inf")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StepRecord):
            self._show_step(event)
            return
        if isinstance(event, events.Started | events.Resumed):
            self._pace, self._total_steps = Pace(event.steps), event.steps
        if isinstance(event, events.EpochFinished) and not self._is_epochs_turn():
            return
        if isinstance(event, events.Finished) and self._pace is None:
            self._line(printable(f"{self._run_dir} is already finished"))
        if isinstance(event, events.Finished):
            self._line(finished_text(event, self._run_dir))
        elif not isinstance(event, _REPORTED_ELSEWHERE) and (
            text := event_text(event, self._run_dir)
        ):
            self._line(text)

    def close(self) -> None:
        """Nothing to do: all lines are printed."""

    def _is_epochs_turn(self) -> bool:
        """Whether the last one was long enough ago; short epochs would fill the screen."""
        now_s = self._clock()
        if now_s - self._epoch_shown_s < _EVERY_S:
            return False
        self._epoch_shown_s = now_s
        return True

    def _show_step(self, record: StepRecord) -> None:
        if self._pace is None:
            return
        self._pace.follow(record)
        if record.measured.rss_bytes is not None:
            self._rss_bytes = record.measured.rss_bytes
        now_s = self._clock()
        if now_s - self._shown_s < _EVERY_S and record.step < self._total_steps:
            return
        self._shown_s = now_s
        self._line(step_text(record, self._total_steps, self._pace, self._rss_bytes))

    def _line(self, text: str) -> None:
        show(text, self._stream)


def step_text(record: StepRecord, total_steps: int, pace: Pace, rss_bytes: int | None) -> str:
    """The progress of a run in one line. Unknown values are left out."""
    parts = [f"step {record.step}/{total_steps}"]
    if pace.images_per_s is not None:
        parts.append(f"{pace.images_per_s:.1f} images/s")
    parts += [
        f"loss {loss_text(record)}",
        f"lr {record.lr:.2e}",
        f"keep-ratio {record.keep_ratio:g}",
    ]
    if rss_bytes is not None:
        parts.append(bytes_text(rss_bytes))
    if pace.left_s is not None:
        parts.append(f"{duration_text(pace.left_s)} left")
    return "  ".join(parts)
