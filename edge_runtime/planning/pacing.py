"""Pauses: idling where training itself is too much for the mean power or the temperature.

Clock: seconds that come in as arguments. Units: seconds, joules, watts, degrees Celsius.
"""

import math
from dataclasses import dataclass

from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import POWER, TEMPERATURE, Limit, flag_text
from edge_runtime.planning.caution import COOL_C
from edge_runtime.planning.ledger import Ledger
from edge_runtime.units import duration_text, power_text, temperature_text

_BURST_S = 10.0  # of training between two pauses for the mean power
_SHORTEST_S, _LONGEST_S = 0.1, 30.0  # then it looks again
_COOLING_S = 1.0
_PATIENCE_S = 1800.0  # of pauses without a step between them


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Idle so long, for that limit."""

    pause_s: float
    limit: Limit
    reason: str
    is_hopeless: bool  # it was tried for long enough


class Pacing:
    """Says when to pause, and when pausing does not help."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._limit: Limit | None = None  # what it is pausing for
        self._since_s = 0.0

    @property
    def is_cooling(self) -> bool:
        """Whether it is pausing for the temperature."""
        return self._limit is TEMPERATURE

    def pause(
        self,
        ledger: Ledger,
        cost: RungCost,
        left: int,
        now_s: float,
        *,
        too_hot: bool,
    ) -> Pause | None:
        """The pause before the next step, if it needs one.

        Args:
            ledger: what was spent.
            cost: of the next step.
            left: steps, this one included.
            now_s: monotonic.
            too_hot: whether the board has to cool down.
        """
        found = self._cooling() if too_hot else self._idling(ledger, cost, left)
        if found is None:
            self._limit = None
            return None
        limit, pause_s, reason = found
        if self._limit is None:
            self._since_s = now_s
        self._limit = limit
        waited_s = now_s - self._since_s
        if waited_s >= _PATIENCE_S:
            reason = f"{duration_text(waited_s)} of idling did not help: {reason}"
        return Pause(
            pause_s=min(max(pause_s, _SHORTEST_S), self._longest_s(ledger)),
            limit=limit,
            reason=reason,
            is_hopeless=waited_s >= _PATIENCE_S,
        )

    def _longest_s(self, ledger: Ledger) -> float:
        """A pause ends before the time is up."""
        time_s = self._budget.time_s
        end_s = math.inf if time_s is None else time_s - ledger.rest().fixed_s
        return max(0.0, min(_LONGEST_S, end_s))

    def _cooling(self) -> tuple[Limit, float, str]:
        limit_c = self._budget.temperature_c or 0.0
        reason = (
            f"idle from {flag_text(TEMPERATURE, limit_c)} down to "
            f"{temperature_text(limit_c - COOL_C)}"
        )
        return TEMPERATURE, _COOLING_S, reason

    def _idling(
        self, ledger: Ledger, cost: RungCost, left: int
    ) -> tuple[Limit, float, str] | None:
        """A pause that lets the mean power stay below the limit for some steps."""
        power_w, overhead = self._budget.power_w, ledger.rest()
        if power_w is None or overhead.fixed_j is None or cost.step_j is None:
            return None
        step_s = cost.step_s or 0.0
        ahead_j = overhead.fixed_j - power_w * overhead.fixed_s  # of what the limit allows
        per_step_j = cost.step_j - power_w * step_s
        if ahead_j + per_step_j * (1 if per_step_j > 0 else left) <= 0:
            return None
        burst = min(left, max(1, int(_BURST_S / step_s))) if per_step_j > 0 else left
        below_w = power_w - (overhead.idle_w or 0.0)
        pause_s = (ahead_j + per_step_j * burst) / below_w if below_w > 0 else _LONGEST_S
        mean = power_text(overhead.fixed_j / overhead.fixed_s)
        reason = f"a mean of {mean} so far: idle to stay below {flag_text(POWER, power_w)}"
        return POWER, pause_s, reason
