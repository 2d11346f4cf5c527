"""Plain tables (JSON, TOML) into frozen dataclasses, strictly, all problems at once.

Unknown keys are errors, `True` is not an integer, a string is never read as a number or as a
list. Integers have 64 bits; NaN and infinity are no numbers. Every number of a file has
limits, declared with its type as in `Annotated[int, Range(ge=1)]` and `Seconds`: a file with a
number outside of them is damaged, and nothing is computed from it.
"""

import operator
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import cattrs
from cattrs.errors import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.reading import MAX_TOML_BYTES, read_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]  # as cattrs calls it: value, type

_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_DEEPEST = 16  # of tables and lists inside each other
_MOST_PROBLEMS = 20  # that are shown
_MOST_DOTS = 500  # in a line of TOML
# Brackets of TOML, the only group, and what they do not count in: strings and comments
_BRACKET = re.compile(
    r""""{3}(?:\\.|[^\\])*?"{3,5}|'{3}.*?'{3,5}"""  # up to two quotes before the end
    r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|([][{}])""",
    re.DOTALL,
)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The limits of a number."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def _limits(self) -> dict[str, float]:
        limits = zip(_COMPARE, (self.gt, self.ge, self.lt, self.le), strict=True)
        return {sign: limit for sign, limit in limits if limit is not None}

    def tests(self) -> list[tuple[Callable[[float, float], bool], float]]:
        """Comparisons that a number within the limits passes, each with its limit."""
        return [(_COMPARE[sign], limit) for sign, limit in self._limits().items()]

    def __contains__(self, number: float) -> bool:
        return all(compare(number, limit) for compare, limit in self.tests())

    def of(self, what: str) -> str:
        """For example `a number > 0` or `an integer in [0, 9)`."""
        limits = {sign: f"{limit:.16g}" for sign, limit in self._limits().items()}
        if len(limits) == 2:
            opening, closing = "(" if ">" in limits else "[", ")" if "<" in limits else "]"
            low, high = limits.values()
            return f"{what} in {opening}{low}, {high}{closing}"
        ((sign, limit),) = limits.items()
        return f"{what} {sign} {limit}"


Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Probability = Annotated[float, Range(ge=0, le=1)]
Share = Annotated[float, Range(gt=0, le=1)]
PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
# What no program, board or picture reaches.
Float32 = Annotated[float, Range(ge=-3.5e38, le=3.5e38)]
Seconds = Annotated[float, Range(ge=0, le=1e15)]
ClockSeconds = Annotated[float, Range(ge=-1e15, le=1e15)]  # seconds, by any clock
# Negative where the idle board's are subtracted
Joules = Annotated[float, Range(ge=-1e15, le=1e15)]
Watts = Annotated[float, Range(ge=-1_000_000, le=1_000_000)]
Celsius = Annotated[float, Range(ge=-274, le=10_000)]
Bytes = Annotated[int, Range(ge=0, le=2**50)]
Hertz = Annotated[float, Range(ge=0, le=1e15)]


def shown(value: Any) -> str:
    """A value of a file for a message: as Python writes it, and short."""
    return _short.repr(value)


def _only(kinds: tuple[type, ...], expected: str, then: _Hook | None = None) -> _Hook:
    """A hook for values of exactly these types: `bool` is not an `int`."""

    def check(value: Any, kind: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError(f"expected {expected}, got {shown(value)}")
        return value if then is None else then(value, kind)

    return check


def _finite(value: float, _: Any) -> float:
    if not abs(value) <= sys.float_info.max:  # also NaN
        raise ValueError(f"expected a finite number, got {shown(value)}")
    return float(value)


def _of_64_bits(value: int, _: Any) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"expected an integer of 64 bits, got {shown(value)}")
    return value


def _shallow(value: Any, _: Any) -> Any:
    """Any value, unless it is nested so deeply that writing it would fail."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for each in level for item in _items(each)]
        if not level:
            return value
    raise ValueError(f"expected a value that is nested at most {_DEEPEST} deep")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _has_origin(origin: object) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) == origin


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _dataclass_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    fill = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
    return _only((dict,), "a table", fill)


def _dict_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    _, item = get_args(kind)
    read = converter.get_structure_hook(item)

    def fill(table: dict[str, Any], _: Any) -> dict[str, Any]:
        pairs = _each(table.items(), lambda value: read(value, item), kind)
        return dict(zip(table, pairs, strict=True))

    return _only((dict,), "a table", fill)


def _list_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    item = get_args(kind)[0]
    read = converter.get_structure_hook(item)

    def fill(values: Sequence[Any], _: Any) -> tuple[Any, ...]:
        return tuple(_each(enumerate(values), lambda value: read(value, item), kind))

    return _only((list, tuple), "a list", fill)


