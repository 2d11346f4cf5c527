"""The search under the planner: how many steps on which choice, at most three of them.

Maximise a gain that is linear in the counts, under linear constraints, with a given sum of
counts. It tries one, two and three choices. Of three, the count of one goes through a grid;
the other two follow from it in closed form, because their sum is then known and every
constraint becomes a bound on one number. On up to 1000 steps the grid is complete and the
result is the best there is; on more it is coarse, and each of the three takes its turn on it.

The set of mixes that are tried does not depend on the limits, so that a wider limit never
gives a worse one. Plain numbers, no units; the same input gives the same counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

EXACT_STEPS = 1000
_COARSE = 334  # points of the grid beyond that
_SLACK = 1e-9  # of a limit, for rounding


@dataclass(frozen=True, slots=True)
class Constraint:
    """`sum(use * counts) + fixed + per_choice * (choices that are switched to) <= limit`."""

    use: Numbers  # (R,) per step
    fixed: float
    per_choice: float
    limit: float


def best_counts(
    gain: Numbers,
    order: Numbers,
    constraints: Sequence[Constraint],
    steps: int,
    loaded: int | None,
) -> tuple[int, ...] | None:
    """Counts per choice, at most three of them above zero.

    Args:
        gain: (R,) per step, to be maximised.
        order: (R,) per step; of equal gains the least sum of these is taken.
        constraints: all have to hold.
        steps: the sum of the counts, from 1.
        loaded: the choice that is not switched to.

    Returns:
        R counts, or `None` where nothing holds all constraints.
    """
    kept = _undominated(gain, order, constraints, loaded)
    # Of two choices the later one is to be taken as often as possible.
    kept.sort(key=lambda choice: (gain[choice], -order[choice], choice))
    best: tuple[float, float, tuple[int, ...]] | None = None
    for size in (1, 2, 3):
        trios = _trios(kept, size, steps)
        if not len(trios):
            break
        found = _best_of(trios, gain, order, constraints, steps, loaded)
        if found and (best is None or (found[0], -found[1]) > (best[0], -best[1])):
            best = found
    return None if best is None else best[2]


def _undominated(
    gain: Numbers, order: Numbers, constraints: Sequence[Constraint], loaded: int | None
) -> list[int]:
    """Choices that no other one replaces with as much gain for as little of everything."""
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

    Fewer than three choices are trios with one named twice.
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
    """Gain, order and counts of the best of these trios, which name equally many choices."""
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
    """(C, G) how often c can be taken among the rest, at most; -1 where nothing holds."""
    a, b, c = trios.T[..., None]
    least = np.zeros((len(trios), len(of_a)))
    most = np.broadcast_to(rest, least.shape).astype(np.float64)
    for constraint in constraints:
        use = constraint.use
        room = constraint.limit + _SLACK * abs(constraint.limit) - constraint.fixed
        left = room - constraint.per_choice * switches - use[a] * of_a - use[b] * rest
        slope = use[c] - use[b]  # (C, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = left / slope
        most = np.where(slope > 0, np.minimum(most, np.floor(bound)), most)
        least = np.where(slope < 0, np.maximum(least, np.ceil(bound)), least)
        most = np.where((slope == 0) & (left < 0), -1.0, most)
    return np.where(least <= most, most, -1.0)
