"""The events of a run, steps included, in the order in which they happened.

As `train` yielded them to the process that trained, read from the two files that keep them.
"""

import heapq
from collections.abc import Iterator
from typing import Any

from edge_runtime.errors import RecordsError
from edge_runtime.live.status import ENDINGS
from edge_runtime.records import Run, events, logged_event
from edge_runtime.records.events import Event, StepRecord
from edge_runtime.records.jsonl import CutError, LineReader
from edge_runtime.records.run import EVENTS_FILE, STEPS_FILE
from edge_runtime.schema import structure

_When = tuple[int, float]  # process, seconds since its start
_START: _When = (0, 0.0)


class Replay:
    """Reads one run folder, a block at a time: all its events, and its steps.

    `ended` is how the run ended, if it did and was not resumed: the one event that `poll`
    keeps back, since what was evaluated afterwards comes before the end here.
    """

    def __init__(self, run: Run, *, tail_bytes: int | None = None) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            run: its folder.
            tail_bytes: of steps.jsonl; earlier steps are left out. `None`: all steps.
        """
        self.run = run
        self.ended: Event | None = None
        self._tail_bytes = tail_bytes
        self._steps = self._step_reader()
        self._events = LineReader(run.path / EVENTS_FILE)
        self._held: list[tuple[_When, Event]] = []  # read, and not given out
        self._last_step = self._last_event = _START

    def poll(self) -> Iterator[Event]:
        """Those that were written since the last time.

        Raises:
            RecordsError: a file is missing, damaged, or another one than before.
        """
        while batch := self._next_batch():
            for event in batch:
                yield from self._without_end(event)

    def _next_batch(self) -> list[Event]:
        held = self._held
        steps, new = self._new_steps(), self._new_events()
        if not steps and not held:
            held, steps, new = new, self._new_steps(), self._new_events()
        # A step is written before the events that come after it. Steps that are read later
        # than an event are therefore all that there are before it; an event that is read
        # later than the steps may have to wait for more of them.
        known = held + new
        ready = [item for item in known if item[0] <= self._last_step] if steps else held
        self._held = known[len(ready) :]
        return [event for _, event in heapq.merge(steps, ready, key=lambda item: item[0])]

    def _without_end(self, event: Event) -> list[Event]:
        if isinstance(event, ENDINGS):
            self.ended = event
            return []
        if self.ended is not None and isinstance(event, events.Resumed):
            before, self.ended = self.ended, None
            return [before, event]
        return [event]

    def _new_steps(self) -> list[tuple[_When, Event]]:
        found: list[tuple[_When, Event]] = []
        while not found and (tables := self._step_tables()):
            for table in tables:
                record = structure(StepRecord, table, where=STEPS_FILE, error=RecordsError)
                when = (record.measured.process, record.measured.t_s)
                if when > self._last_step:
                    self._last_step = when
                    found.append((when, record))
        return found

    def _step_tables(self) -> list[dict[str, Any]]:
        try:
            return self._steps.read()
        except CutError:
            # A resumed run went back to a checkpoint; what was given out will be skipped.
            self._steps = self._step_reader()
            return self._steps.read()

    def _step_reader(self) -> LineReader:
        return LineReader(self.run.path / STEPS_FILE, tail_bytes=self._tail_bytes)

    def _new_events(self) -> list[tuple[_When, Event]]:
        found = []
        for table in self._events.read():
            _, moment, event = logged_event(table, where=EVENTS_FILE)
            if moment is not None:  # else of another process: it keeps its place
                self._last_event = (moment.process, moment.t_s)
            found.append((self._last_event, event))
        return found
