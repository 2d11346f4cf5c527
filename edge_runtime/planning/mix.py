"""The best mix of rungs for a number of steps within a budget.

Pure arithmetic on a cost profile's numbers, in seconds, joules, watts and bytes. Temperature
is not planned: it is the governor's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import DeviceError
from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import ENERGY, MEMORY, POWER, flag_text
from edge_runtime.facts.costs import DOES_NOT_FIT, UNMEASURED
from edge_runtime.planning.costs import Overhead
from edge_runtime.planning.search import Constraint, Numbers, best_counts
from edge_runtime.units import bytes_text

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Steps to be done on some of these rungs."""

    costs: tuple[RungCost, ...]  # of every rung, known or not
    steps: int  # from 1
    overhead: Overhead
    loaded: str | None = None  # the rung that costs no switch


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Steps per rung, and what all of it takes, the overhead included."""

    counts: dict[str, int]  # rung -> steps, from 1; fewest token-blocks first
    token_blocks: int
    time_s: float
    energy_j: float | None
    wait_s: float  # of `time_s`, idle to keep the mean power


def best_mix(task: Task, budget: Budget) -> Mix | None:
    """The mix that keeps most token-blocks; of equal ones the fastest.

    Where the mean power would be too high, it waits as long as that takes.

    Args:
        task: what to do.
        budget: limits of the whole, overhead included.

    Returns:
        The mix, or `None` where nothing fits.

    Raises:
        DeviceError: energy or power is limited and no rung's energy is known.
    """
    require_energy(task, budget)
    chosen = [cost for cost in task.costs if why_unusable(cost, budget) is None]
    if not chosen:
        return None
    step_s = np.array([cost.step_s for cost in chosen], np.float64)
    counts = best_counts(
        np.array([cost.token_blocks for cost in chosen], np.float64),
        step_s,
        _constraints(task, chosen, step_s, budget),
        task.steps,
        next((index for index, cost in enumerate(chosen) if cost.rung == task.loaded), None),
    )
    if counts is None:
        return None
    used = [(cost, count) for cost, count in zip(chosen, counts, strict=True) if count]
    used.sort(key=lambda pair: (pair[0].token_blocks, pair[0].step_s))
    return _mix(task, used, budget)


def require_energy(task: Task, budget: Budget) -> None:
    """Refuse a limit that nothing measures.

    Raises:
        DeviceError: energy or power is limited and unknown.
    """
    if not _needs_energy(budget):
        return
    known = any(cost.step_j is not None for cost in task.costs)
    if task.overhead.fixed_j is None or not known:
        flag = (POWER if budget.energy_j is None else ENERGY).flag
        raise DeviceError(
            f"{flag} cannot be planned: the cost profile has no energy, since the board had "
            f"no power sensor when it was measured. Leave {flag} out, or see `edge-train "
            "doctor` for the sensors and measure again with `edge-train profile PKG`."
        )


def _needs_energy(budget: Budget) -> bool:
    return budget.energy_j is not None or budget.power_w is not None


def why_unusable(cost: RungCost, budget: Budget) -> str | None:
    """What keeps a rung out of every plan, for people; `None` if nothing does."""
    if cost.source == DOES_NOT_FIT:
        return "does not fit this board: killed for memory while it was measured"
    if cost.source == UNMEASURED or cost.step_s is None:
        return "was not measured"
    if _needs_energy(budget) and cost.step_j is None:
        return "its energy was not measured"
    if (memory_bytes := budget.memory_bytes) is None:
        return None
    if (need_bytes := cost.need_bytes) is None:
        return "its memory was not measured"
    if need_bytes <= memory_bytes:
        return None
    return f"needs {bytes_text(need_bytes)}, over {flag_text(MEMORY, memory_bytes)}"


def _constraints(
    task: Task, costs: Sequence[RungCost], step_s: Numbers, budget: Budget
) -> list[Constraint]:
    overhead, time_s, energy_j = task.overhead, budget.time_s, budget.energy_j
    fixed_s, fixed_j = overhead.fixed_s, overhead.fixed_j or 0.0
    found = []
    if time_s is not None:
        found.append(Constraint(step_s, fixed_s, overhead.switch_s, time_s))
    if not _needs_energy(budget):
        return found
    step_j = np.array([cost.step_j for cost in costs], np.float64)
    switch_j = overhead.switch_j or 0.0
    if energy_j is not None:
        found.append(Constraint(step_j, fixed_j, switch_j, energy_j))

    def above(power_w: float, limit_j: float) -> Constraint:
        """The energy above that power shall stay below the limit."""
        return Constraint(
            step_j - power_w * step_s,
            fixed_j - power_w * fixed_s,
            max(0.0, switch_j - power_w * overhead.switch_s),
            limit_j,
        )

    if (power_w := budget.power_w) is None:
        return found
    idle_w = overhead.idle_w
    if idle_w is None or idle_w >= power_w:  # waiting does not help
        return [*found, above(power_w, _ROUNDING * power_w * task.steps * step_s.min())]
    # With the wait that brings the mean down to `power_w`, the whole takes
    # above(idle_w) / (power_w - idle_w) seconds, at `power_w`.
    if time_s is not None:
        found.append(above(idle_w, time_s * (power_w - idle_w)))
    if energy_j is not None:
        found.append(above(idle_w, energy_j * (power_w - idle_w) / power_w))
    return found


def _mix(task: Task, used: Sequence[tuple[RungCost, int]], budget: Budget) -> Mix:
    overhead = task.overhead
    switches = sum(cost.rung != task.loaded for cost, _ in used)
    time_s = overhead.fixed_s + switches * overhead.switch_s
    time_s += sum((cost.step_s or 0.0) * count for cost, count in used)
    energy_j, wait_s = overhead.fixed_j, 0.0
    if any(cost.step_j is None for cost, _ in used):
        energy_j = None
    if energy_j is not None:
        energy_j += switches * (overhead.switch_j or 0.0)
        energy_j += sum((cost.step_j or 0.0) * count for cost, count in used)
        wait_s = _wait_s(time_s, energy_j, budget.power_w, overhead.idle_w)
        energy_j += wait_s * (overhead.idle_w or 0.0)
    return Mix(
        counts={cost.rung: count for cost, count in used},
        token_blocks=sum(cost.token_blocks * count for cost, count in used),
        time_s=time_s + wait_s,
        energy_j=energy_j,
        wait_s=wait_s,
    )


def _wait_s(
    time_s: float, energy_j: float, power_w: float | None, idle_w: float | None
) -> float:
    """How long to idle for the mean power to come down to the limit."""
    if power_w is None or idle_w is None or idle_w >= power_w:
        return 0.0
    return max(0.0, (energy_j - power_w * time_s) / (power_w - idle_w))
