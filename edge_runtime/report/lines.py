"""Columns of `power.jsonl` and `steps.jsonl`, read in blocks.

A run of a day has a million samples: as one object per line they would take gigabytes and
minutes. Here a block of lines is parsed at once, what is needed of it becomes numbers in
arrays, and the rest is forgotten. A damaged line is named by its number. Unknown is NaN.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import RecordsError
from edge_runtime.records.lines import table_of

Array = NDArray[Any]
Tables = Sequence[Mapping[str, Any]]
Take = Callable[[Tables], dict[str, Array]]  # raises KeyError, TypeError or ValueError

Kinds = frozenset[type]

INTEGER: Kinds = frozenset({int})
NUMBER: Kinds = frozenset({int, float})
NUMBER_OR_NONE: Kinds = NUMBER | {type(None)}
FLAG_OR_NONE: Kinds = frozenset({bool, type(None)})

_BLOCK_BYTES = 1 << 18


class Columns(NamedTuple):
    """All whole lines of a file, as columns of the same length."""

    columns: dict[str, Array]
    length: int
    is_cut: bool  # half a line at the end was passed over


def column(tables: Tables, key: str, kinds: Kinds, dtype: str = "float64") -> Array:
    """One field of every table; `None` becomes NaN."""
    values = list(map(itemgetter(key), tables))
    return numbers(values, key, kinds, dtype)


def numbers(values: Sequence[Any], key: str, kinds: Kinds, dtype: str) -> Array:
    """Values of one field as an array."""
    if not {*map(type, values)} <= kinds:
        wrong = next(value for value in values if type(value) not in kinds)
        raise ValueError(f"{key} is {wrong!r}")
    return np.array(values, dtype=dtype)


def read_columns(path: Path, take: Take) -> Columns:
    """Read a whole file.

    Args:
        path: of one JSON table per line.
        take: makes columns of some lines. A column that some lines do not have is NaN there.

    Raises:
        RecordsError: the file cannot be read, or a line is damaged.
    """
    columns: dict[str, _Growing] = {}
    length, rest = 0, b""
    for block in _blocks(path):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if not newline:
            continue
        tables = _tables(whole, path, length + 1)
        for name, values in _taken(tables, take, path, length + 1).items():
            columns.setdefault(name, _Growing(values.dtype)).add(values, at=length)
        length += len(tables)
    arrays = {name: growing.array(length) for name, growing in columns.items()}
    return Columns(arrays, length, is_cut=bool(rest))


class _Growing:
    """A column in the making. Grows in place: a list of parts would be in memory twice."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype, self._content = dtype, bytearray()

    def add(self, values: Array, *, at: int) -> None:
        """Put values at a place; what is missing before it is NaN."""
        self._fill(at)
        self._content += values.tobytes()

    def array(self, length: int) -> Array:
        """The whole column."""
        self._fill(length)
        return np.frombuffer(self._content, self._dtype)

    def _fill(self, length: int) -> None:
        missing = length - len(self._content) // self._dtype.itemsize
        if missing:
            self._content += np.full(missing, np.nan, self._dtype).tobytes()


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except OSError as error:
        raise RecordsError(f"cannot read {path}: {error.strerror}.") from error


def _tables(lines: bytes, path: Path, first: int) -> Tables:
    """Parsed at once, which is much faster; line by line where that shows damage."""
    try:
        text = lines.replace(b"\n", b",").decode()
        tables = json.loads(f"[{text}]", parse_constant=_refuse)
    except (ValueError, RecursionError):
        tables = []
    if len(tables) == lines.count(b"\n") + 1 and {*map(type, tables)} == {dict}:
        return tables  # type: ignore[no-any-return]
    return [
        table_of(line, f"{path}, line {number}", parse_constant=_refuse)
        for number, line in enumerate(lines.split(b"\n"), start=first)
    ]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _taken(tables: Tables, take: Take, path: Path, first: int) -> dict[str, Array]:
    try:
        return take(tables)
    except (KeyError, TypeError, ValueError, OverflowError):
        for number, table in enumerate(tables, start=first):
            try:
                take([table])
            except KeyError as error:
                reason = f"{error.args[0]} is missing"
            except (TypeError, ValueError, OverflowError) as error:
                reason = str(error)
            else:
                continue
            raise RecordsError(f"{path}, line {number} is damaged: {reason}.") from None
        raise
