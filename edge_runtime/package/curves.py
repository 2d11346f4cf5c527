"""Hyper-parameters over a run: one table of curves, one evaluator.

A value is a pure function of (step, steps per epoch, total steps). Steps count from 1. A curve
may begin with a linear warm-up, which reaches `first` with its last step; the rest goes from
`first` to `final` by its shape, over the steps after the warm-up.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from edge_runtime.schema import Range

Epochs = Annotated[float, Range(ge=0, le=1_000_000)]
Value = Annotated[float, Range(ge=0, le=1_000_000)]  # of rates, decays, momenta

COUNT = "count"  # the shape whose value is the step's number

# Shape -> the share of `first` in the value, at a progress in [0, 1)
SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One hyper-parameter over a run."""

    shape: str  # one of `SHAPES`, or `COUNT`
    first: Value = 0.0
    final: Value = 0.0
    warmup_epochs: Epochs = 0.0
    warmup_from: Value = 0.0

    @property
    def is_constant(self) -> bool:
        """Whether every step has the same value."""
        fixed = self.shape == "constant" or (self.shape in SHAPES and self.first == self.final)
        return fixed and (not self.warmup_epochs or self.warmup_from == self.first)

    def at(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        """The value of a step."""
        if self.shape == COUNT:
            return float(step)
        warmup_steps = min(round(self.warmup_epochs * steps_per_epoch), total_steps)
        if step <= warmup_steps:
            return self.warmup_from + (self.first - self.warmup_from) * step / warmup_steps
        progress = (step - 1 - warmup_steps) / (total_steps - warmup_steps)
        return self.final + (self.first - self.final) * SHAPES[self.shape](progress)


def constant(value: float) -> Curve:
    """The same value in every step."""
    return Curve(shape="constant", first=value, final=value)


def cosine(first: float, final: float) -> Curve:
    """Half a cosine from `first` to `final` over the run."""
    return Curve(shape="cosine", first=first, final=final)


def hyper_parameters(
    curves: Mapping[str, Curve], step: int, *, steps_per_epoch: int, total_steps: int
) -> dict[str, float]:
    """Every hyper-parameter of one step, by name.

    Args:
        curves: of the package.
        step: from 1.
        steps_per_epoch: of the run.
        total_steps: of the run.
    """
    return {
        name: curve.at(step, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
        for name, curve in curves.items()
    }
