"""What noise did to measured costs, taken back as far as it is noise.

The time of a step is nearly a straight line over its FLOPs. Where the times that a rung was
measured disagree, the line of all rungs knows better; where they agree, they do. Seconds,
joules.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import mul

from edge_runtime.facts import RungCost
from edge_runtime.facts.costs import MEASURED

_LEAST = 3  # costs: a line through two says nothing of them
_SUREST = 1e-3  # of a step's time: no clock is better


def straightened(costs: Sequence[RungCost]) -> list[RungCost]:
    """Measured costs drawn towards a straight line over FLOPs.

    With `h` half the interval of a rung and `d` its distance from the line, it goes
    `d * h**2 / (h**2 + d**2)`: all of the way if that is short for what is known of the rung,
    next to nothing if the rung is known better than that. Its power stays: it was read all
    the time.
    """
    measured = [cost for cost in costs if cost.source == MEASURED and cost.step_s]
    if len({cost.flops for cost in measured}) < _LEAST:
        return list(costs)
    line_s = _line(measured)
    return [_nearer(cost, line_s) if cost in measured else cost for cost in costs]


def _nearer(cost: RungCost, line_s: Callable[[float], float]) -> RungCost:
    before_s, h = cost.step_s or 0.0, _half_interval_s(cost)
    d = line_s(cost.flops) - before_s
    step_s = before_s + d * h**2 / (h**2 + d**2)
    step_j = None if cost.step_j is None else cost.step_j * step_s / before_s
    return replace(cost, step_s=step_s, step_j=step_j)


def _half_interval_s(cost: RungCost) -> float:
    half_s = ((cost.step_s_high or 0.0) - (cost.step_s_low or 0.0)) / 2
    return max(half_s, _SUREST * (cost.step_s or 0.0))


def _line(costs: Sequence[RungCost]) -> Callable[[float], float]:
    """Least squares; a rung counts by how well it is known."""
    weights = [1 / _half_interval_s(cost) ** 2 for cost in costs]

    def mean(values: Sequence[float]) -> float:
        return math.fsum(map(mul, weights, values)) / math.fsum(weights)

    mean_flops = mean([cost.flops for cost in costs])
    mean_s = mean([cost.step_s or 0.0 for cost in costs])
    away = [cost.flops - mean_flops for cost in costs]
    both = mean([x * (c.step_s or 0.0) for x, c in zip(away, costs, strict=True)])
    slope = both / mean([x * x for x in away])
    return lambda flops: mean_s + slope * (flops - mean_flops)
