"""edge-train watch: show a run of another process, running or ended."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.cli.output import say_program, show, show_json
from edge_runtime.cli.paths import any_path

if TYPE_CHECKING:
    from edge_runtime.live import Replay
    from edge_runtime.records import Run
    from edge_runtime.records.events import Event

_EVERY_S = 0.5
_TAIL_BYTES = 1 << 20  # of steps.jsonl: for people, progress of days ago is no news
# In a row, before the process counts as ended: it writes a sample each second
_QUIET_LOOKS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "run_folder", metavar="RUN", type=any_path, help="written by `edge-train run`"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON event per line")


def run(args: argparse.Namespace) -> int:
    """Show the run until it ends; a failed run is an error with the run's exit code."""
    from edge_runtime.cli.panel import can_redraw
    from edge_runtime.cli.progress import Progress
    from edge_runtime.live import Replay
    from edge_runtime.records import open_run
    from edge_runtime.records.events import event_table

    wait_for_begin(args.run_folder)
    watched = open_run(args.run_folder)
    if args.json:
        ended = replay(Replay(watched), lambda event: show_json(event_table(event)))
    elif can_redraw(sys.stdout):
        ended = show_panel(watched)
    else:
        recent = Replay(watched, tail_bytes=_TAIL_BYTES)
        ended = replay(recent, Progress(watched.path, sys.stdout))
    refuse_bad_end(watched, ended)
    return 0


def wait_for_begin(run_dir: Path) -> None:
    """Show what a process does that is about to begin the run, until the folder exists."""
    from edge_runtime.records import is_begun
    from edge_runtime.records.beginning import BeginningReader

    beginning = BeginningReader(run_dir)
    while not is_begun(run_dir) and (texts := beginning.poll()) is not None:
        for text in texts:
            say_program(text)
        time.sleep(_EVERY_S)


def show_panel(watched: "Run") -> "Event | None":
    """Show it on a terminal; returns how the run ended."""
    from edge_runtime.cli.panel import draw
    from edge_runtime.cli.progress import finished_text
    from edge_runtime.cli.screen import Screen
    from edge_runtime.live import Follower

    follower, screen = Follower(watched), Screen(sys.stdout)

    def look() -> bool:
        is_new = follower.poll()
        draw(screen, follower.status, watched.path)
        return is_new

    ended = until_end(watched, look, lambda: follower.status.ended)
    follower.status.was_killed = ended is None
    look()
    if follower.status.finished:
        show(finished_text(follower.status.finished, watched.path))
    return ended


def replay(events: "Replay", show: Callable[["Event"], None]) -> "Event | None":
    """Show every event; returns how the run ended."""

    def look() -> bool:
        is_new = False
        for event in events.poll():
            is_new = True
            show(event)
        return is_new

    ended = until_end(events.run, look, lambda: events.ended)
    if ended:
        show(ended)
    return ended


def until_end(
    watched: "Run", look: Callable[[], bool], end: Callable[[], "Event | None"]
) -> "Event | None":
    """Poll until the run or its process has ended.

    Args:
        watched: the run.
        look: shows new events; returns whether there were any.
        end: returns how the run ended, if it was seen.

    Returns:
        How it ended; `None`: its process was killed.
    """
    from edge_runtime.records.jsonl import is_held
    from edge_runtime.records.run import STEPS_FILE

    quiet = 0
    while True:
        quiet = 0 if look() else quiet + 1
        # A locked run after its end is being resumed.
        may_be_over = end() is not None or quiet >= _QUIET_LOOKS
        if may_be_over and not is_held(watched.path / STEPS_FILE):
            look()  # written before the process released it
            return end()
        time.sleep(_EVERY_S)


def refuse_bad_end(watched: "Run", ended: "Event | None") -> None:
    """Raise the error with which the run ended.

    Raises:
        StoppedError: the run was stopped.
        DataError: it had no more pictures.
        SensorError: a limit could not be judged any more.
        DivergedError: it diverged.
        DeviceError: other programs took its memory.
        RecordsError: its process was killed.
    """
    from edge_runtime.errors import (
        DataError,
        DeviceError,
        DivergedError,
        EngineError,
        RecordsError,
        SensorError,
        StoppedError,
    )
    from edge_runtime.records import events
    from edge_runtime.records.event_text import event_text

    hint = "Continue with the same `edge-train run` and --resume."
    end = "" if ended is None else f"{watched.path}: {event_text(ended).rstrip('.')}."
    match ended:
        case events.Interrupted():
            raise StoppedError(f"{end} {hint}")
        case events.SourceLost():
            raise DataError(f"{end} {hint}")
        case events.EngineFailed(out_of_memory=True):
            raise DeviceError(f"{end} {hint}")
        case events.EngineFailed():
            raise EngineError(f"{end} {hint}")
        case events.LimitUnknown():
            raise SensorError(f"{end} {hint}")
        case events.Diverged():
            raise DivergedError(end)
        case events.Finished(is_out_of_memory=True) if not watched.info.budget.memory_bytes:
            raise DeviceError(f"{end} {hint}")
        case None:
            raise RecordsError(
                f"no process works on {watched.path}, and it did not end: it was killed, or "
                f"the power failed. {hint}"
            )
