"""Sums over the records of a run up to a checkpoint, which holds them.

Who continues or watches a run of weeks need not read its records from the beginning.
"""

from dataclasses import dataclass, field
from typing import Annotated

from edge_runtime.records.spending import Spending
from edge_runtime.schema import Float32, NonNegativeInt, Range

LossSum = Annotated[float, Range(ge=-1e300, le=1e300)]


@dataclass(slots=True, kw_only=True)
class Losses:
    """Losses of the present epoch, of the last step, and of steps that changed nothing."""

    count: NonNegativeInt = 0  # of those that are finite
    sum: LossSum = 0.0
    last: Float32 | None = None  # None: not finite, or no step yet
    skipped: NonNegativeInt = 0  # updates of the run, because gradients were not finite
    skipped_in_a_row: NonNegativeInt = 0  # until the last step

    def add(self, loss: float | None, *, applied: bool = True) -> None:
        """Add the loss of a step; `None`: not finite."""
        self.last = loss
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1
        if loss is not None:
            self.count += 1
            self.sum += loss

    def begin_epoch(self) -> None:
        """Start again; the last one is kept."""
        self.count, self.sum = 0, 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a checkpoint knows of the records before it."""

    power_bytes: NonNegativeInt = 0  # length of power.jsonl
    spending: Spending = field(default_factory=Spending)  # by these lines
    losses: Losses = field(default_factory=Losses)
