"""Seconds and joules of all processes of a run, sample by sample.

For each process the trapezoids between its samples that have a power, plus the time before
the first one at that one's power, as docs/run-folder.md says. Clock: seconds since the start
of a process. Joules of a process without a known power are `None`, and so is a sum with them.
"""

from typing import Any

from edge_runtime.errors import RecordsError
from edge_runtime.records.power import PowerRecord
from edge_runtime.schema import structure


class Spending:
    """What was spent until the newest sample."""

    def __init__(self) -> None:
        self._process: int | None = None
        self._before_s = 0.0  # by the processes before this one
        self._before_j: float | None = 0.0
        self._t_s = 0.0
        self._known: tuple[float, float] | None = None  # time and power of the last one
        self._process_j = 0.0

    def add(self, process: int, t_s: float, total_w: float | None) -> None:
        """Take one sample; those of a process come in their order."""
        if process != self._process:
            if self._process is not None:
                self._before_s, self._before_j = self.time_s, self.energy_j
            self._process, self._known, self._process_j = process, None, 0.0
        self._t_s = t_s
        if total_w is None:
            return
        since_s, since_w = self._known or (0.0, total_w)
        self._process_j += (t_s - since_s) * (since_w + total_w) / 2
        self._known = (t_s, total_w)

    @property
    def time_s(self) -> float:
        """Of all processes, each from its start to its last sample."""
        return self._before_s + self._t_s

    @property
    def energy_j(self) -> float | None:
        """Gross, of the board's total."""
        if self._known is None or self._before_j is None:
            return None
        return self._before_j + self._process_j

    @property
    def process(self) -> int:
        """The number of the last one; 0: there is none."""
        return self._process or 0


def add_table(spending: Spending, table: dict[str, Any]) -> None:
    """Add a line of power.jsonl.

    Three of its fields count; to check them all would take five times as long.

    Raises:
        RecordsError: they are wrong.
    """
    process, t_s, total_w = table.get("process"), table.get("t_s"), table.get("total_w", "")
    if not (
        isinstance(process, int)
        and isinstance(t_s, float | int)
        and (total_w is None or isinstance(total_w, float | int))
    ):
        structure(PowerRecord, table, where="power.jsonl", error=RecordsError)  # says what
        return
    spending.add(process, t_s, total_w)
