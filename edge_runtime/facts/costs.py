"""What a step of each rung costs on one board: the cost profile.

docs/planning.md explains every field. Units: seconds, joules, watts, bytes. `None` is unknown.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from edge_runtime.facts.devices import CPU
from edge_runtime.schema import Bytes, NonNegativeInt, PositiveInt, Range
from edge_runtime.units import bytes_text, energy_text, step_text

MEASURED = "measured"
INTERPOLATED = "interpolated"  # between two measured rungs
EXTRAPOLATED = "extrapolated"  # from measured rungs that are all smaller, or all larger
UNMEASURED = "unmeasured"  # only its size is known
DOES_NOT_FIT = "does_not_fit"  # its process was killed for memory, or a GPU has none for it
SOURCES = (MEASURED, INTERPOLATED, EXTRAPOLATED, UNMEASURED, DOES_NOT_FIT)

# What a board can need for a step, and for a part of a run.
StepSeconds = Annotated[float, Range(ge=1e-6, le=86_400)]
StepJoules = Annotated[float, Range(ge=0, le=10**9)]
BoardWatts = Annotated[float, Range(ge=0, le=10_000)]
PartSeconds = Annotated[float, Range(ge=0, le=86_400)]
Correction = Annotated[float, Range(ge=-10_000, le=10_000)]  # a factor, or watts
Processors = Annotated[float, Range(ge=0, le=1_000_000)]

# A later run needs up to 3 % more than measured, and up to 10 % more than predicted.
_MEASURED_MARGIN = 1.05
_PREDICTED_MARGIN = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class RungCost:
    """One step of one rung."""

    rung: str
    token_blocks: NonNegativeInt  # views * batch * sum of the student's tokens per block
    flops: NonNegativeInt
    step_s: StepSeconds | None  # median, waiting for pictures included
    step_s_low: StepSeconds | None  # 95 % bootstrap interval of the median
    step_s_high: StepSeconds | None
    step_j: StepJoules | None  # gross, of the board's total
    power_w: BoardWatts | None  # mean while it trains
    peak_bytes: Bytes | None  # process tree and GPU share while it trains
    predicted_peak_bytes: Bytes | None
    card_bytes: Bytes | None = None  # of a GPU's own memory, at most; None: unknown, or none
    source: str  # one of `SOURCES`
    micro_batch: PositiveInt | None = None  # pictures; None: the whole batch at once

    @property
    def likely_peak_bytes(self) -> int | None:
        """The measured peak, or the predicted one."""
        return self.predicted_peak_bytes if self.peak_bytes is None else self.peak_bytes

    @property
    def need_bytes(self) -> int | None:
        """Memory to reserve for it: the measured peak + 5 %, or the predicted one + 10 %."""
        likely = self.likely_peak_bytes
        margin = _PREDICTED_MARGIN if self.peak_bytes is None else _MEASURED_MARGIN
        return None if likely is None else math.ceil(likely * margin)

    @property
    def need_card_bytes(self) -> int | None:
        """Of a GPU's own memory, to reserve for it."""
        card_bytes = self.card_bytes
        return None if card_bytes is None else math.ceil(_MEASURED_MARGIN * card_bytes)

    def text(self, *, is_estimate: bool) -> str:
        """For people: `k050  264.0 ms  402.0 MiB  1.90 J per step (estimate)`."""
        if self.step_s is None:
            if self.source != DOES_NOT_FIT and self.predicted_peak_bytes is not None:
                predicted = bytes_text(self.predicted_peak_bytes)
                return f"{self.rung:10} not measured; it would take about {predicted}"
            return f"{self.rung:10} does not fit into memory"
        parts = [f"{self.rung:10} {step_text(self.step_s):>10}"]
        if self.peak_bytes is not None:
            parts.append(f"{bytes_text(self.peak_bytes):>10}")
        if self.card_bytes is not None:
            parts.append(f"{bytes_text(self.card_bytes)} of the GPU's own")
        if self.step_j is not None:
            mark = " (estimate)" if is_estimate else ""
            parts.append(f"{energy_text(self.step_j)} per step{mark}")
        return "  ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostProfile:
    """Costs of all rungs of one package on one board, and where they are valid."""

    format: int
    created_at: str  # UTC, ISO 8601
    package_digest: str
    board: str
    power_mode: str | None
    engine: str
    runtime: str  # with its version
    device: str = CPU  # on which the engine ran
    gpu: str | None = None  # behind the device, with its driver; None: the CPU, or unknown
    threads: PositiveInt | None  # of the engine; None: one per processor
    cpus: Processors | None = None  # that could be used, such as 2 or 0.5; None: unknown
    sensor: str | None
    # Corrections of the sensor's rails, gain and offset_w; None: unknown.
    calibration: dict[str, dict[str, Correction]] | None = None
    energy_is_estimate: bool
    idle_w: BoardWatts | None
    baseline_bytes: Bytes  # runtime loaded, state open, no rung loaded
    startup_s: PartSeconds  # process start to first step, without loading the rung
    switch_s: PartSeconds  # loading a rung
    checkpoint_s: PartSeconds
    checkpoint_j: StepJoules | None
    rungs: tuple[RungCost, ...]
