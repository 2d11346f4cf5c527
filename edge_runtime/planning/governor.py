"""The governor: decides before every step which rung to train, to pause, or to stop.

A state machine without a clock: times and readings come in as arguments, and the same calls
give the same decisions. It plans the rest of the run repeatedly with the same planner, with
the remaining budget and the observed costs. docs/planning.md has the rules. Units: seconds,
joules, watts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget, RungCost, Spent
from edge_runtime.facts.budget import MEMORY, Limit
from edge_runtime.facts.plan import steps_text
from edge_runtime.planning.costs import Overhead, training_order
from edge_runtime.planning.ledger import Ledger, RemainingBudget
from edge_runtime.planning.mix import Mix, Workload, require_energy, usable_costs
from edge_runtime.planning.objective import TOKEN_BLOCKS, Objective
from edge_runtime.planning.planner import infeasible_text
from edge_runtime.planning.throttle import IdlePacer, Reading, Throttle

REPLAN_EVERY_S = 5.0
_SHARE_OF_RUN = 0.02  # between two plans in a short run; and left, to step up at all
_SOONER = 0.2  # of that interval, when costs have changed
_CHANGED = 0.05  # change of a cost that counts as news
_CALM_S = 10.0  # after a step down, before a step up
_WORTH_IT = 1.05  # times the steps, to leave the present rung when no plan is feasible


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do before the next step, and why."""

    kind: str  # "keep", "switch", "pause" or "stop"
    rung: str  # trained next, or would be
    reason: str  # for people
    pause_s: float | None = None  # idle for this time, then ask again
    stopped_by: str | None = None  # the limit that ends the run early


