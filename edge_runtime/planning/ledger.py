"""What a run has spent, and what the steps to come will really cost.

No clock: durations and totals come in. Units: seconds, joules, watts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from edge_runtime.facts import RungCost, Spent
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.drift import Drift

_DUTY_MEMORY_S = 120.0


class Ledger:
    """Totals until now, and the profile's costs corrected by what was observed."""

    def __init__(self, costs: Sequence[RungCost], overhead: Overhead) -> None:
        self._costs = {cost.rung: cost for cost in costs}
        self._overhead = overhead
        self._time, self._energy = Drift(), Drift()
        self._observed: str | None = None  # the rung of the step before
        self._trained_s, self._cooled_s = 1.0, 0.0  # lately
        self.time_s = 0.0
        self.energy_j: float | None = None

    def update(self, spent: Spent, rung: str | None, *, cooling: bool) -> None:
        """Take in the totals.

        Energy that nobody measured is taken to be that of the rung in training, or of the
        hungriest one; without any profiled energy it stays unknown.

        Args:
            spent: until now.
            rung: trained since the last time.
            cooling: whether that time went into a pause for the temperature.
        """
        passed_s = max(0.0, spent.time_s - self.time_s)
        if spent.energy_j is not None:
            self.energy_j = spent.energy_j
        elif (power_w := self._power_w(rung)) is not None:
            self.energy_j = (self.energy_j or 0.0) + power_w * passed_s
        self.time_s = spent.time_s
        if rung is None:  # the time before the first step was no training
            return
        kept = math.exp(-passed_s / _DUTY_MEMORY_S)
        self._trained_s = self._trained_s * kept + (0.0 if cooling else passed_s)
        self._cooled_s = self._cooled_s * kept + (passed_s if cooling else 0.0)

    def observe(self, rung: str, step_s: float, step_j: float | None) -> None:
        """Take in one step; the first after a switch loads the rung and says nothing."""
        known, cost = rung == self._observed, self._costs[rung]
        self._observed = rung
        if not known or not cost.step_s:
            return
        expected_s = cost.step_s * self._time.ratio(rung)
        self._time.observe(rung, step_s / cost.step_s, expected_s)
        if step_j is not None and cost.step_j:
            self._energy.observe(rung, step_j / cost.step_j, expected_s)

    def cost(self, rung: str) -> RungCost:
        """What a step of that rung takes now, with its share of pauses to cool down."""
        cost = self._costs[rung]
        step_s = (cost.step_s or 0.0) * self._time.ratio(rung)
        step_j = None if cost.step_j is None else cost.step_j * self._energy.ratio(rung)
        cooling_s = step_s * self._cooled_s / max(self._trained_s, 0.05 * self._cooled_s, 1e-9)
        if step_j is not None:
            step_j += cooling_s * (self._overhead.idle_w or 0.0)
        return replace(cost, step_s=step_s + cooling_s, step_j=step_j)

    def ratios(self, rung: str) -> tuple[float, float]:
        """Real over profiled time and energy of a step."""
        return self._time.ratio(rung), self._energy.ratio(rung)

    def power_w(self) -> dict[str, float | None]:
        """What each rung draws now."""
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
        """The overhead of the steps to come: what is spent stands for the start-up."""
        return replace(self._overhead, startup_s=self.time_s, startup_j=self.energy_j)

    def drift_text(self, rung: str) -> str:
        """How far off the profile is, for people; empty where it is not."""
        parts = [
            f"{ratio:.2f} of its {kind}"
            for kind, ratio in zip(("time", "energy"), self.ratios(rung), strict=True)
            if abs(ratio - 1) > 0.05
        ]
        return f"; against the profile a step takes {' and '.join(parts)}" if parts else ""
