"""Seconds and joules of all processes of a run, sample by sample.

Joules of a process are those of its newest sample that has them. Without one they are `None`,
and so is a sum with them.
"""

from typing import Any

from edge_runtime.errors import RecordsError
from edge_runtime.records.power import PowerRecord
from edge_runtime.schema import structure


class Spending:
    """Time and energy until the newest sample."""

    def __init__(self) -> None:
        self._process: int | None = None
        self._before_s = 0.0  # by the previous processes
        self._before_j: float | None = 0.0
        self._t_s = 0.0
        self._energy_j: float | None = None

    def add(self, process: int, t_s: float, energy_j: float | None) -> None:
        """Add one sample; the samples of a process come in order."""
        if process != self._process:
            if self._process is not None:
                self._before_s, self._before_j = self.time_s, self.energy_j
            self._process, self._energy_j = process, None
        self._t_s = t_s
        if energy_j is not None:
            self._energy_j = energy_j

    @property
    def time_s(self) -> float:
        """Of all processes, each from its start to its last sample."""
        return self._before_s + self._t_s

    @property
    def energy_j(self) -> float | None:
        """Gross, of the board's total."""
        if self._energy_j is None or self._before_j is None:
            return None
        return self._before_j + self._energy_j

    @property
    def process(self) -> int:
        """The number of the last one; 0 if there is none."""
        return self._process or 0


def add_table(spending: Spending, table: dict[str, Any]) -> None:
    """Add a line of power.jsonl.

    Only three of its fields are checked; checking all would take five times as long.

    Raises:
        RecordsError: they are wrong.
    """
    process, t_s, energy_j = table.get("process"), table.get("t_s"), table.get("energy_j", "")
    if not (
        isinstance(process, int)
        and isinstance(t_s, float | int)
        and (energy_j is None or isinstance(energy_j, float | int))
    ):
        structure(
            PowerRecord, table, where="power.jsonl", error=RecordsError
        )  # raises with all problems
        return
    spending.add(process, t_s, energy_j)
