"""How far the gradients of each rung are from those of the dense one: the calibration.

docs/planning.md explains every field and the formula. Squares are of Euclidean norms over all
trained parameters, in units of the loss's gradient; progress is a share of a run's steps.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

from edge_runtime.schema import NonNegativeInt, PositiveInt, Probability, Range, unstructure

Square = Annotated[float, Range(ge=0, le=1e30)]
StepCost = Annotated[float, Range(gt=1e-9, le=1e30)]  # seconds, joules or FLOPs of a step
LEAST_VARIANCE = 1e-30  # of the dense rung, by which errors are divided

LEAST_BATCHES, MOST_BATCHES = 2, 1_000_000  # a variance needs two

SECONDS, JOULES, FLOPS = "seconds", "joules", "flops"
COST_UNITS = (SECONDS, JOULES, FLOPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungGradient:
    """The gradients of one rung at one stage."""

    rung: str
    squared_bias: Square  # of the mean gradient against the dense rung's; 0 if below the noise
    bias_noise: Square  # what finitely many batches add to it; subtracted already
    variance: Square  # of one batch's gradient: the trace of its covariance


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationStage:
    """All rungs at one state of the weights."""

    step: NonNegativeInt  # steps done before
    progress: Probability  # that step over all steps of its run
    squared_norm: Square | None  # of the dense rung's mean gradient; None: below the noise
    rungs: tuple[RungGradient, ...]  # in the order of `Calibration.costs`

    def of(self, rung: str) -> RungGradient:
        """The gradients of one rung."""
        return next(each for each in self.rungs if each.rung == rung)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Gradients of the rungs of one package at several stages of training."""

    format: int
    created_at: str  # UTC, ISO 8601
    package_digest: str
    source: str  # of the pictures
    run: str | None  # whose checkpoints were measured; None: the initial state only
    batches: Annotated[int, Range(ge=LEAST_BATCHES, le=MOST_BATCHES)]  # per stage and rung
    batch_size: PositiveInt
    seed: NonNegativeInt
    runtime: str
    device: str
    dense: str  # the rung with which the others are compared
    cost_unit: str  # one of `COST_UNITS`; FLOPs are an estimate of the time
    costs: dict[str, StepCost]  # of a step, by rung
    stages: tuple[CalibrationStage, ...]  # by progress, ascending

    @property
    def sha256(self) -> str:
        """Of its content, as JSON with sorted keys: the layout of a file does not matter."""
        return hashlib.sha256(
            json.dumps(unstructure(self), sort_keys=True).encode()
        ).hexdigest()

    @property
    def cost_is_estimate(self) -> bool:
        """Whether costs are FLOPs, not measured."""
        return self.cost_unit == FLOPS

    def relative_cost(self, rung: str) -> float:
        """Cost of a step over that of a dense one."""
        return self.costs[rung] / self.costs[self.dense]

    def error(self, stage: CalibrationStage, rung: str) -> float:
        """The cost-adjusted error of a rung, relative to the dense one's: 1 is as good.

        Squared bias + relative cost * variance: the mean squared error of a gradient that is
        averaged over as many batches as one dense step pays for. The dense rung has no bias,
        so its own error is its variance.
        """
        gradient, dense = stage.of(rung), stage.of(self.dense)
        error = gradient.squared_bias + self.relative_cost(rung) * gradient.variance
        return error / dense.variance
