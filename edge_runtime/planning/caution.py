"""When a run has to hold back although its budget has room: heat and memory.

Lowers a ceiling over the rungs, and lifts it again, slower each time it was lowered. Clock:
seconds that come in as arguments. Units: degrees Celsius, bytes, percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import MEMORY, TEMPERATURE, flag_text
from edge_runtime.units import bytes_text, temperature_text

NEAR_C = 1.0  # below the limit: time for a rung that draws less
COOL_C = 3.0  # below the limit: time to go on, or up
_PRESSURE = 10.0  # percent of time that programs wait for memory
_NO_PRESSURE = 2.0
_DRAWS_LESS = 0.85  # below this share of power a rung is cooler than another
_EFFECT_S = 10.0  # until a lower rung shows
_FIRST_HOLD_S, _LONGEST_HOLD_S = 20.0, 320.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the board shows now. `None` is unknown."""

    power_w: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    rss_bytes: int | None = None  # of the process tree, with its share of GPU memory
    memory_pressure: float | None = None  # PSI "some avg10", 0 to 100


class Caution:
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
        self.too_hot = False  # has to cool down before the next step
        self.reason = ""  # why the ceiling is where it is

    @property
    def allowed(self) -> list[RungCost]:
        """Costs of the rungs below the ceiling; none where even the smallest is too large."""
        return self._costs[: self._top + 1]

    def watch(
        self, now_s: float, rung: str, reading: Reading, power_w: Mapping[str, float | None]
    ) -> None:
        """Take in a reading, while `rung` is trained; `power_w` is what each rung draws."""
        self._feel(reading.temperature_c)
        rungs = [cost.rung for cost in self._costs]
        if rung not in rungs:  # it was left for good, and the switch is yet to come
            return
        place = rungs.index(rung)
        used, limit = reading.rss_bytes, self._budget.memory_bytes
        if used is not None and limit is not None and used > limit:
            self._leave(place, now_s, used, limit)
        elif heat := self._heat(reading):
            self._lower(self._cooler(place, power_w), now_s, heat)
        elif (pressure := reading.memory_pressure) is not None and pressure >= _PRESSURE:
            reason = f"programs wait for memory {pressure:.0f}% of the time"
            self._lower(self._smaller(place), now_s, reason)
        elif self._is_quiet(reading) and now_s >= self._hold_until_s:
            self._top = min(self._top + 1, len(self._costs) - 1)
            self._hold_until_s = now_s + _FIRST_HOLD_S

    def _feel(self, temperature_c: float | None) -> None:
        limit_c = self._budget.temperature_c
        if temperature_c is None or limit_c is None:
            return  # unknown: as it was
        if temperature_c >= limit_c:
            self.too_hot = True
        elif temperature_c <= limit_c - COOL_C:
            self.too_hot = False

    def _heat(self, reading: Reading) -> str | None:
        limit_c, found_c = self._budget.temperature_c, reading.temperature_c
        if limit_c is not None and found_c is not None and found_c >= limit_c - NEAR_C:
            near = "over" if found_c > limit_c else "close to"
            return f"{temperature_text(found_c)} is {near} {flag_text(TEMPERATURE, limit_c)}"
        return "the board is throttled" if reading.throttled else None

    def _is_quiet(self, reading: Reading) -> bool:
        limit_c, found_c = self._budget.temperature_c, reading.temperature_c
        warm = limit_c is not None and (found_c is None or found_c > limit_c - COOL_C)
        return not warm and (reading.memory_pressure or 0.0) <= _NO_PRESSURE

    def _leave(self, place: int, now_s: float, used: int, limit: int) -> None:
        """Never train this rung again, nor one that needs as much."""
        if now_s - self._lowered_s < _EFFECT_S:
            return
        here, allowed = self._costs[place].need_bytes, self.allowed
        self._costs = [
            cost
            for cost in self._costs
            if here is not None and cost.need_bytes is not None and cost.need_bytes < here
        ]
        # Heat may have lowered the ceiling: it stays above those that it left.
        self._top = sum(cost in allowed for cost in self._costs) - 1
        self._lowered_s = now_s
        self.reason = f"{bytes_text(used)} is over {flag_text(MEMORY, limit)}"

    def _lower(self, place: int | None, now_s: float, reason: str) -> None:
        if place is None or place >= self._top or now_s - self._lowered_s < _EFFECT_S:
            return
        self._top, self._lowered_s, self.reason = place, now_s, reason
        self._hold_until_s = now_s + self._hold_s
        self._hold_s = min(2 * self._hold_s, _LONGEST_HOLD_S)

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
