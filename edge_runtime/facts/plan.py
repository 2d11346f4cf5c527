"""The plan of a run: which rung for how many steps, and why. Units: seconds, joules, bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.schema import Bytes, Joules, NonNegative, NonNegativeInt, Seconds, Watts

TOKENS, GRADIENT_ERROR = "tokens", "gradient-error"  # objectives of plans
EPOCHS = 100  # of a run for which no number is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Steps on one rung."""

    rung: str
    steps: NonNegativeInt


@dataclass(frozen=True, slots=True, kw_only=True)
class RungVerdict:
    """One rung: its costs, its number of steps, and why."""

    rung: str
    token_blocks: NonNegativeInt  # of one step
    step_s: Seconds | None
    step_j: Joules | None
    power_w: Watts | None
    peak_bytes: Bytes | None  # measured, or predicted
    source: str  # see `edge_runtime.facts.costs`
    steps: NonNegativeInt  # 0: refused
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole run: its steps, its costs, its binding limits.

    Totals include start-up, loading of rungs and the last checkpoint. `None` is unknown.
    """

    segments: tuple[Segment, ...]  # in the order of training, fewest token-blocks first
    steps: NonNegativeInt
    token_blocks: NonNegativeInt
    time_s: Seconds
    wait_s: Seconds  # part of `time_s`: idle, to keep the mean power
    energy_j: Joules | None
    power_w: Watts | None  # mean
    peak_bytes: Bytes | None
    verdicts: tuple[RungVerdict, ...]  # in the order of the costs
    binding: tuple[str, ...]  # names of the limits that prevent a better plan
    # Mean cost-adjusted error of the steps, 1 on the dense rung; None: not an objective
    gradient_error: NonNegative | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleRungCost:
    """A whole run on one rung, start-up and last checkpoint included."""

    rung: str
    time_s: Seconds | None  # None: the rung was not measured
    energy_j: Joules | None
    peak_bytes: Bytes | None  # measured, or predicted; without margin
    fits: bool  # every limit of the budget
    epochs: (
        NonNegativeInt | None
    )  # that the budget gives; None: neither time nor energy is limited


def steps_text(counts: Iterable[tuple[str, int]]) -> str:
    """Rungs with their steps in words: `4 steps on k050, then 6 steps on k100`."""
    return ", then ".join(f"{steps} steps on {rung}" for rung, steps in counts) or "no steps"
