"""The plan: which rung for how many steps of a run, and why.

Pure: the same costs, budget and steps give the same plan. docs/planning.md has the rules.
"""

from collections.abc import Sequence

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget, Plan, RungCost, RungVerdict, Segment
from edge_runtime.facts.budget import LIMITS, TEMPERATURE
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.mix import Mix, Task, best_mix
from edge_runtime.planning.reasons import why_refused, why_taken
from edge_runtime.planning.refusal import refusal


def make_plan(
    costs: Sequence[RungCost], budget: Budget, *, steps: int, overhead: Overhead
) -> Plan:
    """The plan that keeps most token-blocks within a budget.

    Args:
        costs: of every rung.
        budget: limits of the run; temperature is left to the governor.
        steps: of the run, from 1.
        overhead: what it costs besides its steps.

    Raises:
        BudgetError: nothing fits; the message has the binding limit and the nearest budget.
        DeviceError: energy or power is limited and unknown.
    """
    task = Task(costs=tuple(costs), steps=steps, overhead=overhead)
    mix = best_mix(task, budget)
    if mix is None:
        raise BudgetError(refusal(task, budget))
    binding = _binding(task, budget, mix)
    peaks = [cost.likely_peak_bytes for cost in costs if cost.rung in mix.counts]
    known = [peak for peak in peaks if peak is not None]
    return Plan(
        segments=tuple(Segment(rung=rung, steps=count) for rung, count in mix.counts.items()),
        steps=steps,
        token_blocks=mix.token_blocks,
        time_s=mix.time_s,
        wait_s=mix.wait_s,
        energy_j=mix.energy_j,
        power_w=None if mix.energy_j is None else mix.energy_j / mix.time_s,
        peak_bytes=max(known) if len(known) == len(peaks) else None,
        verdicts=tuple(_verdict(cost, task, budget, mix, binding) for cost in costs),
        binding=binding,
    )


def _binding(task: Task, budget: Budget, mix: Mix) -> tuple[str, ...]:
    """Limits whose absence alone would keep more; where none does, all of them together."""

    def keeps_more(relaxed: Budget) -> bool:
        found = best_mix(task, relaxed)
        return found is not None and found.token_blocks > mix.token_blocks

    if not keeps_more(Budget()):
        return ()
    limits = [limit for limit in budget.limited() if limit is not TEMPERATURE]
    alone = [limit.name for limit in limits if keeps_more(budget.with_limit(limit, None))]
    return tuple(alone or [limit.name for limit in limits])


def _verdict(
    cost: RungCost, task: Task, budget: Budget, mix: Mix, binding: Sequence[str]
) -> RungVerdict:
    count = mix.counts.get(cost.rung, 0)
    flags = [limit.flag for limit in LIMITS if limit.name in binding]
    return RungVerdict(
        rung=cost.rung,
        token_blocks=cost.token_blocks,
        step_s=cost.step_s,
        step_j=cost.step_j,
        power_w=cost.power_w,
        peak_bytes=cost.likely_peak_bytes,
        source=cost.source,
        steps=count,
        reason=(
            why_taken(count / task.steps, flags)
            if count
            else why_refused(cost, task, budget, mix)
        ),
    )
