"""The best mix of rungs for a number of steps within a budget.

Pure arithmetic on a cost profile's numbers, in seconds, joules, watts and bytes. Temperature
is not planned: the governor watches it.

The search maximises a gain that is linear in the counts of steps, under linear constraints,
with a given sum of counts. It tries one, two and three rungs. Of three, one count runs over a
grid; the other two follow in closed form, because their sum is then known and every
constraint becomes a bound on one number. Up to 1000 steps the grid is complete and the result
is optimal; for more steps it is coarse, and each of the three rungs is tried on it. The set of
mixes that are tried does not depend on the limits, so a wider limit never gives a worse mix.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DeviceError
from edge_runtime.facts import Budget, RungCost
from edge_runtime.facts.budget import ENERGY, MEMORY, POWER, over_text
from edge_runtime.facts.costs import DOES_NOT_FIT, UNMEASURED
from edge_runtime.planning.constraints import Constraint, constraints_of
from edge_runtime.planning.costs import Overhead, training_order
from edge_runtime.planning.objective import TOKEN_BLOCKS, Numbers, Objective
from edge_runtime.units import bytes_text

Indices = NDArray[np.int64]

EXACT_STEPS = 1000
_COARSE = 334  # points of the grid, for more steps than that
_AS_GOOD = 0.99  # of the token-blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Steps to be done on some of these rungs."""

    costs: tuple[RungCost, ...]  # of every rung, known or not
    steps: int  # from 1
    overhead: Overhead
    loaded: str | None = None  # the rung that needs no switch
    room_bytes: int | None = None  # of memory that the run may hold; None: unknown
    objective: Objective = TOKEN_BLOCKS
    done: int = 0  # steps of the run before these
    reached: str | None = None  # the rung of the last of them, for a staged objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Steps per rung, and their total costs, the overhead included."""

    counts: dict[str, int]  # rung -> steps, from 1; in the order of training
    token_blocks: int
    value: float  # of the workload's objective, in this order
    time_s: float
    energy_j: float | None
    wait_s: float  # part of `time_s`: idle, to keep the mean power


def best_mix(workload: Workload, budget: Budget) -> Mix | None:
    """The mix that keeps the most token-blocks; of equal ones the fastest.

    If the mean power would be too high, it includes the idle time that lowers it.

    Args:
        workload: the steps and rungs.
        budget: limits of the total, overhead included.

    Returns:
        The mix, or `None` if none is feasible.

    Raises:
        DeviceError: energy or power is limited and no rung's energy is known.
    """
    require_energy(workload, budget)
    chosen = usable_costs(workload, budget)
    if not chosen:
        return None
    step_s = np.array([cost.step_s for cost in chosen], np.float64)
    counts = _best_counts(
        np.array([cost.token_blocks for cost in chosen], np.float64),
        step_s,
        constraints_of(chosen, budget, overhead=workload.overhead, steps=workload.steps),
        workload.steps,
        next(
            (index for index, cost in enumerate(chosen) if cost.rung == workload.loaded), None
        ),
    )
    if counts is None:
        return None
    used = [(cost, count) for cost, count in zip(chosen, counts, strict=True) if count]
    used.sort(key=lambda pair: training_order(pair[0]))
    return mix_of(workload, used, budget)


def steady_mix(workload: Workload, budget: Budget) -> Mix | None:
    """The mix of the nearest rungs that keeps nearly as much as the best of all.

    The steps of a run then cost about the same from the first to the last. If a mix began
    with much cheaper ones, and the board became faster than its profile, no later step could
    use what was saved. Arguments, result and errors as of `best_mix`.
    """
    best = best_mix(workload, budget)
    if best is None or len(best.counts) == 1:
        return best
    usable = usable_costs(workload, budget)
    levels = sorted({cost.token_blocks for cost in usable})
    for apart in range(1, len(levels)):  # a rung between two others may never pay
        pairs = zip(levels, levels[apart:], strict=False)
        mixes = [_mix_of_levels(workload, budget, usable, pair) for pair in pairs]
        kept = max(mixes, key=lambda mix: mix.token_blocks if mix else 0)
        if kept is not None and kept.token_blocks >= _AS_GOOD * best.token_blocks:
            return kept
    return best


