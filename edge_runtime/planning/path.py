"""The best path of a run through its rungs for the workload's objective.

With token-blocks the order of the rungs does not matter, and it is a mix of
`edge_runtime.planning.mix`. With an objective whose values change over the run it does: rungs
follow each other from few to many token-blocks, at most three, and the two switches are
searched on a grid. Up to `_GRID_STEPS` steps the grid is complete, beyond that each switch is
at most 1 % of the run from the best place. Three rungs after three are tried, those first that
would be best without limits, until no others can be better: of 60 rungs mostly some hundred of
34 000, under a tight budget a third. Pure arithmetic, as in `mix`.
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
_ROUNDING = 1e-9  # of a value


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
    best = best_mix(workload, budget)  # off the grid, where the budget is just enough
    if best is None:
        return None
    costs, grid = usable_costs(workload, budget), _grid(workload.steps)
    values = np.stack([_values(workload, cost, grid) for cost in costs])
    for trio, most in _trios(values):
        if most < best.value - _ROUNDING * abs(best.value):
            break
        chosen = [costs[place] for place in trio]
        counts = _best_counts(workload, budget, chosen, grid, values[trio])
        if counts is not None:
            used = [(cost, n) for cost, n in zip(chosen, counts, strict=True) if n]
            path = mix_of(workload, used, budget)
            best = max(best, path, key=lambda path: (path.value, -path.time_s))
    return best


def _grid(steps: int) -> Indices:
    """(G,) numbers of steps after which a rung may end."""
    points = min(steps, _GRID_STEPS) + 1
    return np.unique(np.linspace(0, steps, points).round().astype(np.int64))


def _values(workload: Workload, cost: RungCost, grid: Indices) -> Numbers:
    """(G,) the value of a rung up to every point of the grid."""
    done, total = workload.done, workload.done + workload.steps
    return workload.objective.value(cost, done, done + grid, total)


def _trios(values: Numbers) -> Iterator[tuple[Indices, float]]:
    """Every three rungs, and the most that a path through them has where nothing limits it.

    The highest first, so that a search can end early. Where there are fewer than three rungs,
    the first is repeated.

    Args:
        values: (R, G) of every rung, in the order of training, up to every point of the grid.
    """
    rungs = len(values)
    if rungs < 3:
        trios = np.array([[0] * (3 - rungs) + [*range(rungs)]])
    else:
        trios = np.array([*combinations(range(rungs), 3)])
    a, b, c = trios.T
    gains = np.stack([(each - values).max(axis=1) for each in values])  # (R, R) by a switch
    most = gains[a, b] + gains[b, c] + values[c, -1]
    for place in np.argsort(-most, kind="stable"):
        yield trios[place], float(most[place])


def _best_counts(
    workload: Workload,
    budget: Budget,
    trio: Sequence[RungCost],
    grid: Indices,
    values: Numbers,
) -> tuple[int, ...] | None:
    """Steps on each of three rungs; `None` if no pair of switches is feasible.

    Args:
        workload: the steps.
        budget: limits.
        trio: of rungs, in the order of training; a repeated one is not used before its last.
        grid: (G,) steps after which the next rung may begin.
        values: (3, G) of these rungs up to every point of the grid.
    """
    first = grid if trio[0] != trio[1] else grid[:1]
    second = grid if trio[1] != trio[2] else grid[:1]
    before_second, before_third = first[:, None], second[None, :]
    counts = (before_second, before_third - before_second, workload.steps - before_third)
    feasible = (counts[1] >= 0) & _is_within(workload, budget, trio, counts)
    if not feasible.any():
        return None
    a, b, c = values
    gains = (a - b)[: len(first), None] + (b - c)[None, : len(second)]
    gains = np.where(feasible, gains + c[-1], -np.inf)
    times = sum((cost.step_s or 0.0) * n for cost, n in zip(trio, counts, strict=True))
    best = np.where(gains == gains.max(), times, np.inf).argmin()
    row, column = np.unravel_index(best, gains.shape)
    after_first, after_second = int(first[row]), int(second[column])
    return after_first, after_second - after_first, workload.steps - after_second


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
