"""What a run has spent, the observed costs of steps, and the remaining budget.

No clock: durations and totals are arguments. Units: seconds, joules, watts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_runtime.facts import Budget, RungCost, Spent
from edge_runtime.facts.budget import ENERGY, TIME, Limit
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.mix import Mix, Workload
from edge_runtime.planning.objective import TOKEN_BLOCKS, Objective, is_as_good
from edge_runtime.planning.path import steady_path
from edge_runtime.units import duration_text, energy_text

_MEMORY_S = 20.0  # of training; older steps count less
_PRIOR_S = 0.3  # of training: weight of the profile
_SETTLING_S = 10.0  # of training after a switch, unless something changes
_SETTLED_S = 3.0  # of training since the board last changed
_MOST_OWN = 1.15
_RECENT_S = 2.0
_CHANGE = 0.2  # mean relative error of recent steps that shows a change
_LARGEST_JUMP = 4.0  # limits the effect of one step that hangs

_DUTY_MEMORY_S = 120.0

_RESERVE = (
    0.01  # of the remaining budget, and one step: against costs that rise towards the end
)
_LATER = 0.1  # of the remaining steps: may use lower rungs later, instead of stepping down now
_AS_GOOD = 0.98  # of the value


@dataclass(slots=True)
class _Ratio:
    """A mean over recent observations."""

    value: float = 1.0
    seen_s: float = _PRIOR_S

    def move(self, change: float, duration_s: float) -> None:
        seen_s = self.seen_s + duration_s
        self.value *= 1 + change * duration_s / seen_s
        self.seen_s = min(seen_s, _MEMORY_S)


class Drift:
    """Ratio of observed to profiled cost, for one kind of cost, learnt during a run.

    It has two factors: one of the board, which another program or a hot day changes for every
    rung, and one of the rung, whose profile may be wrong. A difference from the first step
    on, or a change while a rung is trained, is attributed to the board; a difference right
    after a switch to the rung.
    """

    def __init__(self) -> None:
        self._board = _Ratio()
        self._own: dict[str, _Ratio] = {}
        self._rung: str | None = None
        self._settling_s = 0.0
        self._surprise = 0.0  # mean relative error of recent steps

    @property
    def of_board(self) -> float:
        """The factor of the board: for everything that it does."""
        return self._board.value

    def ratio(self, rung: str) -> float:
        """Observed cost of that rung over the profile's."""
        return self._board.value * self._own.get(rung, _Ratio()).value

    def observe(self, rung: str, ratio: float, duration_s: float) -> None:
        """Record one step: its observed cost over the profile's, and its expected duration."""
        if rung != self._rung:
            is_known = self._rung is not None and self._board.seen_s >= _SETTLED_S
            self._settling_s = _SETTLING_S if is_known else 0.0
            self._rung, self._surprise = rung, 0.0
        most = _LARGEST_JUMP
        change = min(max(ratio / self.ratio(rung), 1 / most), most) - 1
        self._surprise += (change - self._surprise) * -math.expm1(-duration_s / _RECENT_S)
        own = self._own.setdefault(rung, _Ratio())
        # Rungs were measured together: a single one cannot be far off.
        is_board = own.value >= _MOST_OWN if change > 0 else own.value <= 1 / _MOST_OWN
        if self._settling_s > 0 and not is_board:
            own.move(change, duration_s)
            own.value = min(max(own.value, 1 / _MOST_OWN), _MOST_OWN)
        else:
            self._board.move(change, duration_s)
        self._settling_s -= duration_s
        if abs(self._surprise) > _CHANGE:
            # The next step begins a new mean, of the board: a rung does not change.
            self._board.seen_s = self._settling_s = self._surprise = 0.0


