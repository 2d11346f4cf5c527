"""The plan: the rung of each step of a run, and why; or why no plan is feasible.

Pure: the same costs, budget and steps give the same plan. docs/planning.md has the rules.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget, Plan, RungCost, RungVerdict, Segment
from edge_runtime.facts.budget import (
    ENERGY,
    LIMITS,
    MEMORY,
    POWER,
    TEMPERATURE,
    TIME,
    Limit,
    flag_text,
    over_text,
)
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.epochs import EpochChoice, best_epochs, epochs_on
from edge_runtime.planning.mix import Mix, Workload, best_mix, why_unusable
from edge_runtime.planning.objective import TOKEN_BLOCKS, Objective, is_as_good
from edge_runtime.planning.path import best_path, steady_path
from edge_runtime.units import bytes_text, power_text

FREE_MEMORY = "free memory"  # a limit that nobody has set
_PRECISION = 1.001  # of a nearest budget
_ROUNDING = 1e-12  # of the value of a plan


def make_plan(
    costs: Sequence[RungCost],
    budget: Budget,
    *,
    steps: int,
    overhead: Overhead,
    room_bytes: int | None = None,
    steps_per_epoch: int | None = None,
    objective: Objective = TOKEN_BLOCKS,
    done: int = 0,
    reached: str | None = None,
) -> Plan:
    """The best plan within a budget.

    Args:
        costs: of every rung.
        budget: limits of the run; temperature is left to the governor.
        steps: of the run, from 1.
        overhead: its costs besides the steps.
        room_bytes: memory that the machine or container leaves to it; `None`: unknown.
        steps_per_epoch: of a run of whole epochs, for the message of a refusal; `None`: a
            part of a run.
        objective: what the plan maximises.
        done: steps of the run before these.
        reached: the rung of the last of them; a staged objective goes below it only as far as
            the budget asks for.

    Raises:
        BudgetError: infeasible; the message has the binding limit and the nearest budget.
        DeviceError: energy or power is limited and unknown.
    """
    workload = Workload(
        costs=tuple(costs),
        steps=steps,
        overhead=overhead,
        room_bytes=room_bytes,
        objective=objective,
        done=done,
        reached=reached,
    )
    mix = steady_path(workload, budget)
    if mix is None:
        raise BudgetError(infeasible_text(workload, budget, steps_per_epoch))
    binding = _binding(workload, budget)
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
        verdicts=tuple(_verdict(cost, workload, budget, mix, binding) for cost in costs),
        binding=binding,
        gradient_error=-mix.value / steps if objective.is_staged else None,
    )


def auto_epochs(epoch: Workload, budget: Budget) -> EpochChoice:
    """The number of whole epochs that keeps the most token-blocks within a budget.

    Args:
        epoch: the steps of one epoch.
        budget: limits of the run; temperature is left to the governor.

    Raises:
        ConfigError: neither time nor energy is limited.
        BudgetError: not even one epoch fits; the message has the nearest budget.
        DeviceError: energy or power is limited and unknown.
    """
    choice = best_epochs(epoch, budget)
    if choice is None:
        raise BudgetError(infeasible_text(epoch, budget, epoch.steps))
    return choice


def _binding(workload: Workload, budget: Budget) -> tuple[str, ...]:
    """Limits without which a plan is better; if no single one, all of them together."""

    def most(limits: Budget, room_bytes: int | None) -> float:
        mix = best_path(replace(workload, room_bytes=room_bytes), limits)
        return -math.inf if mix is None else mix.value

    room_bytes = workload.room_bytes
    kept = most(budget, room_bytes)

    def is_better(value: float) -> bool:
        return not is_as_good(kept, value, 1 - _ROUNDING)

    if not is_better(most(Budget(), None)):
        return ()
    limits = [limit for limit in budget.limited() if limit is not TEMPERATURE]
    without = {limit.name: (budget.with_limit(limit, None), room_bytes) for limit in limits}
    if room_bytes is not None:
        without[FREE_MEMORY] = budget, None
    alone = [name for name, (other, room) in without.items() if is_better(most(other, room))]
    return tuple(alone or without)


def _verdict(
    cost: RungCost, workload: Workload, budget: Budget, mix: Mix, binding: Sequence[str]
) -> RungVerdict:
    count = mix.counts.get(cost.rung, 0)
    flags = [limit.flag for limit in LIMITS if limit.name in binding]
    flags += [f"the {FREE_MEMORY}"] if FREE_MEMORY in binding else []
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
            _why_used(count / workload.steps, flags, workload.objective)
            if count
            else _why_not_used(cost, workload, budget, mix)
        ),
    )


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _why_used(share: float, binding: Sequence[str], objective: Objective) -> str:
    """For a rung that is used for that share of the steps, under these binding flags."""
    part = "all steps" if share == 1 else f"{share:.0%} of the steps"
    if not binding:
        return f"{part}: {objective.best}"
    allow = "allows" if len(binding) == 1 else "allow"
    return f"{part}: {objective.most} that {_listed(binding)} {allow}"


def _why_not_used(cost: RungCost, workload: Workload, budget: Budget, mix: Mix) -> str:
    """For a rung that the mix does not use."""
    if reason := why_unusable(cost, budget, workload.room_bytes):
        return reason
    objective, steps, done = workload.objective, workload.steps, workload.done
    value = float(objective.value(cost, done, done + steps, done + steps))
    if value < mix.value:
        return objective.less
    if value == mix.value:
        return objective.no_more
    # Idling for the mean power counts: it takes time and energy.
    alone = best_mix(replace(workload, costs=(cost,)), Budget(power_w=budget.power_w))
    if alone is None:
        limit = flag_text(POWER, budget.power_w)
        return f"draws {power_text(cost.power_w or 0.0)}, over {limit}"
    over = [
        over_text(limit, value, allowed)
        for limit, value in ((TIME, alone.time_s), (ENERGY, alone.energy_j))
        if (allowed := budget.value(limit)) is not None and value is not None
        if value > allowed
    ]
    if workload.reached is not None and not over:
        return f"the run has reached {workload.reached} and does not go back"
    return f"all steps on it take {' and '.join(over)}"


def infeasible_text(
    workload: Workload, budget: Budget, steps_per_epoch: int | None = None
) -> str:
    """Explain why no plan is feasible, which budget would be, and how many epochs are."""
    room_bytes = workload.room_bytes
    reasons = [why_unusable(cost, Budget(), room_bytes) for cost in workload.costs]
    if all(reasons):
        lines = "; ".join(
            f"{cost.rung} {reason}"
            for cost, reason in zip(workload.costs, reasons, strict=True)
        )
        return (
            f"no rung can be planned: {lines}. Export with a smaller batch or model, or "
            "measure again with `edge-train profile PKG`."
        )
    nearest = nearest_budgets(workload, budget)
    raised = [
        limit.flag
        for limit in budget.limited()
        if any(near.value(limit) != budget.value(limit) for near in nearest)
    ]
    flags = _listed(raised)
    if len(raised) == 1:
        binding = f"{flags} is too little"
    elif len(nearest) == 1:
        binding = f"{flags} are each too little"
    else:
        binding = f"{flags} are too little together, more of one is enough"
    near = ", or ".join(near.flags(budget) for near in nearest)
    return (
        f"no plan of {_length_text(workload.steps, steps_per_epoch)} fits {budget}: "
        f"{binding}. The nearest budget that works is {near}."
        f"{_fewer_text(workload, budget, steps_per_epoch)}"
    )


def _length_text(steps: int, steps_per_epoch: int | None) -> str:
    if steps_per_epoch is None:
        return f"{steps} steps"
    return f"{_epochs_text(steps // steps_per_epoch)} ({steps} steps)"


def _epochs_text(epochs: int) -> str:
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"


def require_state_fits(budget: Budget, state_bytes: int) -> None:
    """Refuse a memory limit that is too small without any measurement.

    Raises:
        BudgetError: it is below the size of the package's state.
    """
    memory_bytes = budget.memory_bytes
    if memory_bytes is not None and memory_bytes < state_bytes:
        raise BudgetError(
            f"{flag_text(MEMORY, memory_bytes)} is below the package's state of "
            f"{bytes_text(state_bytes)}. Training holds it twice and needs memory for a step "
            "as well: `edge-train plan PKG` without --memory shows what each rung needs."
        )


def nearest_budgets(workload: Workload, budget: Budget) -> list[Budget]:
    """Feasible budgets near this one, which is not.

    One for each limit that it suffices to raise alone; otherwise one with several limits
    raised. Each raised limit is the least feasible one, to within 0.1 %.
    """
    limits = [limit for limit in budget.limited() if limit is not TEMPERATURE]
    alone = [limit for limit in limits if best_mix(workload, budget.with_limit(limit, None))]
    if alone:
        return [_with_least(limit, workload, budget) for limit in alone]

    def all_raised(factor: float) -> Budget:
        raised = budget
        for limit in limits:
            raised = _raised(raised, limit, factor)
        return raised

    nearest = all_raised(_least(lambda factor: bool(best_mix(workload, all_raised(factor)))))
    for limit in limits:  # perhaps not each of them by that factor
        back = nearest.with_limit(limit, budget.value(limit))
        nearest = _with_least(limit, workload, back)
    return [nearest]


def _with_least(limit: Limit, workload: Workload, budget: Budget) -> Budget:
    """The budget with the least feasible value of that limit, if raising it suffices."""
    factor = _least(lambda factor: bool(best_mix(workload, _raised(budget, limit, factor))))
    return _raised(budget, limit, factor)


def _raised(budget: Budget, limit: Limit, factor: float) -> Budget:
    return budget.with_limit(limit, (budget.value(limit) or 0.0) * factor)


def _least(works: Callable[[float], bool]) -> float:
    """The least factor from 1 that works, to within 0.1 %; larger ones work as well."""
    high = 1.0
    while not works(high):
        high *= 2
    low = high / 2
    while high > 1 and high / low > _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _fewer_text(workload: Workload, budget: Budget, steps_per_epoch: int | None) -> str:
    """The number of epochs, or else of steps, that this budget allows."""
    has_auto = not workload.objective.is_staged  # `--epochs auto`: token-blocks decide
    if steps_per_epoch is not None and budget.is_bounded and has_auto:
        epoch = replace(workload, steps=steps_per_epoch)
        if choice := best_epochs(epoch, budget):
            epochs, each = _epochs_text(choice.epochs), _each(epoch, budget)
            return f" This one gives {epochs} with `--epochs auto`{each}."
    if not (enough := _fewer_steps(workload, budget)):
        return ""
    if steps_per_epoch is not None and enough < steps_per_epoch:
        return (
            f" This one allows {enough} steps, less than an epoch of {steps_per_epoch}: "
            "shorten it with --images."
        )
    return f" This one allows {enough} steps: reduce them with --epochs or --images."


def _each(epoch: Workload, budget: Budget) -> str:
    """The number of epochs on each rung alone, if there are several rungs."""
    if len(epoch.costs) == 1:
        return ""
    counts = [(cost.rung, epochs_on(cost.rung, epoch, budget)) for cost in epoch.costs]
    return f"; on one rung alone: {', '.join(f'{rung} {count}' for rung, count in counts)}"


def _fewer_steps(workload: Workload, budget: Budget) -> int:
    """The number of steps that this budget allows."""
    enough, too_many = 0, workload.steps
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        fits = best_mix(replace(workload, steps=middle), budget)
        enough, too_many = (middle, too_many) if fits else (enough, middle)
    return enough
