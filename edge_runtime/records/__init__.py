"""The run folder: settings, every step, every event, the last checkpoints."""

from edge_runtime.records.checkpoints import Checkpoint, CheckpointInfo
from edge_runtime.records.run import (
    LoggedEvent,
    Run,
    find_checkpoint,
    has_estimates,
    is_begun,
    logged_event,
    open_run,
)
from edge_runtime.records.settings import FORMAT, RunInfo, Settings, differences
from edge_runtime.records.writer import RunWriter, create_run, log_event, utc_now

__all__ = [
    "FORMAT",
    "Checkpoint",
    "CheckpointInfo",
    "LoggedEvent",
    "Run",
    "RunInfo",
    "RunWriter",
    "Settings",
    "create_run",
    "differences",
    "find_checkpoint",
    "has_estimates",
    "is_begun",
    "log_event",
    "logged_event",
    "open_run",
    "utc_now",
]
