"""Selects the rung of the next step, by a schedule or by the governor.

The loop calls it before every step. Clock: monotonic seconds.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from typing_extensions import override

from edge_runtime.device import MemoryNow, Meter, memory_now
from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.facts import Budget, CostProfile, Plan
from edge_runtime.facts.budget import ENERGY, MEMORY, POWER, TEMPERATURE
from edge_runtime.planning import (
    TOKEN_BLOCKS,
    Decision,
    Governor,
    Objective,
    Reading,
    interpolate,
    make_plan,
    overhead_of,
)
from edge_runtime.planning.throttle import COOL_C, SHORT_S
from edge_runtime.training.job import TrainingJob
from edge_runtime.training.metering import Metering
from edge_runtime.units import bytes_text, temperature_text

_UNKNOWN_S = 10.0  # without a reading: a limit cannot be kept on what it was before
_STUCK_S = 120.0  # the same temperature while idle: the zone is stuck
_SPARE = 1.02  # times what it holds, at least
_AHEAD = 3  # times what was lost since the last reading: until a smaller rung is loaded
_READ_EVERY_S = 1.0  # memory and pressure; listing all processes costs milliseconds


class UnknownLimit(NamedTuple):
    """A limit that can no longer be judged."""

    limit: str  # "energy", "power" or "temperature"
    sensor: str
    reason: str  # names the file or rail, and its value


class RungSelector(Protocol):
    """Decides before every step; the loop follows the decision."""

    plan: Plan | None  # for the steps from here on, if any

    def unknown_limit(self) -> UnknownLimit | None:
        """A limit that cannot be judged now: the run has to end."""
        return None

    def decide(self, done: int, now_s: float) -> Decision:
        """The decision after `done` steps."""

    def exclude(self, rung: str, reason: str) -> bool:
        """Train neither that rung again nor a larger one; whether another one is left."""
        return False

    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        """Record the duration of the last step, unless it has loaded the rung."""


def require_temperature(budget: Budget, meter: Meter) -> None:
    """Refuse a limit on a temperature that cannot be read.

    Raises:
        DeviceError: no zone works, or the hottest one is unknown.
    """
    limit_c, unknown = budget.temperature_c, meter.heat_unknown()
    if limit_c is not None and unknown is not None:
        raise DeviceError(
            f"--temperature {limit_c:g}C cannot be kept: {unknown.reason}. "
            "`edge-train doctor` shows what this board has."
        )


class _MemoryReader:
    """Memory of the process and of the machine, read once a second."""

    def __init__(self) -> None:
        self._read_s = -math.inf
        self._memory: MemoryNow | None = None
        self._lost_bytes = 0  # of room, since the reading before

    def at(self, now_s: float) -> MemoryNow:
        """The last reading, or a new one."""
        if self._memory is None or now_s - self._read_s >= _READ_EVERY_S:
            before, self._memory = self._memory, memory_now()
            self._read_s = now_s
            rooms = (before.room_bytes if before else None), self._memory.room_bytes
            self._lost_bytes = 0
            if rooms[0] is not None and rooms[1] is not None:
                self._lost_bytes = max(0, rooms[0] - rooms[1])
        return self._memory

    def room_soon_bytes(self, now_s: float) -> int | None:
        """What others will leave after the next reading, if they go on taking as much."""
        room_bytes = self.at(now_s).room_bytes
        return None if room_bytes is None else room_bytes - _AHEAD * self._lost_bytes


class ScheduledSelector(RungSelector):
    """A schedule of (first step, rung id), ascending from step 1.

    It ends the run, whose state is saved then, before other programs take its memory.
    """

    def __init__(self, rungs: Sequence[tuple[int, str]]) -> None:
        self._rungs, self._memory = rungs, _MemoryReader()
        self._first_room_bytes: int | None = None
        self._short_since_s = math.inf
        self.plan = None

    @override
    def decide(self, done: int, now_s: float) -> Decision:
        rung = [rung for first, rung in self._rungs if first <= done + 1][-1]
        if reason := self._too_little_memory(now_s):
            return Decision(kind="stop", rung=rung, reason=reason, stopped_by=MEMORY.name)
        return Decision(kind="keep", rung=rung, reason="")

    def _too_little_memory(self, now_s: float) -> str | None:
        """Why the run must end: others have taken what was free, and it lasts."""
        now, soon = self._memory.at(now_s), self._memory.room_soon_bytes(now_s)
        if now.room_bytes is None or soon is None:
            return None
        first = self._first_room_bytes = self._first_room_bytes or now.room_bytes
        # A container may be just large enough: only less than before is a reason.
        is_short = soon < min(_SPARE * now.held_bytes, first / _SPARE)
        self._short_since_s = min(self._short_since_s, now_s) if is_short else math.inf
        if now_s - self._short_since_s < SHORT_S:
            return None
        return (
            f"other programs leave {bytes_text(now.room_bytes)} of memory to it, and it holds "
            f"{bytes_text(now.held_bytes)}"
        )

    @override
    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        pass


class GovernedSelector(RungSelector):
    """Passes spent totals and board readings to the governor."""

    def __init__(
        self,
        profile: CostProfile,
        budget: Budget,
        metering: Metering,
        *,
        done: int,
        total_steps: int,
        steps_per_epoch: int,
        objective: Objective = TOKEN_BLOCKS,
        reached: str | None = None,
    ) -> None:
        """Plan the remaining steps with the remaining budget.

        Raises:
            BudgetError: no plan is feasible.
            DeviceError: a limit is set on a quantity that no sensor measures.
        """
        self._metering, self._budget = metering, budget
        self._cooling_s: float | None = None  # since when it pauses to cool down
        require_temperature(budget, metering.meter)
        costs, overhead = interpolate(profile.rungs), overhead_of(profile)
        room_bytes = memory_now().room_bytes
        self._governor = Governor(
            costs,
            budget,
            steps=total_steps,
            overhead=overhead,
            earlier=metering.earlier,
            room_bytes=room_bytes,
            objective=objective,
            reached=reached,
        )
        rest = self._governor.overhead_after(metering.spent(time.monotonic()))
        self.plan = make_plan(
            costs,
            budget,
            steps=total_steps - done,
            overhead=rest,
            room_bytes=room_bytes,
            steps_per_epoch=None if done else steps_per_epoch,
            objective=objective,
            done=done,
            reached=reached,
        )
        self._memory = _MemoryReader()

    @override
    def unknown_limit(self) -> UnknownLimit | None:
        return self._unknown_power() or self._unknown_temperature()

    def _unknown_temperature(self) -> UnknownLimit | None:
        limit_c, meter = self._budget.temperature_c, self._metering.meter
        if limit_c is None:
            return None
        if (unknown := meter.heat_unknown()) and unknown.for_s > _UNKNOWN_S:
            return UnknownLimit(TEMPERATURE.name, unknown.zone, unknown.reason)
        hottest = meter.hottest()
        if hottest is None or self._cooling_s is None:
            return None
        idle_s = time.monotonic() - self._cooling_s
        if min(idle_s, hottest.same_s) <= _STUCK_S:
            return None
        value = temperature_text(hottest.temperature_c)
        same = f"exactly {value} for {hottest.same_s:.0f} s of idling"
        reason = f"zone {hottest.zone} reads {same}"
        return UnknownLimit(TEMPERATURE.name, hottest.zone, reason)

    def _unknown_power(self) -> UnknownLimit | None:
        budget, meter = self._budget, self._metering.meter
        if not budget.needs_energy:
            return None
        power = meter.power_unknown()
        if power is None or power.for_s <= _UNKNOWN_S:
            return None
        limit = POWER if budget.energy_j is None else ENERGY
        return UnknownLimit(limit.name, self._metering.sensor_name or "none", power.reason)

    @override
    def decide(self, done: int, now_s: float) -> Decision:
        spent, reading = self._metering.spent(now_s), self._reading(now_s)
        decision = self._governor.decide(done, now_s, spent, reading)
        if not decision.pause_s or not self._is_hot(reading):
            self._cooling_s = None
            return decision
        self._cooling_s = now_s if self._cooling_s is None else self._cooling_s
        if hottest := self._metering.meter.hottest():
            value = temperature_text(hottest.temperature_c)
            reason = f"{decision.reason}; zone {hottest.zone} has {value}"
            return replace(decision, reason=reason)
        return decision

    @override
    def exclude(self, rung: str, reason: str) -> bool:
        return self._governor.exclude(rung, reason)

    def _is_hot(self, reading: Reading) -> bool:
        """Whether a pause is, or could be, for the temperature."""
        limit_c, now_c = self._budget.temperature_c, reading.temperature_c
        return limit_c is not None and now_c is not None and now_c > limit_c - COOL_C

    @override
    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        step_j = self._metering.meter.energy_between(begin_s, end_s)
        self._governor.observed(rung, end_s - begin_s, step_j)

    def _reading(self, now_s: float) -> Reading:
        memory = self._memory.at(now_s)
        sample, hottest = self._metering.meter.latest(), self._metering.meter.hottest()
        return Reading(
            power_w=sample.total_w if sample else None,
            temperature_c=hottest.temperature_c if hottest else None,
            throttled=sample.throttled if sample else None,
            held_bytes=memory.held_bytes,
            room_bytes=self._memory.room_soon_bytes(now_s),
            memory_pressure=memory.pressure_avg10,
        )


def rung_selector(job: TrainingJob, metering: Metering, *, done: int) -> RungSelector:
    """The selector for the steps after `done`: by the schedule, if one is given.

    Raises:
        BudgetError: no plan is feasible.
        ConfigError: neither a schedule of rungs nor a cost profile is given.
        DeviceError: a limit is set on a quantity that no sensor measures.
    """
    options = job.options
    if options.rungs is not None:
        return ScheduledSelector(options.rungs)
    if options.profile is None:
        raise ConfigError("training without a schedule of rungs needs a cost profile.")
    return GovernedSelector(
        options.profile,
        options.budget,
        metering,
        done=done,
        total_steps=job.total_steps,
        steps_per_epoch=job.steps_per_epoch,
        objective=options.objective,
        reached=job.run.rung_at(done) if job.run and options.objective.is_staged else None,
    )
