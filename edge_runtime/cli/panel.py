"""The live panel of a run on a terminal: drawn from its run folder, twice a second.

Nothing here disturbs the training: the panel reads files in a separate thread, and plain lines
replace it if it fails.
"""

import logging
import os
import threading
from pathlib import Path
from typing import TextIO

from edge_runtime.cli.output import say, show
from edge_runtime.cli.panel_text import panel_text
from edge_runtime.cli.progress import Progress, finished_text
from edge_runtime.cli.screen import CaughtErrors, Screen
from edge_runtime.live import Follower, Status
from edge_runtime.records import events, open_run
from edge_runtime.records.events import Event

_EVERY_S = 0.5

logger = logging.getLogger(__name__)


def progress_on(run_dir: Path, stream: TextIO) -> "Progress | Panel":
    """The display of a run: the panel on a terminal, otherwise plain lines."""
    return Panel(run_dir, stream) if can_redraw(stream) else Progress(run_dir, stream)


def can_redraw(stream: TextIO) -> bool:
    """Whether it is a terminal that can move its cursor and draw bars."""
    is_known = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    return stream.isatty() and is_known and (stream.encoding or "").lower().startswith("utf")


def draw(screen: Screen, status: Status, path: Path, above: str = "") -> None:
    """Show a status at the terminal's present size."""
    width, height = screen.size
    screen.draw(panel_text(status, path, width=width, height=height), above)


class Panel:
    """Shows the events of one run; drawn by a thread."""

    def __init__(self, run_dir: Path, stream: TextIO) -> None:
        self._run_dir, self._stream = run_dir, stream
        self._first: Event | None = None
        self._finished: events.Finished | None = None
        self._plain: Progress | None = None  # takes over if the panel fails
        self._errors: CaughtErrors | None = None
        self._stopping, self._failed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-train-panel", daemon=True)

    def __call__(self, event: Event) -> None:
        """Take one event, which is already in the run folder."""
        if self._first is None:
            self._begin(event)
        elif self._failed.is_set() and self._plain is None:
            self._plain = Progress(self._run_dir, self._stream)
            self._plain(self._first)
        if self._plain:
            self._plain(event)
        elif isinstance(event, events.Finished):
            self._finished = event

    def close(self) -> None:
        """Leave the last panel on the terminal, with the summary below it."""
        if self._thread.ident is None:
            return
        if self._errors:
            self._errors.close()  # wakes the thread
        self._stopping.set()
        self._thread.join()
        if self._finished:
            show(finished_text(self._finished, self._run_dir), self._stream)

    def _begin(self, event: Event) -> None:
        self._first = event
        if isinstance(event, events.Finished):  # the run was already finished
            self._plain = Progress(self._run_dir, self._stream)
        else:
            self._errors = CaughtErrors()
            self._thread.start()

    def _run(self) -> None:
        assert self._errors
        try:
            self._draw_until_closed(self._errors)
        except Exception as error:  # noqa: BLE001 - the run continues without its panel
            self._failed.set()
            self._errors.close()
            if caught := self._errors.drain():
                say(caught.removesuffix("\n"))
            logger.warning("the panel stopped: %s. Plain lines from here on.", error)

    def _draw_until_closed(self, errors: CaughtErrors) -> None:
        follower, screen = Follower(open_run(self._run_dir)), Screen(self._stream)
        above = ""
        while not self._stopping.is_set():
            follower.poll()
            draw(screen, follower.status, self._run_dir, above)
            above = errors.read(_EVERY_S)
        follower.poll()
        draw(screen, follower.status, self._run_dir, above + errors.drain())
