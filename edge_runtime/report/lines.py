"""Columns of `power.jsonl` and `steps.jsonl`, read in blocks.

A run of a day has a million samples: as one object per line they would take gigabytes and
minutes. Here a block of lines is parsed at once, what is needed of it becomes numbers in
arrays, and the rest is forgotten. A damaged line is named by its number. Unknown is NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import RecordsError
from edge_runtime.records.jsonl import LineReader

Array = NDArray[Any]
Tables = Sequence[Mapping[str, Any]]
Take = Callable[[Tables], dict[str, Array]]  # raises KeyError, TypeError or ValueError

Kinds = frozenset[type]

INTEGER: Kinds = frozenset({int})
NUMBER: Kinds = frozenset({int, float})
NUMBER_OR_NONE: Kinds = NUMBER | {type(None)}
FLAG_OR_NONE: Kinds = frozenset({bool, type(None)})


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
    reader, length = LineReader(path), 0
    while tables := reader.read():
        for name, values in _taken(tables, take, path, length + 1).items():
            columns.setdefault(name, _Growing(values.dtype)).add(values, at=length)
        length = reader.lines_read
    arrays = {name: growing.array(length) for name, growing in columns.items()}
    return Columns(arrays, length, is_cut=reader.has_partial_line)


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
