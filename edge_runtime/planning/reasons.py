"""Why a plan takes a rung or refuses it, for people."""

from collections.abc import Sequence
from dataclasses import replace

from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import ENERGY, POWER, TIME, flag_text
from edge_runtime.planning.mix import Mix, Task, best_mix, why_unusable
from edge_runtime.units import duration_text, energy_text, power_text


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def why_taken(share: float, binding: Sequence[str]) -> str:
    """Of a rung that is taken for that share of the steps, under these binding flags."""
    part = "all steps" if share == 1 else f"{share:.0%} of the steps"
    if not binding:
        return f"{part}: keeps the most token-blocks"
    leave = "leaves" if len(binding) == 1 else "leave"
    return f"{part}: the most that {listed(binding)} {leave} room for"


def why_refused(cost: RungCost, task: Task, budget: Budget, mix: Mix) -> str:
    """Of a rung that the mix does not use."""
    if reason := why_unusable(cost, budget):
        return reason
    kept = cost.token_blocks * task.steps
    if kept < mix.token_blocks:
        return "keeps fewer token-blocks than the budget has room for"
    if kept == mix.token_blocks:
        return "keeps no more token-blocks and is no faster"
    # Waiting for the mean power counts: it takes time, and energy.
    alone = best_mix(replace(task, costs=(cost,)), Budget(power_w=budget.power_w))
    if alone is None:
        limit = flag_text(POWER, budget.power_w)
        return f"draws {power_text(cost.power_w or 0.0)}, over {limit}"
    over = []
    time_s, energy_j = budget.time_s, budget.energy_j
    if time_s is not None and alone.time_s > time_s:
        over.append(f"{duration_text(alone.time_s)}, over {flag_text(TIME, time_s)}")
    if energy_j is not None and alone.energy_j is not None and alone.energy_j > energy_j:
        over.append(f"{energy_text(alone.energy_j)}, over {flag_text(ENERGY, energy_j)}")
    return f"all steps on it take {' and '.join(over)}"