def _mix_of_levels(
    workload: Workload, budget: Budget, costs: Sequence[RungCost], levels: Sequence[int]
) -> Mix | None:
    """The best mix of rungs with these numbers of token-blocks."""
    chosen = tuple(cost for cost in costs if cost.token_blocks in levels)
    return best_mix(replace(workload, costs=chosen), budget)


def require_energy(workload: Workload, budget: Budget) -> None:
    """Refuse a limit on a quantity that was not measured.

    Raises:
        DeviceError: energy or power is limited and unknown.
    """
    if not budget.needs_energy:
        return
    known = any(cost.step_j is not None for cost in workload.costs)
    if workload.overhead.fixed_j is None or not known:
        flag = (POWER if budget.energy_j is None else ENERGY).flag
        raise DeviceError(
            f"{flag} cannot be planned: the cost profile has no energy: when it was "
            "measured, the board had no power sensor, or none whose readings can be true. "
            f"Leave {flag} out, or see `edge-train doctor` for the sensors and measure again "
            "with `edge-train profile PKG`."
        )


def usable_costs(workload: Workload, budget: Budget) -> list[RungCost]:
    """Costs of the rungs that plans can use, in their order."""
    room_bytes = workload.room_bytes
    return [cost for cost in workload.costs if why_unusable(cost, budget, room_bytes) is None]


def why_unusable(cost: RungCost, budget: Budget, room_bytes: int | None) -> str | None:
    """Why no plan can use a rung, for people; `None` if plans can.

    Args:
        cost: of the rung.
        budget: limits that the user has set.
        room_bytes: memory that the machine or container leaves to the run; `None`: unknown.
    """
    if cost.source == DOES_NOT_FIT:
        return "does not fit this board: there is no memory for it"
    if cost.source == UNMEASURED or cost.step_s is None:
        return "was not measured"
    if budget.needs_energy and cost.step_j is None:
        return "its energy was not measured"
    need_bytes, memory_bytes = cost.need_bytes, budget.memory_bytes
    if need_bytes is None:
        return None if memory_bytes is None else "its memory was not measured"
    if memory_bytes is not None and need_bytes > memory_bytes:
        return f"needs {over_text(MEMORY, need_bytes, memory_bytes)}"
    if room_bytes is not None and need_bytes > room_bytes:
        return f"needs {bytes_text(need_bytes)}, over the {bytes_text(room_bytes)} free here"
    return None


def mix_of(workload: Workload, used: Sequence[tuple[RungCost, int]], budget: Budget) -> Mix:
    """The totals of rungs with their steps, in the order of training."""
    overhead = workload.overhead
    switches = sum(cost.rung != workload.loaded for cost, _ in used)
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
        value=_value(workload, used),
        time_s=time_s + wait_s,
        energy_j=energy_j,
        wait_s=wait_s,
    )


def _value(workload: Workload, used: Sequence[tuple[RungCost, int]]) -> float:
    value, done = 0.0, workload.done
    for cost, count in used:
        end, total = done + count, workload.done + workload.steps
        value += float(workload.objective.value(cost, done, end, total))
        done = end
    return value


def _wait_s(
    time_s: float, energy_j: float, power_w: float | None, idle_w: float | None
) -> float:
    """Idle time that lowers the mean power to the limit."""
    if power_w is None or idle_w is None or idle_w >= power_w:
        return 0.0
    return max(0.0, (energy_j - power_w * time_s) / (power_w - idle_w))


def _best_counts(
    gain: Numbers,
    order: Numbers,
    constraints: Sequence[Constraint],
    steps: int,
    loaded: int | None,
) -> tuple[int, ...] | None:
    """Counts per choice, at most three of them above zero.

    Args:
        gain: (R,) per step, to be maximised.
        order: (R,) per step; of equal gains, the least sum of these is chosen.
        constraints: all must hold.
        steps: the sum of the counts, from 1.
        loaded: the choice that needs no switch.

    Returns:
        R counts, or `None` if the constraints cannot be met.
    """
    kept = _undominated(gain, order, constraints, loaded)
    # Of two choices, the later one is used as often as possible.
    kept.sort(key=lambda choice: (gain[choice], -order[choice], choice))
    best: tuple[float, float, tuple[int, ...]] | None = None
    for size in (1, 2, 3):
        trios = _trios(kept, size, steps)
        if not len(trios):
            break
        other = _best_of(trios, gain, order, constraints, steps, loaded)
        if other and (best is None or (other[0], -other[1]) > (best[0], -best[1])):
            best = other
    return None if best is None else best[2]


