"""The limits of a budget as linear constraints on the counts of steps. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.facts import Budget, RungCost
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.objective import Numbers

_SLACK = 1e-9  # of a limit, for rounding
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Constraint:
    """`sum(use * counts) + fixed + per_choice * (choices that are switched to) <= limit`."""

    use: Numbers  # (R,) per step
    fixed: float
    per_choice: float
    limit: float

    @property
    def room(self) -> float:
        """What the steps and switches may use."""
        return self.limit + _SLACK * abs(self.limit) - self.fixed


def constraints_of(
    costs: Sequence[RungCost], budget: Budget, *, overhead: Overhead, steps: int
) -> list[Constraint]:
    """The limits on the counts of steps of these rungs, whose costs are known.

    Args:
        costs: of R rungs.
        budget: limits of the total.
        overhead: of the run, besides its steps.
        steps: the sum of the counts.
    """
    step_s = np.array([cost.step_s for cost in costs], np.float64)
    time_s, energy_j = budget.time_s, budget.energy_j
    fixed_s, fixed_j = overhead.fixed_s, overhead.fixed_j or 0.0
    constraints = []
    if time_s is not None:
        constraints.append(Constraint(step_s, fixed_s, overhead.switch_s, time_s))
    if not budget.needs_energy:
        return constraints
    step_j = np.array([cost.step_j for cost in costs], np.float64)
    switch_j = overhead.switch_j or 0.0
    if energy_j is not None:
        constraints.append(Constraint(step_j, fixed_j, switch_j, energy_j))

    def above(power_w: float, limit_j: float) -> Constraint:
        """The energy above that power must stay below the limit."""
        return Constraint(
            step_j - power_w * step_s,
            fixed_j - power_w * fixed_s,
            max(0.0, switch_j - power_w * overhead.switch_s),
            limit_j,
        )

    if (power_w := budget.power_w) is None:
        return constraints
    idle_w = overhead.idle_w
    if idle_w is None or idle_w >= power_w:  # waiting does not help
        return [
            *constraints,
            above(power_w, _ROUNDING * power_w * steps * step_s.min()),
        ]
    # With the wait that brings the mean down to `power_w`, the whole takes
    # above(idle_w) / (power_w - idle_w) seconds, at `power_w`.
    if time_s is not None:
        constraints.append(above(idle_w, time_s * (power_w - idle_w)))
    if energy_j is not None:
        constraints.append(above(idle_w, energy_j * (power_w - idle_w) / power_w))
    return constraints
