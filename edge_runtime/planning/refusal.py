"""Budgets that nothing fits: which limit is in the way, and the nearest budgets that work."""

import math
from collections.abc import Callable
from dataclasses import replace

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget
from edge_runtime.facts.budget import MEMORY, TEMPERATURE, Limit, flag_text
from edge_runtime.planning.mix import Task, best_mix, why_unusable
from edge_runtime.planning.reasons import listed
from edge_runtime.units import bytes_text

_PRECISION = 1.001  # of a nearest budget


def refusal(task: Task, budget: Budget) -> str:
    """Say that nothing fits, and what would."""
    reasons = [why_unusable(cost, Budget()) for cost in task.costs]
    if all(reasons):
        lines = "; ".join(
            f"{cost.rung} {reason}" for cost, reason in zip(task.costs, reasons, strict=True)
        )
        return (
            f"no rung can be planned: {lines}. Export with a smaller batch or model, or "
            "measure again with `edge-train profile PKG`."
        )
    nearest = nearest_budgets(task, budget)
    raised = [
        limit.flag
        for limit in budget.limited()
        if any(near.value(limit) != budget.value(limit) for near in nearest)
    ]
    flags = listed(raised)
    if len(raised) == 1:
        binding = f"{flags} is too little"
    elif len(nearest) == 1:
        binding = f"{flags} are each too little"
    else:
        binding = f"{flags} are too little together, more of one is enough"
    return (
        f"no plan of {task.steps} steps fits {budget}: {binding}. The nearest budget that "
        f"works is {', or '.join(map(str, nearest))}{_fewer_steps(task, budget)}."
    )


def refuse_below_state(budget: Budget, state_bytes: int) -> None:
    """Refuse a memory limit that no measurement is needed for.

    Raises:
        BudgetError: it is below the size of the package's state.
    """
    memory_bytes = budget.memory_bytes
    if memory_bytes is not None and memory_bytes < state_bytes:
        raise BudgetError(
            f"{flag_text(MEMORY, memory_bytes)} is below the package's own state of "
            f"{bytes_text(state_bytes)}. Training holds it twice and needs room for a step "
            "besides: `edge-train plan PKG` without --memory shows what each rung needs."
        )


def nearest_budgets(task: Task, budget: Budget) -> list[Budget]:
    """Budgets that work, where this one does not.

    One for each limit that it suffices to raise alone; else one with several limits raised.
    Each raised limit is the least that works, to a thousandth.
    """
    limits = [limit for limit in budget.limited() if limit is not TEMPERATURE]
    alone = [limit for limit in limits if best_mix(task, budget.with_limit(limit, None))]
    if alone:
        return [_with_least(limit, task, budget) for limit in alone]

    def all_raised(factor: float) -> Budget:
        raised = budget
        for limit in limits:
            raised = _raised(raised, limit, factor)
        return raised

    nearest = all_raised(_least(lambda factor: bool(best_mix(task, all_raised(factor)))))
    for limit in limits:  # perhaps not each of them as far as that
        back = nearest.with_limit(limit, budget.value(limit))
        nearest = _with_least(limit, task, back)
    return [nearest]


def _with_least(limit: Limit, task: Task, budget: Budget) -> Budget:
    """With the least of that limit that works; it is enough to raise that one."""
    factor = _least(lambda factor: bool(best_mix(task, _raised(budget, limit, factor))))
    return _raised(budget, limit, factor)


def _raised(budget: Budget, limit: Limit, factor: float) -> Budget:
    return budget.with_limit(limit, (budget.value(limit) or 0.0) * factor)


def _least(works: Callable[[float], bool]) -> float:
    """The least factor from 1 that works, to a thousandth; a larger one works as well."""
    high = 1.0
    while not works(high):
        high *= 2
    low = high / 2
    while high > 1 and high / low > _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _fewer_steps(task: Task, budget: Budget) -> str:
    """How many steps this budget is enough for."""
    enough, too_many = 0, task.steps
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        fits = best_mix(replace(task, steps=middle), budget)
        enough, too_many = (middle, too_many) if fits else (enough, middle)
    return (
        f"; this one is enough for {enough} steps: ask for fewer with --epochs or --images"
        if enough
        else ""
    )
