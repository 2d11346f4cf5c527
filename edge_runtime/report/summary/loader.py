"""What a run folder holds, as a report needs it: columns of numbers and a few events.

A run of a day has a million samples: as one object per line they would take gigabytes. Lines
are parsed in blocks, what is needed of a block becomes numbers in arrays, and the rest is
dropped. Clock: seconds since the start of the process that a line names. Unknown is NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import PackageError, RecordsError
from edge_runtime.facts import Budget
from edge_runtime.package.manifest import Manifest
from edge_runtime.package.reader import read_manifest
from edge_runtime.records import LoggedEvent, Run, logged_event, open_run
from edge_runtime.records.events import Measured, Planned, StepRecord
from edge_runtime.records.jsonl import LineReader
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.run import EVENTS_FILE, POWER_FILE, STEPS_FILE
from edge_runtime.schema import Range, shown

Array: TypeAlias = NDArray[Any]
Columns: TypeAlias = dict[str, Array]  # of one file, by field, all of one length
_Tables: TypeAlias = Sequence[Mapping[str, Any]]

# What a record declares a field to be; where that is a float an integer is fine.
_TYPES: dict[str, set[type]] = {
    name: {*(get_args(hint) or (hint,))} | ({int} if "float" in str(hint) else set())
    for record in (PowerRecord, StepRecord, Measured)
    for name, hint in get_type_hints(record).items()
}
# And its limits.
_RANGES: dict[str, Range] = {
    name: each.__metadata__[0]
    for record in (PowerRecord, StepRecord, Measured)
    for name, hint in get_type_hints(record, include_extras=True).items()
    for each in (hint, *get_args(hint))
    if get_origin(each) is Annotated and get_args(each)[0] in (int, float)
}
# The columns that are read of samples, which are many, and of steps.
_SAMPLES = (
    {"process": "int32", "throttled": "float16"}
    | dict.fromkeys(("t_s", "total_w", "energy_j"), "float64")
    | dict.fromkeys(("temperature_c", "cpu_hz", "gpu_hz"), "float32")
)
_STEPS = dict.fromkeys(("process", "step", "images", "rung"), "int64") | dict.fromkeys(
    ("keep_ratio", "loss", "t_s", "step_s", "wait_s", "pause_s", "rss_bytes"), "float64"
)
_RAIL, _RAIL_TYPE = "rail ", "float32"  # begins the names of columns that are rails
_MOST_COLUMNS = 200  # of a file
_DAMAGE = (KeyError, TypeError, ValueError, OverflowError)  # what a damaged line raises


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecords:
    """One run, read."""

    run: Run
    samples: Columns  # power.jsonl; `throttled` is 0, 1 or NaN
    rails_w: Columns  # of the samples
    steps: Columns  # steps.jsonl: the steps that were not lost; `rung` is a place in `rungs`
    rungs: tuple[str, ...]  # in the order in which they were first trained
    events: list[LoggedEvent]
    manifest: Manifest | None  # None: the package is not where it was
    cut_files: tuple[str, ...]  # that end in half a line
    zeroed_lines: dict[str, list[int]]  # by file: with NULs, left out

    @property
    def budget(self) -> Budget:
        """Of the last process: a resumed run may have another one than it began with."""
        planned = [each.event for each in self.events if isinstance(each.event, Planned)]
        return planned[-1].budget if planned else self.run.info.budget


def load_run(path: Path) -> RunRecords:
    """Read a run folder, also while the run is going on.

    Raises:
        RecordsError: it is no run folder, of an unknown format, or damaged; half a line at
            the end of a file is no damage, and lines with NULs are left out.
    """
    run = open_run(path)
    readers = {name: LineReader(path / name) for name in (STEPS_FILE, EVENTS_FILE, POWER_FILE)}
    rungs: dict[str, int] = {}
    samples = _read_columns(readers[POWER_FILE], _SAMPLES, _sample_columns)
    read_steps = partial(_step_columns, rungs=rungs)
    steps = _read_columns(readers[STEPS_FILE], _STEPS, read_steps)
    rails = [name for name in samples if name.startswith(_RAIL)]
    where = str(path / EVENTS_FILE)
    return RunRecords(
        run=run,
        rails_w={name.removeprefix(_RAIL): samples.pop(name) for name in rails},
        samples=samples,
        steps=steps,
        rungs=tuple(rungs),
        events=[logged_event(table, where=where) for table in readers[EVENTS_FILE]],
        manifest=_manifest(run),
        cut_files=tuple(name for name, each in readers.items() if each.has_partial_line),
        zeroed_lines={name: each.zeroed_lines for name, each in readers.items()},
    )


def _sample_columns(tables: _Tables) -> Columns:
    columns = {name: _column(tables, name, dtype) for name, dtype in _SAMPLES.items()}
    rails = _checked(list(map(itemgetter("rails_w"), tables)), "rails_w", {dict})
    for rail in dict.fromkeys(chain.from_iterable(rails)):
        powers_w = [rails_w.get(rail) for rails_w in rails]
        columns[_RAIL + rail] = _array(powers_w, rail, _RAIL_TYPE, like="total_w")
    return columns


def _step_columns(tables: _Tables, rungs: dict[str, int]) -> Columns:
    measured = _checked([table["measured"] for table in tables], "measured", {dict})
    names = _checked([table["rung"] for table in tables], "rung", {str})
    codes = np.array([rungs.setdefault(name, len(rungs)) for name in names])
    merged = [{**table, **more} for table, more in zip(tables, measured, strict=True)]
    return {
        name: codes if name == "rung" else _column(merged, name, dtype)
        for name, dtype in _STEPS.items()
    }


def _column(tables: _Tables, name: str, dtype: str) -> Array:
    """One field of every table."""
    return _array(list(map(itemgetter(name), tables)), name, dtype, like=name)


def _array(values: list[Any], name: str, dtype: str, *, like: str) -> Array:
    """Values with the type and the limits of a field; `None` becomes NaN."""
    _checked(values, name, _TYPES[like])
    with np.errstate(over="ignore"):
        array = np.array(values, dtype)
    if (limits := _RANGES.get(like)) is not None:
        ends = np.fmin.reduce(array), np.fmax.reduce(array)  # of those that are known
        if not all(np.isnan(end) or end in limits for end in ends):
            _refuse_beyond(limits, name, values)
    return array


def _refuse_beyond(limits: Range, name: str, values: list[Any]) -> None:
    for value in values:
        if value is not None and value not in limits:
            raise ValueError(f"{name}: expected {limits.of('a number')}, got {shown(value)}")


def _checked(values: list[Any], name: str, types: set[type]) -> list[Any]:
    if not {*map(type, values)} <= types:
        wrong = next(value for value in values if type(value) not in types)
        raise ValueError(f"{name} is {shown(wrong)}")
    return values


def _read_columns(
    reader: LineReader, dtypes: Mapping[str, str], take: Callable[[_Tables], Columns]
) -> Columns:
    """A whole file as columns of one length, NaN where lines do not have a rail.

    They grow in place: a list of parts would be in memory twice.
    """
    content, before = {name: bytearray() for name in dtypes}, 0  # tables
    while tables := reader.read():
        try:
            columns = take(tables)
        except _DAMAGE:
            _find_damage(tables, take, reader)
            raise
        if len({*content, *columns}) > _MOST_COLUMNS:
            raise RecordsError(f"{reader.path} is damaged: it has more rails than any board.")
        for rail in [name for name in columns if name not in content]:
            content[rail] = bytearray(np.full(before, np.nan, _RAIL_TYPE))
        before += len(tables)
        unknown = np.full(len(tables), np.nan, _RAIL_TYPE)
        for name, column in content.items():
            column += columns.get(name, unknown).tobytes()
    whole = {
        name: np.frombuffer(column, dtypes.get(name, _RAIL_TYPE))
        for name, column in content.items()
    }
    _check_order(whole["process"], whole["t_s"], reader)
    return whole


def _find_damage(
    tables: _Tables, take: Callable[[_Tables], Columns], reader: LineReader
) -> None:
    for number, table in zip(reader.numbers, tables, strict=True):
        try:
            take([table])
        except _DAMAGE as error:
            missing = isinstance(error, KeyError)
            reason = f"{error.args[0]} is missing" if missing else str(error)
            raise RecordsError(f"{reader.place(number)} is damaged: {reason}.") from None


def _check_order(process: Array, t_s: Array, reader: LineReader) -> None:
    """Processes follow each other, and time does not go back in any of them."""
    back = (process < 1) | (t_s < 0)
    later = np.diff(process)
    back[1:] |= (later < 0) | ((later == 0) & (np.diff(t_s) < 0))
    if back.any():
        place = reader.place(int(np.argmax(back)) + 1)
        raise RecordsError(f"{place} is damaged: its time goes back.")


def _manifest(run: Run) -> Manifest | None:
    """What the package says of itself, if it is still there and still the same."""
    try:
        manifest, digest = read_manifest(Path(run.info.package_path))
    except (PackageError, ValueError):  # moved, changed, or no path at all
        return None
    return manifest if digest == run.info.settings.package_digest else None
