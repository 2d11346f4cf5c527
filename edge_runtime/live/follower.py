"""Keeps a `Status` up to date with a run folder, reading only what is new.

Of steps.jsonl only the end is read: all that counts of the steps before are their number. Of
power.jsonl what was written after the newest checkpoint, which knows the sums until then. So a
run of weeks opens as fast as a short one, and takes no memory.
"""

from edge_runtime.errors import RecordsError
from edge_runtime.live.status import Status
from edge_runtime.records import Run, logged_event
from edge_runtime.records.events import StepRecord
from edge_runtime.records.jsonl import CutError, LineReader
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.run import EVENTS_FILE, POWER_FILE, STEPS_FILE
from edge_runtime.records.spending import add_table
from edge_runtime.schema import structure

_TAIL_BYTES = 1 << 16  # some 200 steps


class Follower:
    """Reads one run folder."""

    def __init__(self, run: Run) -> None:
        """Read the newest sample.

        Raises:
            RecordsError: power.jsonl is missing or damaged.
        """
        totals = run.totals()
        self.run, self.status = run, Status(run.info, totals.spending)
        self._events = LineReader(run.path / EVENTS_FILE)
        self._power = LineReader(run.path / POWER_FILE, start_bytes=totals.power_bytes)
        self._steps = self._last_steps()
        newest = LineReader(run.path / POWER_FILE, tail_bytes=_TAIL_BYTES)
        for table in newest.read()[-1:]:
            self.status.add_sample(_sample(table))

    def poll(self) -> bool:
        """Take in what was written since the last time; whether there was anything.

        Raises:
            RecordsError: a file is missing, damaged, or another one than before.
        """
        # Events first: after one that says "finished" there are no more steps to read.
        return any([self._read_events(), self._read_steps(), self._read_power()])

    def _last_steps(self) -> LineReader:
        return LineReader(self.run.path / STEPS_FILE, tail_bytes=_TAIL_BYTES)

    def _read_events(self) -> bool:
        found = False
        while tables := self._events.read():
            found = True
            for table in tables:
                self.status.add_event(logged_event(table, where=EVENTS_FILE))
        return found

    def _read_steps(self) -> bool:
        found = False
        try:
            while tables := self._steps.read():
                found = True
                for table in tables:
                    self.status.add_step(_step(table))
        except CutError:  # a resumed run went back to a checkpoint
            self._steps = self._last_steps()
            return self._read_steps()
        return found

    def _read_power(self) -> bool:
        found = False
        while tables := self._power.read():
            found = True
            for table in tables:
                add_table(self.status.spending, table)
            self.status.add_sample(_sample(tables[-1]))
        return found


def _step(table: dict[str, object]) -> StepRecord:
    return structure(StepRecord, table, where=STEPS_FILE, error=RecordsError)


def _sample(table: dict[str, object]) -> PowerRecord:
    return structure(PowerRecord, table, where=POWER_FILE, error=RecordsError)
