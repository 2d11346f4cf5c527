"""What a plan maximises: a value per step, which depends on its rung and its place in the run.

Pure arithmetic. Values add up over the steps of a run; more is better.
"""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from edge_runtime.facts import Calibration, RungCost
from edge_runtime.facts.plan import GRADIENT_ERROR, TOKENS

Numbers = NDArray[np.float64]


class Objective(Protocol):
    """The value of steps, and its name for people."""

    name: str  # as on the command line
    best: str  # of a rung: it has the highest value
    most: str  # of a plan: no other one within these limits has a higher value
    less: str  # of a rung: it has a lower value than the plan
    no_more: str  # of a rung: it has the same value as the plan
    is_staged: bool  # the values of a rung change over the run, and rungs only rise

    def value(self, cost: RungCost, first: int, end: ArrayLike, total: int) -> Numbers:
        """The value of some steps on one rung.

        Args:
            cost: of the rung.
            first: steps done before them.
            end: steps done after them; (...) for several ends.
            total: steps of the run.

        Returns:
            (...) float64.
        """


class TokenBlocksObjective(Objective):
    """The student's tokens times the blocks that they pass."""

    name = TOKENS
    best = "keeps the most token-blocks"
    most = "the most"
    less = "keeps fewer token-blocks than the budget allows"
    no_more = "keeps no more token-blocks and is no faster"
    is_staged = False

    @override
    def value(self, cost: RungCost, first: int, end: ArrayLike, total: int) -> Numbers:
        return cost.token_blocks * (np.asarray(end, np.float64) - first)


class GradientErrorObjective(Objective):
    """The cost-adjusted error of the gradients, negative; see `facts.Calibration.error`.

    Between two stages it is linear in the progress, before the first and after the last one
    constant. A step has the mean over its share of the run.
    """

    name = GRADIENT_ERROR
    best = "the smallest cost-adjusted error"
    most = "the smallest error"
    less = "over the whole run its cost-adjusted error is larger than the plan's"
    no_more = "its cost-adjusted error is no smaller and it is no faster"
    is_staged = True

    def __init__(self, calibration: Calibration) -> None:
        inner = [stage.progress for stage in calibration.stages]
        self._knots = np.array([0.0, *inner, 1.0])  # of progress; equal ones do no harm
        self._errors: dict[str, Numbers] = {}
        self._sums: dict[str, Numbers] = {}  # integrals of the errors up to each knot
        for rung in calibration.costs:
            errors = [calibration.error(stage, rung) for stage in calibration.stages]
            at_knots = np.array([errors[0], *errors, errors[-1]])
            parts = np.diff(self._knots) * (at_knots[1:] + at_knots[:-1]) / 2
            self._errors[rung] = at_knots
            self._sums[rung] = np.concatenate([[0.0], np.cumsum(parts)])

    @override
    def value(self, cost: RungCost, first: int, end: ArrayLike, total: int) -> Numbers:
        until = self._until(cost.rung, np.asarray(end) / total)
        return total * (self._until(cost.rung, np.asarray(first) / total) - until)

    def _until(self, rung: str, progress: Numbers) -> Numbers:
        """The integral of a rung's error over the progress from 0."""
        knots, errors = self._knots, self._errors[rung]
        below = np.clip(np.searchsorted(knots, progress, side="right") - 1, 0, len(knots) - 2)
        here = np.interp(progress, knots, errors)
        part = (progress - knots[below]) * (errors[below] + here) / 2
        result: Numbers = self._sums[rung][below] + part
        return result


TOKEN_BLOCKS = TokenBlocksObjective()


def objective_of(calibration: Calibration | None) -> Objective:
    """What plans maximise with this calibration; `None`: token-blocks."""
    return TOKEN_BLOCKS if calibration is None else GradientErrorObjective(calibration)


def is_as_good(value: float, best: float, share: float) -> bool:
    """Whether a value is nearly the best: at least that share of it, for values above 0."""
    return value >= best - (1 - share) * abs(best)
