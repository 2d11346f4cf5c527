"""Limits at run time: temperature, memory pressure and mean power.

`Throttle` lowers a ceiling over the rungs, and raises it again, slower after each time it was
lowered. `IdlePacer` decides when to idle. Clock: seconds that are arguments. Units:
seconds, joules, watts, degrees Celsius, bytes, percent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import MEMORY, POWER, TEMPERATURE, Limit, flag_text
from edge_runtime.planning.ledger import Ledger
from edge_runtime.units import bytes_text, duration_text, power_text, temperature_text

NEAR_C = 1.0  # below the limit: switch to a rung that draws less
COOL_C = 3.0  # below the limit: continue, or step up
_PRESSURE = 10.0  # percent of time that programs wait for memory
_NO_PRESSURE = 2.0
_DRAWS_LESS = 0.85  # a rung is cooler than another below this share of its power
_ROOM = 1.02  # times its peak must be free or held, for a rung to go on
SHORT_S = 1.0  # of too little memory for any rung end the run: one reading may be wrong
_EFFECT_S = 10.0  # until a lower rung takes effect
_FIRST_HOLD_S, _LONGEST_HOLD_S = 20.0, 320.0

_BURST_S = 10.0  # of training between two pauses for the mean power
_SHORTEST_S, _LONGEST_S = 0.1, 30.0  # then the reading is checked again
_COOLING_S = 1.0
_PATIENCE_S = 1800.0  # of pauses without a step between them


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The board's present readings. `None` is unknown."""

    power_w: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    held_bytes: int | None = None  # by the process tree, with its share of GPU memory
    room_bytes: int | None = None  # that it may hold, now or soon: this, and what is free
    memory_pressure: float | None = None  # PSI "some avg10", 0 to 100


class Throttle:
    """The ceiling over the rungs."""

    def __init__(self, costs: Sequence[RungCost], budget: Budget) -> None:
        """Start without a ceiling.

        Args:
            costs: of the rungs that may be trained, fewest token-blocks first.
            budget: its memory and temperature.
        """
        self._costs, self._budget = list(costs), budget
        self._top = len(costs) - 1
        self._lowered_s = self._hold_until_s = float("-inf")
        self._hold_s = _FIRST_HOLD_S
        self._room_bytes: int | None = None  # of free memory, where it was too little
        self._short_since_s = math.inf  # for the present rung
        self.too_hot = False  # has to cool down before the next step
        self.reason = ""  # reason for the present ceiling

    @property
    def allowed(self) -> list[RungCost]:
        """Costs of the rungs below the ceiling; empty if even the smallest is too large."""
        below = self._costs[: self._top + 1]
        if self._room_bytes is None:
            return below
        return [cost for cost in below if _fits(cost, self._room_bytes)]

    def watch(
        self, now_s: float, rung: str, reading: Reading, power_w: Mapping[str, float | None]
    ) -> None:
        """Record a reading while `rung` is trained; `power_w` is the power of each rung."""
        self._note_heat(reading.temperature_c)
        rungs = [cost.rung for cost in self._costs]
        if rung not in rungs:  # already excluded; the switch is pending
            return
        place = rungs.index(rung)
        used, limit = reading.held_bytes, self._budget.memory_bytes
        room_bytes = reading.room_bytes
        if room_bytes is None or _fits(self._costs[place], room_bytes):
            self._short_since_s = math.inf
        if used is not None and limit is not None and used > limit:
            self._leave(place, now_s, used, limit)
        elif room_bytes is not None and not _fits(self._costs[place], room_bytes):
            self._shrink(room_bytes, now_s)
        elif heat := self._heat(reading):
            self._lower(self._cooler(place, power_w), now_s, heat)
        elif (pressure := reading.memory_pressure) is not None and pressure >= _PRESSURE:
            reason = f"programs wait for memory {pressure:.0f}% of the time"
            self._lower(self._smaller(place), now_s, reason)
        elif self._is_quiet(reading) and now_s >= self._hold_until_s:
            self._relax(room_bytes)
            self._top = min(self._top + 1, len(self._costs) - 1)
            self._hold_until_s = now_s + _FIRST_HOLD_S

    def exclude(self, rung: str, reason: str) -> bool:
        """Exclude a rung and all that are not smaller; whether any is left."""
        here = next(cost for cost in self._costs if cost.rung == rung)
        self._keep([cost for cost in self._costs if _is_smaller(cost, here)])
        self.reason = reason
        return bool(self._costs)

    def _note_heat(self, temperature_c: float | None) -> None:
        limit_c = self._budget.temperature_c
        if temperature_c is None or limit_c is None:
            return  # unknown: unchanged
        if temperature_c >= limit_c:
            self.too_hot = True
        elif temperature_c <= limit_c - COOL_C:
            self.too_hot = False

    def _heat(self, reading: Reading) -> str | None:
        limit_c, now_c = self._budget.temperature_c, reading.temperature_c
        if limit_c is not None and now_c is not None and now_c >= limit_c - NEAR_C:
            near = "over" if now_c > limit_c else "close to"
            return f"{temperature_text(now_c)} is {near} {flag_text(TEMPERATURE, limit_c)}"
        return "the board is throttled" if reading.throttled else None

    def _is_quiet(self, reading: Reading) -> bool:
        limit_c, now_c = self._budget.temperature_c, reading.temperature_c
        warm = limit_c is not None and (now_c is None or now_c > limit_c - COOL_C)
        return not warm and (reading.memory_pressure or 0.0) <= _NO_PRESSURE

    def _leave(self, place: int, now_s: float, used: int, limit: int) -> None:
        """Exclude this rung permanently, and all that need at least as much memory."""
        if now_s - self._lowered_s < _EFFECT_S:
            return
        here = self._costs[place].need_bytes
        self._keep(
            [
                cost
                for cost in self._costs
                if here is not None and cost.need_bytes is not None and cost.need_bytes < here
            ]
        )
        self._lowered_s = now_s
        self.reason = f"{bytes_text(used)} is over {flag_text(MEMORY, limit)}"

    def _keep(self, costs: list[RungCost]) -> None:
        allowed, self._costs = self._costs[: self._top + 1], costs
        # Heat may have lowered the ceiling further.
        self._top = sum(cost in allowed for cost in costs) - 1

    def _shrink(self, room_bytes: int, now_s: float) -> None:
        """Allow only what fits into free memory; if nothing does for a while, nothing."""
        smallest = min(map(_least_room_bytes, self._costs), default=0)
        self._short_since_s = min(self._short_since_s, now_s)
        is_long = now_s - self._short_since_s >= SHORT_S
        self._room_bytes = room_bytes if is_long else max(room_bytes, smallest)
        self._hold(now_s)
        self.reason = f"other programs leave only {bytes_text(room_bytes)} of memory to it"

    def _relax(self, room_bytes: int | None) -> None:
        """Allow again what fits into free memory with its margin."""
        needs = [cost.need_bytes or 0 for cost in self._costs]
        if room_bytes is None or max(needs, default=0) <= room_bytes:
            self._room_bytes = None
        elif self._room_bytes is not None:
            fitting = [
                _least_room_bytes(cost)
                for cost in self._costs
                if (cost.need_bytes or 0) <= room_bytes
            ]
            self._room_bytes = max([self._room_bytes, *fitting])

    def _hold(self, now_s: float) -> None:
        """Raise nothing for a while, longer each time."""
        self._lowered_s, self._hold_until_s = now_s, now_s + self._hold_s
        self._hold_s = min(2 * self._hold_s, _LONGEST_HOLD_S)

    def _lower(self, place: int | None, now_s: float, reason: str) -> None:
        if place is None or place >= self._top or now_s - self._lowered_s < _EFFECT_S:
            return
        self._top, self.reason = place, reason
        self._hold(now_s)

    def _cooler(self, place: int, power_w: Mapping[str, float | None]) -> int | None:
        """The next lower rung that draws less; on a busy processor there may be none."""
        here_w = power_w[self._costs[place].rung]
        for lower in range(place - 1, -1, -1):
            there_w = power_w[self._costs[lower].rung]
            if here_w is None or there_w is None or there_w <= _DRAWS_LESS * here_w:
                return lower
        return None

    def _smaller(self, place: int) -> int | None:
        """The next lower rung that needs less memory."""
        here = self._costs[place].need_bytes
        for lower in range(place - 1, -1, -1):
            there = self._costs[lower].need_bytes
            if here is None or there is None or there < here:
                return lower
        return None