class Governor:
    """Decides before every step. `decide` and `observed` are called alternately."""

    def __init__(
        self,
        costs: Sequence[RungCost],
        budget: Budget,
        *,
        steps: int,
        overhead: Overhead,
        earlier: Spent | None = None,
        room_bytes: int | None = None,
        replan_every_s: float = REPLAN_EVERY_S,
        objective: Objective = TOKEN_BLOCKS,
        reached: str | None = None,
    ) -> None:
        """Prepare for a run for which `make_plan` has a plan.

        Args:
            costs: of every rung.
            budget: of the whole run.
            steps: of the whole run.
            overhead: its costs besides the steps.
            earlier: spent by earlier processes of the run.
            room_bytes: memory that the machine or container leaves to it; `None`: unknown.
            replan_every_s: at least this often; more often in a run of a few minutes.
            objective: what its plans maximise.
            reached: the rung of the last step of the process before; `None`: a new run.

        Raises:
            BudgetError: no rung can be trained at all.
            DeviceError: energy or power is limited and unknown.
        """
        workload = Workload(
            costs=tuple(costs), steps=steps, overhead=overhead, room_bytes=room_bytes
        )
        require_energy(workload, budget)
        usable = usable_costs(workload, budget)
        if not usable:
            raise BudgetError(infeasible_text(workload, budget))
        usable.sort(key=training_order)
        self._height = {cost.rung: height for height, cost in enumerate(usable)}
        self._steps, self._every_s = steps, replan_every_s
        self._ledger = Ledger(usable, overhead)
        if earlier is not None:
            self._ledger.update(earlier, None, cooling=False)
        self._rungs_only_rise = objective.is_staged
        order = {cost.rung: training_order(cost) for cost in costs}
        self._first_height = 0  # usable rungs below the one that is reached
        if reached in order:
            self._first_height = sum(order[rung] < order[reached] for rung in self._height)
        self._remaining = RemainingBudget(
            budget, self._ledger, steps=steps, objective=objective
        )
        self._throttle, self._pacer = Throttle(usable, budget), IdlePacer(budget)
        self._rung: str | None = None
        self._plan = _LastPlan(mix=None, steps=0, at_s=-math.inf, ratios=(1.0, 1.0), wish=0)
        self._stepped_down_s = -math.inf

    def overhead_after(self, spent: Spent) -> Overhead:
        """The overhead of the steps that are left, once that is spent.

        The first reading of a sensor that counts energy gives no energy yet: what is unknown
        is estimated from the profile, as during the run.
        """
        self._ledger.update(spent, self._rung, cooling=False)
        return self._ledger.rest()

    def observed(self, rung: str, step_s: float, step_j: float | None) -> None:
        """Record the costs of a step that did not load its rung, its pictures included."""
        self._ledger.observe(rung, step_s, step_j)

    def exclude(self, rung: str, reason: str) -> bool:
        """Train neither that rung again nor one that needs as much memory.

        Args:
            rung: for which there was no memory.
            reason: for people.

        Returns:
            Whether another rung is left.
        """
        return self._throttle.exclude(rung, reason)

    def decide(
        self, done_steps: int, now_s: float, spent: Spent, reading: Reading
    ) -> Decision:
        """The decision after `done_steps` steps.

        Args:
            done_steps: of the whole run.
            now_s: monotonic.
            spent: by the whole run until now.
            reading: of the board now.
        """
        self._ledger.update(spent, self._rung, cooling=self._pacer.is_cooling)
        left = self._steps - done_steps
        if left <= 0:
            return Decision(kind="stop", rung=self._next_rung(), reason="all steps are done")
        if self._rung is not None:
            self._throttle.watch(now_s, self._rung, reading, self._ledger.power_w())
        allowed = [cost.rung for cost in self._throttle.allowed]
        if not allowed:
            return self._stop(MEMORY, self._throttle.reason)
        choice = self._choose(allowed, done_steps, left, now_s)
        if choice.limit is not None:
            return self._stop(choice.limit, choice.reason)
        return self._pause(choice, left, now_s) or self._train(choice, now_s)

    def _pause(self, choice: "_NextRung", left: int, now_s: float) -> Decision | None:
        cost = self._ledger.cost(choice.rung)
        too_hot = self._throttle.too_hot
        pause = self._pacer.pause(self._ledger, cost, left, now_s, too_hot=too_hot)
        if pause is None:
            return None
        if pause.is_hopeless:
            return self._stop(pause.limit, pause.reason)
        return Decision(
            kind="pause", rung=choice.rung, reason=pause.reason, pause_s=pause.pause_s
        )

    def _train(self, choice: "_NextRung", now_s: float) -> Decision:
        before, self._rung = self._rung, choice.rung
        if before == choice.rung:
            return Decision(kind="keep", rung=choice.rung, reason=choice.reason)
        if before is not None and self._height[choice.rung] < self._height[before]:
            self._stepped_down_s = now_s
        return Decision(kind="switch", rung=choice.rung, reason=choice.reason)

    def _stop(self, limit: Limit, reason: str) -> Decision:
        return Decision(
            kind="stop", rung=self._next_rung(), reason=reason, stopped_by=limit.name
        )

    def _next_rung(self) -> str:
        return self._rung or next(iter(self._height))

    def _choose(
        self, allowed: Sequence[str], done: int, left: int, now_s: float
    ) -> "_NextRung":
        """The rung of the next step, or the limit that is reached."""
        rung, before = self._rung, self._plan
        if rung and rung in allowed and not self._is_due(rung, done, now_s):
            return _NextRung(rung, "as planned")
        mix = self._mix(allowed, left)
        wish = self._wish(mix, allowed, left) if mix else 0
        ratios = self._ledger.ratios(rung) if rung else (1.0, 1.0)
        self._plan = _LastPlan(mix=mix, steps=done, at_s=now_s, ratios=ratios, wish=wish)
        if mix is None:
            return self._last_resort(allowed, left)
        lowest = next(iter(mix.counts))
        if rung is None:
            self._every_s = min(self._every_s, max(0.5, _SHARE_OF_RUN * mix.time_s))
            return _NextRung(lowest, f"the plan begins: {self._text(mix, lowest)}")
        if rung not in allowed:
            return _NextRung(lowest, f"{self._throttle.reason}: {self._text(mix, lowest)}")
        if wish < 0 and before.wish < 0:
            return _NextRung(lowest, f"the budget allows less: {self._text(mix, lowest)}")
        if wish > 0 and before.wish > 0 and self._may_rise(left, now_s):
            return _NextRung(lowest, f"the budget allows more: {self._text(mix, lowest)}")
        return _NextRung(rung, self._text(mix, rung))

    def _mix(self, allowed: Sequence[str], left: int) -> Mix | None:
        """The best mix for the remaining steps.

        Where rungs only rise, it begins as little below the present one as is feasible; in a
        run that is continued, below that of its last step.
        """
        height = self._height[self._rung] if self._rung else self._first_height
        for least in range(height if self._rungs_only_rise else 0, -1, -1):
            higher = [rung for rung in allowed if self._height[rung] >= least]
            if higher and (mix := self._remaining.plan(higher, left, loaded=self._rung)):
                return mix
        return None

    def _is_due(self, rung: str, done: int, now_s: float) -> bool:
        """Whether it is time to plan again."""
        plan, waited_s = self._plan, now_s - self._plan.at_s
        if waited_s >= self._every_s or self._remaining.reach(rung, loaded=rung)[0] < 1:
            return True
        is_news = (
            plan.wish
            or plan.is_over(rung, done)
            or any(
                abs(now / then - 1) > _CHANGED
                for now, then in zip(self._ledger.ratios(rung), plan.ratios, strict=True)
            )
        )
        return bool(is_news) and waited_s >= self._every_s * _SOONER

    def _wish(self, mix: Mix, allowed: Sequence[str], left: int) -> int:
        """Whether this mix needs a lower rung (-1) or a higher one (1) than the present."""
        lowest, rung = next(iter(mix.counts)), self._rung
        if rung is None or rung not in allowed or lowest == rung:
            return 0
        if self._height[lowest] > self._height[rung]:
            return 1
        return 0 if self._remaining.is_as_good_on(rung, mix, allowed, left) else -1

    def _may_rise(self, left: int, now_s: float) -> bool:
        calm_s = now_s - self._stepped_down_s
        is_worth_it = left >= _SHARE_OF_RUN * self._steps
        return is_worth_it and calm_s >= min(_CALM_S, 2 * self._every_s)

    def _last_resort(self, allowed: Sequence[str], left: int) -> "_NextRung":
        """The rung that completes the most steps, until a limit is reached."""
        reach = {rung: self._remaining.reach(rung, loaded=self._rung) for rung in allowed}
        furthest = max(allowed, key=lambda rung: reach[rung][0])
        steps, limit = reach[furthest]
        left_text = self._remaining.left_text()
        if limit is not None and steps < 1:
            reason = f"{limit.flag} is used up except for the last checkpoint{left_text}"
            return _NextRung(furthest, f"{reason}; {left} steps are not done", limit)
        rung = self._rung
        if rung in reach and reach[rung][0] >= 1 and steps < _WORTH_IT * reach[rung][0]:
            furthest = rung
        return _NextRung(
            furthest,
            f"no plan fits {left} more steps{left_text}: as many as possible on {furthest}"
            f"{self._ledger.drift_text(furthest)}",
        )

    def _text(self, mix: Mix, rung: str) -> str:
        drift = self._ledger.drift_text(rung)
        return f"{steps_text(mix.counts.items())}{self._remaining.left_text()}{drift}"


class _NextRung(NamedTuple):
    """The rung to train and why, or the limit that is reached."""

    rung: str
    reason: str
    limit: Limit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _LastPlan:
    """The last plan, and its inputs."""

    mix: Mix | None  # None: no plan was feasible
    steps: int  # done then
    at_s: float
    ratios: tuple[float, float]  # of the rung in training
    wish: int  # -1, 0 or 1: a lower rung, the same, a higher one

    def is_over(self, rung: str, done: int) -> bool:
        """Whether the part of this rung is done."""
        return self.mix is not None and done - self.steps >= self.mix.counts.get(rung, 0)
