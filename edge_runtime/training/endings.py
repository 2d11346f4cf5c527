"""How a run ends early: the event for its records, and the error that ends its process."""

from pathlib import Path
from typing import TypeAlias

from edge_runtime.errors import (
    DivergedError,
    EdgeRuntimeError,
    EncoderError,
    EncoderMemoryError,
    EngineError,
    NoMemoryError,
    SensorError,
    StoppedError,
)
from edge_runtime.facts.devices import CPU
from edge_runtime.package.names import FP16
from edge_runtime.records import events
from edge_runtime.records.events import Event
from edge_runtime.training.selector import UnknownLimit

Ending: TypeAlias = tuple[Event, EdgeRuntimeError]


def interrupted(done: int, total: int, checkpoint: str | None) -> Ending:
    """It was asked to stop after `done` of `total` steps."""
    return events.Interrupted(step=done, checkpoint=checkpoint), StoppedError(
        f"stopped after step {done} of {total}; continue with the same command and --resume."
    )


def unjudged(unknown: UnknownLimit, done: int, total: int, checkpoint: str | None) -> Ending:
    """A limit cannot be judged any more."""
    event = events.LimitUnknown(
        step=done,
        limit=unknown.limit,
        sensor=unknown.sensor,
        reason=unknown.reason,
        checkpoint=checkpoint,
    )
    return event, SensorError(
        f"the limit on {unknown.limit} cannot be judged any more after step {done} of "
        f"{total}: {unknown.reason}. The state is saved: repair the sensor (see `edge-train "
        "doctor`) and continue with --resume, or leave the limit out."
    )


def is_state_lost(error: EngineError | NoMemoryError, device: str) -> bool:
    """Whether an error may have cost the state that the engine's `device` held.

    A driver that has lost its GPU may give back anything for what was in its memory. An
    encoder that fails on the processor says nothing about that.
    """
    on_gpu = CPU not in (device, _failed_device(error, device))
    return on_gpu and not isinstance(error, NoMemoryError)


def _failed_device(error: EngineError | NoMemoryError, device: str) -> str:
    return error.device if isinstance(error, EncoderError | EncoderMemoryError) else device


def failed(
    error: EngineError | NoMemoryError,
    device: str,
    done: int,
    run: Path,
    checkpoint: str | None,
) -> Ending:
    """The engine on `device` failed after step `done`, or has no memory.

    `checkpoint` is the last one.
    """
    event = events.EngineFailed(
        step=done,
        device=_failed_device(error, device),
        reason=str(error),
        out_of_memory=isinstance(error, NoMemoryError),
        checkpoint=checkpoint,
    )
    if not is_state_lost(error, device):
        return event, error
    start = run / checkpoint if checkpoint else "the initial state"
    return event, EngineError(
        f"{error}. What device {device} held is lost: --resume continues from {start}."
    )


def diverged(step: int, reason: str, run: Path, good: str | None, precision: str) -> Ending:
    """`step` gave NaN or infinity; `good` is the last good checkpoint."""
    kept = "No checkpoint was saved before that"
    if good:
        kept = f"The last good checkpoint is {run / good}"
    remedy = "a lower learning rate or a longer warm-up"
    if precision == FP16:
        remedy += ", or with --precision fp32"
    return events.Diverged(step=step, reason=reason, checkpoint=good), DivergedError(
        f"training diverged: {reason}. {kept}. Export the package again with {remedy}."
    )
