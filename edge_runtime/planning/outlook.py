"""What the rest of a run can still be: plans and reach on what is left of the budget.

Units: seconds, joules.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import ENERGY, TIME, Limit
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.ledger import Ledger
from edge_runtime.planning.mix import Mix, Task, best_mix
from edge_runtime.units import duration_text, energy_text

_RESERVE = 0.01  # of what is left, and one step: against costs that rise towards the end
_LATER = 0.1  # of the steps left: may go to lower rungs later, instead of stepping down now
_AS_GOOD = 0.98  # of the token-blocks


class Outlook:
    """Sees a ledger against a budget."""

    def __init__(self, budget: Budget, ledger: Ledger) -> None:
        self._budget, self._ledger = budget, ledger

    def plan(
        self,
        rungs: Sequence[str],
        steps: int,
        *,
        loaded: str | None,
        rest: Overhead | None = None,
    ) -> Mix | None:
        """The best mix of these rungs for the steps to come, if possible with a reserve."""
        task = Task(
            costs=tuple(self._ledger.cost(rung) for rung in rungs),
            steps=steps,
            overhead=rest or self._ledger.rest(),
            loaded=loaded,
        )
        return best_mix(task, self._with_reserve(loaded)) or best_mix(task, self._budget)

    def is_as_good_on(self, rung: str, mix: Mix, rungs: Sequence[str], steps: int) -> bool:
        """Whether the mix can wait: most steps on this loaded rung, a plan for the last."""
        later = int(_LATER * steps)
        now, cost = steps - later, self._ledger.cost(rung)
        token_blocks = cost.token_blocks * now
        if later:
            rest = _after(self._ledger.rest(), cost, now)
            tail = self.plan(rungs, later, loaded=rung, rest=rest)
            if tail is None:
                return False
            token_blocks += tail.token_blocks
        elif self.reach(rung, loaded=rung)[0] < now:
            return False
        return token_blocks >= _AS_GOOD * mix.token_blocks

    def reach(self, rung: str, *, loaded: str | None) -> tuple[float, Limit | None]:
        """Steps on one rung that time and energy are enough for, and the limit that ends them.

        The last checkpoint is held back.
        """
        rest, cost = self._ledger.rest(), self._ledger.cost(rung)
        least: tuple[float, Limit | None] = (math.inf, None)
        for limit, fixed, switch, step in (
            (TIME, rest.fixed_s, rest.switch_s, cost.step_s),
            (ENERGY, rest.fixed_j, rest.switch_j, cost.step_j),
        ):
            value = self._budget.value(limit)
            if value is not None and fixed is not None and step:
                room = value - fixed - (0.0 if rung == loaded else switch or 0.0)
                least = min(least, (room / step, limit), key=lambda found: found[0])
        return least

    def left_text(self) -> str:
        """For example ` with 3.2 kJ and 12 min 0 s left`."""
        parts = []
        for limit, spent in self._spent():
            left = max(0.0, (self._budget.value(limit) or 0.0) - spent)
            parts.append(energy_text(left) if limit is ENERGY else duration_text(left))
        return f" with {' and '.join(parts)} left" if parts else ""

    def _with_reserve(self, loaded: str | None) -> Budget:
        budget = self._budget
        cost = None if loaded is None else self._ledger.cost(loaded)
        for limit, spent in self._spent():
            left = max(0.0, (budget.value(limit) or 0.0) - spent)
            reserve = _RESERVE * left
            if cost is not None:
                reserve += (cost.step_s if limit is TIME else cost.step_j) or 0.0
            if reserve < left:
                budget = budget.with_limit(limit, spent + left - reserve)
        return budget

    def _spent(self) -> list[tuple[Limit, float]]:
        """What is spent of each limited amount."""
        amounts = ((ENERGY, self._ledger.energy_j), (TIME, self._ledger.time_s))
        return [
            (limit, amount)
            for limit, amount in amounts
            if amount is not None and self._budget.value(limit) is not None
        ]


def _after(rest: Overhead, cost: RungCost, steps: int) -> Overhead:
    """The overhead of what comes after these steps."""
    startup_j = rest.startup_j
    if startup_j is not None:
        startup_j = None if cost.step_j is None else startup_j + steps * cost.step_j
    startup_s = rest.startup_s + steps * (cost.step_s or 0.0)
    return replace(rest, startup_s=startup_s, startup_j=startup_j)