def _each(
    items: Iterable[tuple[Any, Any]], read: Callable[[Any], Any], kind: Any
) -> list[Any]:
    """Read the values of a list or table, until there are more problems than are shown."""
    values, problems = [], []
    for place, item in items:
        try:
            values.append(read(item))
        except Exception as error:  # noqa: BLE001 - with its place, reported with the others
            note = IterableValidationNote(f"at {place!r}", place, kind)
            error.__notes__ = [*getattr(error, "__notes__", []), note]
            problems.append(error)
            if len(problems) > _MOST_PROBLEMS:
                break
    if problems:
        raise IterableValidationError(f"in {kind}", problems, kind)
    return values


def _range_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    plain, limits = get_args(kind)
    read = converter.get_structure_hook(plain)
    expected = limits.of("an integer" if plain is int else "a number")
    tests = limits.tests()  # once: a run has millions of numbers

    def check(value: Any, _: Any) -> Any:
        number = read(value, plain)
        for compare, limit in tests:
            if not compare(number, limit):
                raise ValueError(f"expected {expected}, got {shown(value)}")
        return number

    return check


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_factory(is_dataclass, _dataclass_hook)
    converter.register_structure_hook_factory(_has_origin(dict), _dict_hook)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_factory(_has_origin(Annotated), _range_hook)
    converter.register_structure_hook(float, _only((int, float), "a number", _finite))
    converter.register_structure_hook(int, _only((int,), "an integer", _of_64_bits))
    converter.register_structure_hook(str, _only((str,), "a string"))
    converter.register_structure_hook(bool, _only((bool,), "true or false"))
    converter.register_structure_hook_func(lambda kind: kind in (object, Any), _shallow)
    return converter


_CONVERTER = _converter()


def _message(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"missing key {error.args[0]!r}"
    if isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(item.name for item in fields(error.cl))
        unknown = f"unknown key {', '.join(sorted(error.extra_fields)[:_MOST_PROBLEMS])}"
        return f"{unknown}; known are {known}" if known else f"{unknown}: it takes none"
    return str(error)


def structure(cls: type[T], table: Any, *, where: str, error: type[EdgeRuntimeError]) -> T:
    """Make a `cls` from plain data.

    Args:
        cls: a dataclass; nested dataclasses, tuples, optionals and dicts are read, too.
        table: as `reading.read_json` or `read_toml` returns it.
        where: the file's name, for the message.
        error: the class to raise.

    Raises:
        error: one line per problem, each with its path in the table.
    """
    if not isinstance(table, Mapping):
        raise error(f"{where}: expected a table, got {type(table).__name__}")
    try:
        return _CONVERTER.structure(table, cls)
    except ClassValidationError as invalid:
        problems = cattrs.transform_error(invalid, format_exception=_message)
        raise error(problems_text(where, map(_with_place, problems))) from invalid


def problems_text(where: str, problems: Iterable[str]) -> str:
    """A file's problems for people, one per line; of many only the first."""
    first = list(islice(problems, _MOST_PROBLEMS + 1))
    is_more = len(first) > _MOST_PROBLEMS
    count = f"more than {_MOST_PROBLEMS}" if is_more else len(first)
    return "\n  ".join([f"{where}: {count} problem(s)", *first[:_MOST_PROBLEMS]])


def _with_place(problem: str) -> str:
    what, _, place = problem.rpartition(" @ $")
    return f"{place.removeprefix('.')}: {what}" if place else what


def unstructure(value: Any) -> Any:
    """The plain data of a dataclass, as `json.dumps` takes it."""
    return _CONVERTER.unstructure(value)


def read_toml(
    path: Path, *, where: str, error: type[EdgeRuntimeError], advice: str = ""
) -> dict[str, Any]:
    """The table of a TOML file.

    Args:
        path: the file.
        where: what to call it in messages.
        error: the class to raise.
        advice: what to do when it cannot be read.

    Raises:
        error: it cannot be read, or is not valid TOML.
    """
    try:
        return parse_toml(read_file(path, MAX_TOML_BYTES).decode())
    except OSError as unread:
        raise error(
            f"{where} cannot be read ({unread.strerror}). {advice}".strip()
        ) from unread
    except ValueError as invalid:  # also what is not UTF-8
        raise error(f"{where} is not valid TOML: {invalid}") from invalid


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML document.

    Raises:
        ValueError: it is not valid, or is nested too deeply.
    """
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise ValueError("it has a line with too many dots")  # tables inside each other
    level = 0
    for bracket in filter(None, _BRACKET.findall(text)):
        level += 1 if bracket in "[{" else -1
        if level > _DEEPEST:
            raise ValueError("it is nested too deeply")  # a parser in C may crash
    return tomllib.loads(text)
