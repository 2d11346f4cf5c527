"""Selects the rung of the next step, by a schedule or by the governor.

The loop calls it before every step. Clock: monotonic seconds.
"""

import math
import time
from collections.abc import Sequence
from typing import Protocol

from typing_extensions import override

from edge_runtime.device import MemoryNow, memory_now
from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.facts import Budget, CostProfile, Plan
from edge_runtime.planning import (
    Decision,
    Governor,
    Reading,
    interpolate,
    make_plan,
    overhead_of,
)
from edge_runtime.training.job import TrainingJob
from edge_runtime.training.metering import Metering

_READ_EVERY_S = 1.0  # memory and pressure; listing all processes costs milliseconds


class RungSelector(Protocol):
    """Decides before every step; the loop follows the decision."""

    plan: Plan | None  # for the steps from here on, if any

    def decide(self, done: int, now_s: float) -> Decision:
        """The decision after `done` steps."""

    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        """Record the duration of the last step."""


class ScheduledSelector(RungSelector):
    """A schedule of (first step, rung id), ascending from step 1."""

    def __init__(self, rungs: Sequence[tuple[int, str]]) -> None:
        self._rungs = rungs
        self.plan = None

    @override
    def decide(self, done: int, now_s: float) -> Decision:
        rung = [rung for first, rung in self._rungs if first <= done + 1][-1]
        return Decision(kind="keep", rung=rung, reason="")

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
    ) -> None:
        """Plan the remaining steps with the remaining budget.

        Raises:
            BudgetError: no plan is feasible.
            DeviceError: a limit is set on a quantity that no sensor measures.
        """
        self._metering = metering
        self._require_temperature(budget.temperature_c)
        costs, overhead = interpolate(profile.rungs), overhead_of(profile)
        room_bytes = memory_now().room_bytes
        self._governor = Governor(
            costs,
            budget,
            steps=total_steps,
            overhead=overhead,
            earlier=metering.earlier,
            room_bytes=room_bytes,
        )
        rest = self._governor.overhead_after(metering.spent(time.monotonic()))
        self.plan = make_plan(
            costs, budget, steps=total_steps - done, overhead=rest, room_bytes=room_bytes
        )
        self._read_s = -math.inf
        self._memory: MemoryNow | None = None

    def _require_temperature(self, limit_c: float | None) -> None:
        sample = self._metering.meter.latest()
        if limit_c is not None and (sample is None or sample.temperature_c is None):
            raise DeviceError(
                f"--temperature {limit_c:g}C cannot be kept: no temperature sensor was found. "
                "`edge-train doctor` shows what this board has."
            )

    @override
    def decide(self, done: int, now_s: float) -> Decision:
        spent = self._metering.spent(now_s)
        return self._governor.decide(done, now_s, spent, self._reading(now_s))

    @override
    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        step_j = self._metering.meter.energy_between(begin_s, end_s)
        self._governor.observed(rung, end_s - begin_s, step_j)

    def _reading(self, now_s: float) -> Reading:
        if self._memory is None or now_s - self._read_s >= _READ_EVERY_S:
            self._read_s, self._memory = now_s, memory_now()
        sample = self._metering.meter.latest()
        return Reading(
            power_w=sample.total_w if sample else None,
            temperature_c=sample.temperature_c if sample else None,
            throttled=sample.throttled if sample else None,
            rss_bytes=self._memory.rss_bytes,
            room_bytes=self._memory.room_bytes,
            memory_pressure=self._memory.pressure_avg10,
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
        options.profile, options.budget, metering, done=done, total_steps=job.total_steps
    )
