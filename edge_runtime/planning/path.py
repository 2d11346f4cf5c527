"""The best path of a run through its rungs for the workload's objective.

With token-blocks the order of the rungs does not matter, and it is a mix of
`edge_runtime.planning.mix`. With an objective whose values change over the run it does: rungs
follow each other from few to many token-blocks, at most three, and the two switches are
searched on a grid. Up to `_GRID_STEPS` steps the grid is complete, beyond that each switch is
at most 1 % of the run from the best place. Pure arithmetic, as in `mix`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.facts import Budget, RungCost
from edge_runtime.planning.constraints import constraints_of
from edge_runtime.planning.costs import training_order
from edge_runtime.planning.mix import (
    Indices,
    Mix,
    Workload,
    best_mix,
    mix_of,
    steady_mix,
    usable_costs,
)
from edge_runtime.planning.objective import Numbers

_GRID_STEPS = 100


def best_path(workload: Workload, budget: Budget) -> Mix | None:
    """The path with the highest value; `None` if none is feasible. Errors as of `best_mix`."""
    find = _staged if workload.objective.is_staged else best_mix
    return find(workload, budget)


def steady_path(workload: Workload, budget: Budget) -> Mix | None:
    """As `best_path`; of token-blocks, a steady mix."""
    find = _staged if workload.objective.is_staged else steady_mix
    return find(workload, budget)


def _staged(workload: Workload, budget: Budget) -> Mix | None:
    """The best path that begins as little below the rung that is reached as is feasible."""
    rungs = sorted(workload.costs, key=training_order)
    names = [cost.rung for cost in rungs]
    reached = names.index(workload.reached) if workload.reached in names else 0
    for least in range(reached, -1, -1):
        if path := _rising(replace(workload, costs=tuple(rungs[least:])), budget):
            return path
    return None


def _rising(workload: Workload, budget: Budget) -> Mix | None:
    """The best path, whose rungs follow each other in the order of the costs."""
    feasible = best_mix(workload, budget)  # off the grid, where the budget is just enough
    if feasible is None:
        return None
    paths = [feasible, *_paths(workload, budget, usable_costs(workload, budget))]
    return max(paths, key=lambda path: (path.value, -path.time_s))


def _paths(workload: Workload, budget: Budget, costs: Sequence[RungCost]) -> Iterator[Mix]:
    """The best path of every three rungs, in this order; of fewer, where there are no more."""
    steps = workload.steps
    points = min(steps, _GRID_STEPS) + 1
    grid = np.unique(np.linspace(0, steps, points).round().astype(np.int64))
    for chosen in combinations(costs, min(3, len(costs))):
        trio = (*chosen[:1] * (3 - len(chosen)), *chosen)
        first = grid if len(chosen) == 3 else grid[:1]
        second = grid if len(chosen) > 1 else grid[:1]
        counts = _best_counts(workload, budget, trio, first, second)
        if counts is not None:
            used = [(cost, n) for cost, n in zip(trio, counts, strict=True) if n]
            yield mix_of(workload, used, budget)


def _best_counts(
    workload: Workload,
    budget: Budget,
    trio: Sequence[RungCost],
    first: Indices,
    second: Indices,
) -> tuple[int, ...] | None:
    """Steps on each of three rungs; `None` if no pair of switches is feasible.

    Args:
        workload: the steps.
        budget: limits.
        trio: of rungs, in the order of training.
        first: (F,) steps after which the second rung may begin.
        second: (S,) steps after which the third one may.
    """
    before_second, before_third = first[:, None], second[None, :]
    counts = (before_second, before_third - before_second, workload.steps - before_third)
    feasible = (counts[1] >= 0) & _is_within(workload, budget, trio, counts)
    if not feasible.any():
        return None
    values = np.where(feasible, _values(workload, trio, first, second), -np.inf)
    times = sum((cost.step_s or 0.0) * n for cost, n in zip(trio, counts, strict=True))
    best = np.where(values == values.max(), times, np.inf).argmin()
    row, column = np.unravel_index(best, values.shape)
    after_first, after_second = int(first[row]), int(second[column])
    return after_first, after_second - after_first, workload.steps - after_second


def _values(
    workload: Workload, trio: Sequence[RungCost], first: Indices, second: Indices
) -> Numbers:
    """(F, S) the value for every pair of switches: a sum of one term for each."""
    total = workload.done + workload.steps

    def until(cost: RungCost, ends: Indices) -> Numbers:
        return workload.objective.value(cost, workload.done, workload.done + ends, total)

    a, b, c = trio
    of_first = until(a, first) - until(b, first)
    of_second = until(b, second) - until(c, second)
    values: Numbers = of_first[:, None] + of_second + until(c, np.array([workload.steps]))
    return values


def _is_within(
    workload: Workload,
    budget: Budget,
    trio: Sequence[RungCost],
    counts: tuple[Indices, Indices, Indices],
) -> NDArray[np.bool_]:
    """Whether these counts, which broadcast to (F, S), keep every limit."""
    switches = sum(
        (n > 0) * (cost.rung != workload.loaded) for cost, n in zip(trio, counts, strict=True)
    )
    shape = np.broadcast_shapes(*(each.shape for each in counts))
    within = np.ones(shape, np.bool_)
    constraints = constraints_of(
        trio, budget, overhead=workload.overhead, steps=workload.steps
    )
    for constraint in constraints:
        used = sum(use * n for use, n in zip(constraint.use, counts, strict=True))
        within &= used + constraint.per_choice * switches <= constraint.room
    return within
