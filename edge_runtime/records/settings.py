"""Settings and environment of a run: `run.json`, format 2."""

from dataclasses import dataclass, fields
from typing import Any

from edge_runtime.facts import Budget, CostProfile
from edge_runtime.facts.costs import Correction
from edge_runtime.facts.devices import CPU
from edge_runtime.facts.plan import TOKENS
from edge_runtime.schema import Hertz, NonNegativeInt, PositiveInt, Watts, unstructure

FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that determines the result; a resumed run must have the same."""

    package_digest: str
    pictures_digest: str | None  # of the pictures' names; None for a video or a camera
    state_sha256: str | None  # of the state it began with; None: the package's initial state
    seed: NonNegativeInt
    batch_size: PositiveInt
    epochs: PositiveInt
    images_per_epoch: PositiveInt | None  # None: all pictures of the source
    # (first step, rung id), ascending; None: the budget decides, and the steps have the rungs
    rungs: tuple[tuple[PositiveInt, str], ...] | None
    objective: str = TOKENS  # of the plans that decide the rungs
    calibration_sha256: str | None = None  # of the calibration that they follow; None: none


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The content of `run.json`: written once, when the run starts."""

    format: int
    created_at: str  # UTC, ISO 8601
    settings: Settings
    package_path: str
    source: str
    steps_per_epoch: PositiveInt
    total_steps: PositiveInt
    engine: str
    device: str = CPU  # on which the engine ran
    gpu: str | None = None  # behind the device, with its driver; None: the CPU, or unknown
    # That ran encoders before the steps, its name first; None: the package has none
    forward_engine: str | None = None
    threads: PositiveInt | None  # of the engine; None: not recorded
    versions: dict[str, str]
    machine: dict[str, object]
    board: str | None  # id of its profile
    power_mode: str | None  # of the board, when the run started
    sensor: str | None  # power sensor
    power_is_estimate: bool
    # By rail: `gain`, `offset_w`; other rails are raw
    calibration: dict[str, dict[str, Correction]]
    sample_rate_hz: Hertz  # highest rate; a sensor may be slower
    idle_w: Watts | None  # of the board before the run
    budget: Budget
    profile: CostProfile | None  # that the plan is based on, if any


def differences(recorded: Settings, asked: Settings) -> list[str]:
    """One line per setting in which a run and a command differ."""
    old, new = unstructure(recorded), unstructure(asked)
    return [
        _difference(field.name, old[field.name], new[field.name])
        for field in fields(Settings)
        if old[field.name] != new[field.name]
    ]


def _difference(name: str, old: Any, new: Any) -> str:
    if name == "pictures_digest" and None not in (old, new):
        return (
            "  pictures: their names are not those with which the run began: some were added, "
            "removed or renamed. Restore them; damaged pictures may stay, they are skipped"
        )
    return (
        f"  {name}: the run has {_text(name, old)}, this command asks for {_text(name, new)}"
    )


def _text(name: str, value: Any) -> str:
    """A setting for people."""
    if value is None:
        return {
            "pictures_digest": "a video or a camera",
            "state_sha256": "the package's initial state",
            "images_per_epoch": "all pictures",
            "rungs": "those that the budget decides",
            "calibration_sha256": "no calibration",
        }[name]
    if name == "rungs":
        return ", ".join(f"{rung} from step {first}" for first, rung in value)
    if name == "objective":
        return str(value)
    return f"{value[:12]}..." if isinstance(value, str) else str(value)
