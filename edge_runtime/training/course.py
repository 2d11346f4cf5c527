"""Which rung the next step trains: as a schedule says, or as the governor finds.

The loop asks before every step. Clock: monotonic seconds.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edge_runtime.device import MemoryNow, memory_now
from edge_runtime.errors import ConfigError, DeviceError
from edge_runtime.facts import CostProfile
from edge_runtime.planning import Governor, Reading, interpolate, make_plan, overhead_of
from edge_runtime.records.events import Planned
from edge_runtime.training.metering import Metering
from edge_runtime.training.options import Job

_READ_EVERY_S = 1.0  # memory and pressure; walking through all processes costs milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to do before the next step."""

    rung: str
    reason: str | None = None  # why it is another one than before
    pause_s: float = 0.0  # wait so long, then ask again
    stopped_by: str | None = None  # a limit that is reached: train no more


class Course(Protocol):
    """Chooses rungs."""

    def planned(self, done: int) -> Planned | None:
        """The plan that is followed from here, if there is one."""

    def choose(self, done: int, now_s: float) -> Choice:
        """What comes after `done` steps."""

    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        """Hear what the step took that was just trained."""


class FixedCourse:
    """A schedule of (first step, rung id), ascending from step 1."""

    def __init__(self, rungs: Sequence[tuple[int, str]]) -> None:
        self._rungs = rungs

    def planned(self, done: int) -> None:
        """A schedule is no plan."""

    def choose(self, done: int, now_s: float) -> Choice:
        """See `Course.choose`."""
        return Choice(rung=[rung for first, rung in self._rungs if first <= done + 1][-1])

    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        """Costs change nothing."""


class GovernedCourse:
    """Gives the governor what was spent and what the board shows."""

    def __init__(
        self, job: Job, profile: CostProfile, metering: Metering, *, done: int
    ) -> None:
        """Plan the steps that are left, with what is left.

        Raises:
            BudgetError: nothing fits.
            DeviceError: a limit is set on something that nothing here measures.
        """
        self._job, self._metering = job, metering
        budget, steps = job.options.budget, job.total_steps
        self._refuse_unknown_heat()
        costs, overhead = interpolate(profile.rungs), overhead_of(profile)
        spent = metering.spent(time.monotonic())
        so_far = replace(overhead, startup_s=spent.time_s, startup_j=spent.energy_j)
        self._plan = make_plan(costs, budget, steps=steps - done, overhead=so_far)
        self._governor = Governor(costs, budget, steps=steps, overhead=overhead)
        self._read_s = -math.inf
        self._memory: MemoryNow | None = None

    def _refuse_unknown_heat(self) -> None:
        limit_c, sample = self._job.options.budget.temperature_c, self._metering.meter.latest()
        if limit_c is not None and (sample is None or sample.temperature_c is None):
            raise DeviceError(
                f"--temperature {limit_c:g}C cannot be kept: no temperature sensor was found. "
                "`edge-train doctor` shows what this board has."
            )

    def planned(self, done: int) -> Planned:
        """See `Course.planned`."""
        return Planned(step=done, budget=self._job.options.budget, plan=self._plan)

    def choose(self, done: int, now_s: float) -> Choice:
        """See `Course.choose`."""
        spent = self._metering.spent(now_s)
        decision = self._governor.decide(done, now_s, spent, self._reading(now_s))
        return Choice(
            rung=decision.rung,
            reason=decision.reason,
            pause_s=decision.pause_s or 0.0,
            stopped_by=decision.stopped_by,
        )

    def trained(self, rung: str, begin_s: float, end_s: float) -> None:
        """See `Course.trained`."""
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
            memory_pressure=self._memory.pressure_avg10,
        )


def course_of(job: Job, metering: Metering, *, done: int) -> Course:
    """The course after `done` steps that the options ask for.

    Raises:
        BudgetError: nothing fits.
        ConfigError: there is neither a schedule of rungs nor a cost profile.
        DeviceError: a limit is set on something that nothing here measures.
    """
    if job.options.rungs is not None:
        return FixedCourse(job.options.rungs)
    if job.options.profile is None:
        raise ConfigError("without a schedule of rungs, training needs a cost profile.")
    return GovernedCourse(job, job.options.profile, metering, done=done)