def _is_smaller(cost: RungCost, other: RungCost) -> bool:
    """By predictions: of a GPU's memory, the process's peak may show nothing."""
    here, there = cost.predicted_peak_bytes, other.predicted_peak_bytes
    return here is not None and there is not None and here < there


def _fits(cost: RungCost, room_bytes: int) -> bool:
    """Whether a rung may go on in that memory; one with an unknown peak may."""
    return _least_room_bytes(cost) <= room_bytes


def _least_room_bytes(cost: RungCost) -> int:
    """Its peak and a little more: readings come once a second. 0 if unknown."""
    return math.ceil(_ROOM * (cost.likely_peak_bytes or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Idle for this time, for that limit."""

    pause_s: float
    limit: Limit
    reason: str
    is_hopeless: bool  # pausing was tried for long enough


class IdlePacer:
    """Decides when to pause, and detects when pausing does not help."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._limit: Limit | None = None  # the limit for which it is pausing
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
            ledger: spent totals.
            cost: of the next step.
            left: steps, this one included.
            now_s: monotonic.
            too_hot: whether the board has to cool down.
        """
        need = self._cooling() if too_hot else self._idling(ledger, cost, left)
        if need is None:
            self._limit = None
            return None
        limit, pause_s, reason = need
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
        """The longest pause that leaves time to end the run."""
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
        """A pause that keeps the mean power below the limit for some steps."""
        power_w, overhead = self._budget.power_w, ledger.rest()
        if power_w is None or overhead.fixed_j is None or cost.step_j is None:
            return None
        step_s = cost.step_s or 0.0
        ahead_j = (
            overhead.fixed_j - power_w * overhead.fixed_s
        )  # of the energy that the limit allows
        per_step_j = cost.step_j - power_w * step_s
        if ahead_j + per_step_j * (1 if per_step_j > 0 else left) <= 0:
            return None
        burst = min(left, max(1, int(_BURST_S / step_s))) if per_step_j > 0 else left
        below_w = power_w - (overhead.idle_w or 0.0)
        pause_s = (ahead_j + per_step_j * burst) / below_w if below_w > 0 else _LONGEST_S
        mean = power_text(overhead.fixed_j / overhead.fixed_s)
        reason = f"a mean of {mean} so far: idle to stay below {flag_text(POWER, power_w)}"
        return POWER, pause_s, reason