class Ledger:
    """Totals until now, and the profile's costs corrected by observations."""

    def __init__(self, costs: Sequence[RungCost], overhead: Overhead) -> None:
        self._costs = {cost.rung: cost for cost in costs}
        self._overhead = overhead
        self._time, self._energy = Drift(), Drift()
        self._trained_s, self._cooled_s = 1.0, 0.0  # lately
        self.time_s = 0.0
        self.energy_j: float | None = None

    def update(self, spent: Spent, rung: str | None, *, cooling: bool) -> None:
        """Record the totals.

        Energy that was not measured is taken to be that of the rung in training, or of the
        highest-power one; without any profiled energy it is unknown.

        Args:
            spent: until now.
            rung: trained since the last time.
            cooling: whether that time was a pause for the temperature.
        """
        passed_s = max(0.0, spent.time_s - self.time_s)
        if spent.energy_j is not None:
            self.energy_j = spent.energy_j
        else:
            power_w = self._power_w(rung)
            before_j = self.energy_j or 0.0
            self.energy_j = None if power_w is None else before_j + power_w * passed_s
        self.time_s = spent.time_s
        if rung is None:  # the time before the first step was not training
            return
        kept = math.exp(-passed_s / _DUTY_MEMORY_S)
        self._trained_s = self._trained_s * kept + (0.0 if cooling else passed_s)
        self._cooled_s = self._cooled_s * kept + (passed_s if cooling else 0.0)

    def observe(self, rung: str, step_s: float, step_j: float | None) -> None:
        """Record one step that did not load its rung."""
        cost = self._costs[rung]
        if not cost.step_s:
            return
        expected_s = cost.step_s * self._time.ratio(rung)
        self._time.observe(rung, step_s / cost.step_s, expected_s)
        if step_j is not None and cost.step_j:
            self._energy.observe(rung, step_j / cost.step_j, expected_s)

    def cost(self, rung: str) -> RungCost:
        """Present costs of a step of that rung, with its share of pauses to cool down."""
        cost = self._costs[rung]
        step_s = (cost.step_s or 0.0) * self._time.ratio(rung)
        step_j = None if cost.step_j is None else cost.step_j * self._energy.ratio(rung)
        cooling_s = step_s * self._cooled_s / max(self._trained_s, 0.05 * self._cooled_s, 1e-9)
        if step_j is not None:
            step_j += cooling_s * (self._overhead.idle_w or 0.0)
        return replace(cost, step_s=step_s + cooling_s, step_j=step_j)

    def ratios(self, rung: str) -> tuple[float, float]:
        """Observed over profiled time and energy of a step."""
        return self._time.ratio(rung), self._energy.ratio(rung)

    def power_w(self) -> dict[str, float | None]:
        """Present power of each rung."""
        return {rung: self._power_w(rung) for rung in self._costs}

    def _power_w(self, rung: str | None) -> float | None:
        if rung is None:
            powers = [self._power_w(each) for each in self._costs]
            return max((power for power in powers if power is not None), default=None)
        cost = self._costs[rung]
        if cost.step_j is None or not cost.step_s:
            return None
        return cost.step_j * self._energy.ratio(rung) / cost.step_s / self._time.ratio(rung)

    def rest(self) -> Overhead:
        """The overhead of the remaining steps, with spent totals instead of the start-up.

        A board that trains slower than its profile also loads, saves and ends slower. The
        reverse does not hold for a disk.
        """
        overhead = self._overhead
        slower, dearer = max(1.0, self._time.of_board), max(1.0, self._energy.of_board)
        return replace(
            overhead,
            startup_s=self.time_s,
            startup_j=self.energy_j,
            switch_s=slower * overhead.switch_s,
            switch_j=_times(dearer, overhead.switch_j),
            checkpoint_s=slower * overhead.checkpoint_s,
            checkpoint_j=_times(dearer, overhead.checkpoint_j),
        )

    def drift_text(self, rung: str) -> str:
        """The deviation from the profile, for people; empty if there is none."""
        parts = [
            f"{ratio:.2f} of its {kind}"
            for kind, ratio in zip(("time", "energy"), self.ratios(rung), strict=True)
            if abs(ratio - 1) > 0.05
        ]
        return f"; against the profile a step takes {' and '.join(parts)}" if parts else ""


class RemainingBudget:
    """The remaining budget: the mixes that fit into it, and how many steps of a rung."""

    def __init__(
        self,
        budget: Budget,
        ledger: Ledger,
        *,
        steps: int,
        objective: Objective = TOKEN_BLOCKS,
    ) -> None:
        """`steps` are those of the whole run."""
        self._budget, self._ledger = budget, ledger
        self._steps, self._objective = steps, objective

    def plan(
        self,
        rungs: Sequence[str],
        steps: int,
        *,
        loaded: str | None,
        rest: Overhead | None = None,
    ) -> Mix | None:
        """The best mix of these rungs for the remaining steps, if possible with a reserve."""
        workload = Workload(
            costs=tuple(self._ledger.cost(rung) for rung in rungs),
            steps=steps,
            overhead=rest or self._ledger.rest(),
            loaded=loaded,
            objective=self._objective,
            done=self._steps - steps,
        )
        return steady_path(workload, self._with_reserve(loaded)) or steady_path(
            workload, self._budget
        )

    def is_as_good_on(self, rung: str, mix: Mix, rungs: Sequence[str], steps: int) -> bool:
        """Whether the mix can wait: most steps on the loaded rung, and a plan for the rest."""
        later = int(_LATER * steps)
        now, cost = steps - later, self._ledger.cost(rung)
        done = self._steps - steps
        value = float(self._objective.value(cost, done, done + now, self._steps))
        if later:
            rest = _after(self._ledger.rest(), cost, now)
            tail = self.plan(rungs, later, loaded=rung, rest=rest)
            if tail is None:
                return False
            value += tail.value
        elif self.reach(rung, loaded=rung)[0] < now:
            return False
        return is_as_good(value, mix.value, _AS_GOOD)

    def reach(self, rung: str, *, loaded: str | None) -> tuple[float, Limit | None]:
        """Steps on one rung that time and energy allow, and the limit that ends them.

        The last checkpoint is reserved.
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
                least = min(least, (room / step, limit), key=lambda reach: reach[0])
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
        """The spent part of each limited amount."""
        amounts = ((ENERGY, self._ledger.energy_j), (TIME, self._ledger.time_s))
        return [
            (limit, amount)
            for limit, amount in amounts
            if amount is not None and self._budget.value(limit) is not None
        ]


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _after(rest: Overhead, cost: RungCost, steps: int) -> Overhead:
    """The overhead after these steps."""
    startup_j = rest.startup_j
    if startup_j is not None:
        startup_j = None if cost.step_j is None else startup_j + steps * cost.step_j
    startup_s = rest.startup_s + steps * (cost.step_s or 0.0)
    return replace(rest, startup_s=startup_s, startup_j=startup_j)
