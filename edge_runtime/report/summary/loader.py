"""What a run folder holds, block by block: columns of numbers, and all events.

A run of a day has a million samples: as one object per line they would take gigabytes. Lines
are parsed in blocks, what is needed of a block becomes numbers in arrays, and whoever takes a
block drops it before the next one. Clock: seconds since the start of the process that a line
names. Unknown is NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import PackageError, RecordsError
from edge_runtime.package.manifest import Manifest
from edge_runtime.package.reader import read_manifest
from edge_runtime.records import LoggedEvent, Run, logged_event, open_run
from edge_runtime.records.events import Measured, StepRecord
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
_STEPS = (
    {"applied": "bool"}
    | dict.fromkeys(("process", "step", "images", "rung"), "int64")
    | dict.fromkeys(
        ("keep_ratio", "loss", "t_s", "step_s", "wait_s", "pause_s", "rss_bytes"), "float64"
    )
)
RAIL = "rail "  # begins the names of columns that are rails
_RAIL_TYPE = "float32"
_MOST_COLUMNS = 200  # of a file
_ROWS = 8000  # taken at once: numpy costs microseconds per call
_DAMAGE = (KeyError, TypeError, ValueError, OverflowError)  # what a damaged line raises


class RunFiles:
    """The files of one run folder, also while the run is going on."""

    def __init__(self, path: Path) -> None:
        """Open the folder and read its events.

        Raises:
            RecordsError: it is no run folder, of an unknown format, or its events are damaged.
        """
        self.run = open_run(path)
        names = (STEPS_FILE, EVENTS_FILE, POWER_FILE)
        self._readers = {name: LineReader(path / name) for name in names}
        self._rungs: dict[str, int] = {}
        where = str(path / EVENTS_FILE)
        self.events: list[LoggedEvent] = [
            logged_event(table, where=where) for table in self._readers[EVENTS_FILE]
        ]
        self.samples = Blocks(self._readers[POWER_FILE], _sample_columns)
        read_steps = partial(_step_columns, rungs=self._rungs)
        self.steps = Blocks(self._readers[STEPS_FILE], read_steps)

    @property
    def rungs(self) -> tuple[str, ...]:
        """Of the steps that were read, in the order in which they were first trained."""
        return tuple(self._rungs)

    @property
    def cut_files(self) -> tuple[str, ...]:
        """Those that end in half a line, once all is read."""
        return tuple(name for name, each in self._readers.items() if each.has_partial_line)

    @property
    def zeroed_lines(self) -> dict[str, list[int]]:
        """By file the numbers of lines with NULs, which were left out."""
        return {name: each.zeroed_lines for name, each in self._readers.items()}

    def manifest(self) -> Manifest | None:
        """What the package says of itself, if it is still there and still the same."""
        return _manifest(self.run)


class Blocks:
    """Successive lines of one file as columns, each block of one process."""

    def __init__(self, reader: LineReader, take: Callable[[_Tables], Columns]) -> None:
        """Read the first block.

        Raises:
            RecordsError: the file is missing or damaged.
        """
        self._reader, self._take = reader, take
        self._names: set[str] = set()  # of all columns
        self._blocks = self._read()
        self._next = next(self._blocks, None)

    @property
    def process(self) -> int | None:
        """Of the next block; `None`: all were taken."""
        return None if self._next is None else int(self._next["process"][0])

    def take(self) -> Columns:
        """The next block, of one length in all columns.

        Raises:
            RecordsError: a line is damaged, or time goes back from one to the next.
        """
        if self._next is None:
            raise ValueError("all blocks were taken")
        taken, self._next = self._next, next(self._blocks, None)
        return taken

    def of(self, process: int) -> Iterator[Columns]:
        """Take all blocks of a process that are next."""
        while self.process == process:
            yield self.take()

    def _read(self) -> Iterator[Columns]:
        """Several blocks of the file as one, as long as they have the same columns."""
        held: list[Columns] = []
        for columns in self._parse():
            if held and not _continues(held, columns):
                yield _joined(held)
                held.clear()
            held.append(columns)
        if held:
            yield _joined(held)

    def _parse(self) -> Iterator[Columns]:
        """The blocks of the file, cut where another process begins."""
        last = (0, 0.0)  # process and time
        while tables := self._reader.read():
            try:
                columns = self._take(tables)
            except _DAMAGE:
                _find_damage(tables, self._take, self._reader)
                raise
            self._names |= columns.keys()
            if len(self._names) > _MOST_COLUMNS:
                raise RecordsError(
                    f"{self._reader.path} is damaged: it has more rails than any board."
                )
            _check_order(columns, last, self._reader)
            last = int(columns["process"][-1]), float(columns["t_s"][-1])
            edges = np.flatnonzero(np.diff(columns["process"])) + 1
            for begin, stop in pairwise([0, *edges.tolist(), len(tables)]):
                yield {name: column[begin:stop] for name, column in columns.items()}


def _continues(held: Sequence[Columns], columns: Columns) -> bool:
    first, rows = held[0], sum(len(each["process"]) for each in held)
    is_same = columns.keys() == first.keys() and columns["process"][0] == first["process"][0]
    return bool(is_same and rows < _ROWS)


def _joined(blocks: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([each[name] for each in blocks]) for name in blocks[0]}


def _sample_columns(tables: _Tables) -> Columns:
    columns = {name: _column(tables, name, dtype) for name, dtype in _SAMPLES.items()}
    rails = _checked(list(map(itemgetter("rails_w"), tables)), "rails_w", {dict})
    for rail in dict.fromkeys(chain.from_iterable(rails)):
        powers_w = [rails_w.get(rail) for rails_w in rails]
        columns[RAIL + rail] = _array(powers_w, rail, _RAIL_TYPE, like="total_w")
    return columns


def _step_columns(tables: _Tables, rungs: dict[str, int]) -> Columns:
    measured = _checked([table["measured"] for table in tables], "measured", {dict})
    names = _checked([table["rung"] for table in tables], "rung", {str})
    codes = np.array([rungs.setdefault(name, len(rungs)) for name in names])
    merged = [  # old steps do not say whether they were applied: all were
        {"applied": True, **table, **more}
        for table, more in zip(tables, measured, strict=True)
    ]
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


def _check_order(columns: Columns, last: tuple[int, float], reader: LineReader) -> None:
    """Processes follow each other, and time does not go back in any of them.

    Args:
        columns: of a block.
        last: process and time of the line before it.
        reader: of the file, which has just read the block.
    """
    process, t_s = columns["process"], columns["t_s"]
    later = np.diff(process, prepend=last[0])
    back = (process < 1) | (t_s < 0)
    back |= (later < 0) | ((later == 0) & (np.diff(t_s, prepend=last[1]) < 0))
    if back.any():
        place = reader.place(reader.numbers[int(np.argmax(back))])
        raise RecordsError(f"{place} is damaged: its time goes back.")


def _manifest(run: Run) -> Manifest | None:
    """What the package says of itself, if it is still there and still the same."""
    try:
        manifest, digest = read_manifest(Path(run.info.package_path))
    except (PackageError, ValueError):  # moved, changed, or no path at all
        return None
    return manifest if digest == run.info.settings.package_digest else None
