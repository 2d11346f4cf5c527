"""Seconds and joules of all processes of a run, sample by sample.

Joules of a process are those of its newest sample that has them. Without one they are `None`,
and so is a sum with them.
"""

from dataclasses import dataclass
from typing import Any, TypeGuard

from edge_runtime.errors import RecordsError
from edge_runtime.records.power import PowerRecord
from edge_runtime.schema import Joules, NonNegativeInt, Seconds, structure

_USUAL = 1e15  # less than the limits of the fields of a `PowerRecord`


@dataclass(slots=True, kw_only=True)
class Spending:
    """Time and energy until the newest sample."""

    process: NonNegativeInt = 0  # the number of the last one; 0: there is none
    before_s: Seconds = 0.0  # by the processes before it
    before_j: Joules | None = 0.0
    own_s: Seconds = 0.0  # by this process
    own_j: Joules | None = None

    def add(self, process: int, t_s: float, energy_j: float | None) -> None:
        """Add one sample; the samples of a process come in order."""
        if process != self.process:
            if self.process:
                self.before_s, self.before_j = self.time_s, self.energy_j
            self.process, self.own_j = process, None
        self.own_s = t_s
        if energy_j is not None:
            self.own_j = energy_j

    @property
    def time_s(self) -> float:
        """Of all processes, each from its start to its last sample."""
        return self.before_s + self.own_s

    @property
    def energy_j(self) -> float | None:
        """Gross, of the board's total."""
        if self.own_j is None or self.before_j is None:
            return None
        return self.before_j + self.own_j


def add_table(spending: Spending, table: dict[str, Any]) -> None:
    """Add a line of power.jsonl.

    Of a usual line only three fields are checked, since reading a file takes five times as
    long with all of them.

    Raises:
        RecordsError: one of the three is wrong.
    """
    process, t_s, energy_j = table.get("process"), table.get("t_s"), table.get("energy_j", "")
    if not (
        type(process) is int
        and 0 < process < _USUAL
        and _is_usual(t_s)
        and (energy_j is None or _is_usual(energy_j))
    ):
        record = structure(PowerRecord, table, where="power.jsonl", error=RecordsError)
        process, t_s, energy_j = record.process, record.t_s, record.energy_j
    spending.add(process, t_s, energy_j)


def _is_usual(number: Any) -> TypeGuard[float]:
    return type(number) in (int, float) and -_USUAL < number < _USUAL