def _undominated(
    gain: Numbers, order: Numbers, constraints: Sequence[Constraint], loaded: int | None
) -> list[int]:
    """Choices that no other one dominates: no less gain at no higher use of anything."""
    costs = np.stack([-gain, order, *(constraint.use for constraint in constraints)])

    def replaces(one: int, other: int) -> bool:
        if (costs[:, one] == costs[:, other]).all():
            return one == loaded or (one < other and other != loaded)
        return other != loaded and bool((costs[:, one] <= costs[:, other]).all())

    everyone = range(len(gain))
    return [
        choice
        for choice in everyone
        if not any(other != choice and replaces(other, choice) for other in everyone)
    ]


def _trios(kept: Sequence[int], size: int, steps: int) -> Indices:
    """(C, 3) choices: one on the grid, then two that share the rest, in the order of `kept`.

    With fewer than three choices, one is repeated.
    """
    if size < 3:
        trios = [(group[0], group[0], group[-1]) for group in combinations(kept, size)]
    elif steps <= EXACT_STEPS:
        trios = list(combinations(kept, 3))
    else:
        place = {choice: index for index, choice in enumerate(kept)}
        trios = [trio for trio in permutations(kept, 3) if place[trio[1]] < place[trio[2]]]
    return np.array(trios, np.int64).reshape(-1, 3)


def _grid(size: int, steps: int) -> Indices:
    if size < 3:
        return np.zeros(1, np.int64)
    points = min(steps, EXACT_STEPS) + 1 if steps <= EXACT_STEPS else _COARSE
    return np.unique(np.linspace(0, steps, points).round().astype(np.int64))


def _best_of(
    trios: Indices,
    gain: Numbers,
    order: Numbers,
    constraints: Sequence[Constraint],
    steps: int,
    loaded: int | None,
) -> tuple[float, float, tuple[int, ...]] | None:
    """Gain, order and counts of the best of these trios, all with equally many choices."""
    a, b, c = trios.T[..., None]  # (C, 1) each
    of_a = _grid(len({*trios[0].tolist()}), steps)  # (G,)
    rest = steps - of_a
    distinct = [{*trio} - {loaded} for trio in trios.tolist()]
    switches = np.array([[len(choices)] for choices in distinct])  # (C, 1)
    of_c = _most_of_c(trios, of_a, rest, switches, constraints)  # (C, G)
    gains = gain[a] * of_a + gain[b] * rest + (gain[c] - gain[b]) * of_c
    gains[of_c < 0] = -np.inf
    if (best := gains.max()) == -np.inf:
        return None
    orders = order[a] * of_a + order[b] * rest + (order[c] - order[b]) * of_c
    trio, point = np.unravel_index(
        np.where(gains == best, orders, np.inf).argmin(), gains.shape
    )
    last = int(of_c[trio, point])
    counts = [0] * len(gain)
    shares = (int(of_a[point]), int(rest[point]) - last, last)
    for choice, count in zip(trios[trio].tolist(), shares, strict=True):
        counts[choice] += count
    return float(best), float(orders[trio, point]), tuple(counts)


def _most_of_c(
    trios: Indices,
    of_a: Indices,
    rest: Indices,
    switches: Indices,
    constraints: Sequence[Constraint],
) -> Numbers:
    """(C, G) the largest possible count of c among the rest; -1 where none is feasible."""
    a, b, c = trios.T[..., None]
    least = np.zeros((len(trios), len(of_a)))
    most = np.broadcast_to(rest, least.shape).astype(np.float64)
    for constraint in constraints:
        use = constraint.use
        left = (
            constraint.room - constraint.per_choice * switches - use[a] * of_a - use[b] * rest
        )
        slope = use[c] - use[b]  # (C, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = left / slope
        most = np.where(slope > 0, np.minimum(most, np.floor(bound)), most)
        least = np.where(slope < 0, np.maximum(least, np.ceil(bound)), least)
        most = np.where((slope == 0) & (left < 0), -1.0, most)
    return np.where(least <= most, most, -1.0)
