"""What a run folder holds, as a report needs it: columns of numbers and a few events.

Clock: seconds since the start of the process that a line names. Unknown is NaN in columns.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import EdgeRuntimeError, RecordsError
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.package.manifest import FORMAT as PACKAGE_FORMAT
from edge_runtime.package.manifest import Manifest
from edge_runtime.package.reader import MANIFEST
from edge_runtime.records import LoggedEvent, Run, open_run
from edge_runtime.records.events import Planned
from edge_runtime.records.run import EVENTS_FILE, POWER_FILE, STEPS_FILE
from edge_runtime.report.lines import (
    FLAG_OR_NONE,
    INTEGER,
    NUMBER,
    NUMBER_OR_NONE,
    Array,
    Columns,
    Tables,
    column,
    numbers,
    read_columns,
)
from edge_runtime.schema import structure

_RAIL = "rail "  # begins the names of columns that are rails


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """`power.jsonl`."""

    process: Array
    t_s: Array
    total_w: Array
    energy_j: Array  # since the start of the process
    rails_w: dict[str, Array]
    temperature_c: Array
    throttled: Array  # 0, 1 or NaN
    cpu_hz: Array
    gpu_hz: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """`steps.jsonl`: the steps that were not lost."""

    step: Array
    epoch: Array
    rung: Array  # index into `rungs`
    keep_ratio: Array
    loss: Array
    images: Array
    process: Array
    t_s: Array  # when it was done
    step_s: Array
    wait_s: Array  # before that
    pause_s: Array  # before that
    rss_bytes: Array
    rungs: tuple[str, ...]  # in the order in which they were first trained

    @property
    def began_s(self) -> Array:
        """When the loop turned to it, and first waited for pictures."""
        return self.t_s - self.step_s - self.wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One run, read."""

    run: Run
    samples: Samples
    steps: Steps
    events: list[LoggedEvent]
    profile: CostProfile | None
    manifest: Manifest | None  # None: the package is not where it was
    cut_files: tuple[str, ...]  # that end in half a line

    @property
    def budget(self) -> Budget:
        """Of the last process: a resumed run may have another one than it began with."""
        planned = [
            each.event.budget for each in self.events if isinstance(each.event, Planned)
        ]
        return planned[-1] if planned else self.run.info.budget


def read_run(path: Path) -> Recorded:
    """Read a run folder, also while the run is going on.

    Raises:
        RecordsError: it is no run folder, of an unknown format, or damaged; a half line at
            the end of a file is no damage.
    """
    run = open_run(path)
    power = read_columns(path / POWER_FILE, _sample_columns)
    _check_order(power, path / POWER_FILE)
    codes: dict[str, int] = {}
    steps = read_columns(path / STEPS_FILE, lambda tables: _step_columns(tables, codes))
    _check_order(steps, path / STEPS_FILE)
    events = run.events()
    cut = {
        STEPS_FILE: steps.is_cut,
        EVENTS_FILE: _is_cut(path / EVENTS_FILE),
        POWER_FILE: power.is_cut,
    }
    return Recorded(
        run=run,
        samples=_samples(power),
        steps=_steps(steps, tuple(codes)),
        events=events,
        profile=run.info.profile,
        manifest=_manifest(run),
        cut_files=tuple(name for name, is_cut in cut.items() if is_cut),
    )


def _sample_columns(tables: Tables) -> dict[str, Array]:
    found = {
        "process": column(tables, "process", INTEGER, "int32"),
        "t_s": column(tables, "t_s", NUMBER),
        "total_w": column(tables, "total_w", NUMBER_OR_NONE),
        "energy_j": column(tables, "energy_j", NUMBER_OR_NONE),
        "throttled": column(tables, "throttled", FLAG_OR_NONE, "float16"),
    }
    for name in ("temperature_c", "cpu_hz", "gpu_hz"):
        found[name] = column(tables, name, NUMBER_OR_NONE, "float32")
    rails: list[Any] = list(map(itemgetter("rails_w"), tables))
    if {*map(type, rails)} != {dict}:
        raise ValueError("rails_w is no table")
    for name in dict.fromkeys(chain.from_iterable(rails)):
        values = [rail.get(name) for rail in rails]
        found[_RAIL + name] = numbers(values, name, NUMBER_OR_NONE, "float32")
    return found


def _step_columns(tables: Tables, codes: dict[str, int]) -> dict[str, Array]:
    measured: list[Any] = [table["measured"] for table in tables]
    if {*map(type, measured)} != {dict}:
        raise ValueError("measured is no table")
    rungs = [table["rung"] for table in tables]
    if {*map(type, rungs)} != {str}:
        raise ValueError("rung is no text")
    found = {
        "rung": np.array([codes.setdefault(rung, len(codes)) for rung in rungs], "int32"),
        "process": column(measured, "process", INTEGER, "int32"),
        "rss_bytes": column(measured, "rss_bytes", NUMBER_OR_NONE),
    }
    found |= {name: column(tables, name, INTEGER, "int64") for name in ("step", "images")}
    found["epoch"] = column(tables, "epoch", INTEGER, "int32")
    found |= {name: column(tables, name, NUMBER) for name in ("keep_ratio", "loss")}
    times = ("t_s", "step_s", "wait_s", "pause_s")
    return found | {name: column(measured, name, NUMBER) for name in times}


def _check_order(lines: Columns, path: Path) -> None:
    """Processes follow each other, and time does not go back in any of them."""
    if lines.length == 0:
        return
    process, t_s = lines.columns["process"], lines.columns["t_s"]
    back = (process < 1) | (t_s < 0)
    later = np.diff(process)
    back[1:] |= (later < 0) | ((later == 0) & (np.diff(t_s) < 0))
    if back.any():
        number = int(np.argmax(back)) + 1
        raise RecordsError(f"{path}, line {number} is damaged: its time goes back.")


def _samples(lines: Columns) -> Samples:
    columns = lines.columns or _sample_columns([_NO_SAMPLE])
    size = lines.length
    return Samples(
        rails_w={
            name.removeprefix(_RAIL): values[:size]
            for name, values in columns.items()
            if name.startswith(_RAIL)
        },
        **{
            name: values[:size]
            for name, values in columns.items()
            if not name.startswith(_RAIL)
        },
    )


def _steps(lines: Columns, rungs: tuple[str, ...]) -> Steps:
    columns = lines.columns or _step_columns([_NO_STEP], {})
    return Steps(
        rungs=rungs, **{name: values[: lines.length] for name, values in columns.items()}
    )


# What columns there are where a file has no line yet.
_NO_SAMPLE: dict[str, Any] = {
    "process": 1,
    "t_s": 0,
    "rails_w": {},
    **dict.fromkeys(("total_w", "energy_j", "temperature_c", "throttled", "cpu_hz", "gpu_hz")),
}
_NO_STEP: dict[str, Any] = {
    **dict.fromkeys(("step", "epoch", "images", "keep_ratio", "loss"), 0),
    "rung": "",
    "measured": {
        **dict.fromkeys(("t_s", "step_s", "wait_s", "pause_s"), 0),
        "process": 1,
        "rss_bytes": None,
    },
}


def _is_cut(path: Path) -> bool:
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def _manifest(run: Run) -> Manifest | None:
    """What the package says of itself, if it is still there and still the same."""
    file = Path(run.info.package_path) / MANIFEST
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != run.info.settings.package_digest:
            return None
        table = json.loads(content)
        if table.get("format") != PACKAGE_FORMAT:
            return None
        return structure(Manifest, table, where=str(file), error=RecordsError)
    except (OSError, ValueError, EdgeRuntimeError):
        return None
