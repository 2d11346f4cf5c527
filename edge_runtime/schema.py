"""Plain tables (JSON, TOML) into frozen dataclasses, strictly, all problems at once.

Unknown keys are errors, `True` is not an integer, a string is never read as a number or as a
list. A number with limits has them beside its type, as in `Annotated[int, Range(ge=1)]` and
`Positive`; NaN and infinity are within no limits.
"""

import math
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_mapping_structure_fn

from edge_runtime.errors import EdgeRuntimeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]  # as cattrs calls it: value, type

_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The limits of a number; without any, it only has to be finite."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def _limits(self) -> dict[str, float]:
        limits = zip(_COMPARE, (self.gt, self.ge, self.lt, self.le), strict=True)
        return {sign: limit for sign, limit in limits if limit is not None}

    def __contains__(self, number: float) -> bool:
        is_finite = isinstance(number, int) or math.isfinite(number)
        return is_finite and all(
            _COMPARE[sign](number, limit) for sign, limit in self._limits().items()
        )

    def of(self, what: str) -> str:
        """For example `a number > 0`, `an integer in [0, 9)`, `a finite number`."""
        limits = self._limits()
        if len(limits) == 2:
            opening, closing = "(" if ">" in limits else "[", ")" if "<" in limits else "]"
            low, high = limits.values()
            return f"{what} in {opening}{low}, {high}{closing}"
        for sign, limit in limits.items():
            return f"{what} {sign} {limit}"
        return f"a finite {what.split()[-1]}"


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Probability = Annotated[float, Range(ge=0, le=1)]
PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]


def _only(kinds: tuple[type, ...], expected: str, then: _Hook | None = None) -> _Hook:
    """A hook for values of exactly these types: `bool` is not an `int`."""

    def check(value: Any, kind: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError(f"expected {expected}, got {value!r}")
        return value if then is None else then(value, kind)

    return check


def _has_origin(origin: object) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) == origin


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _dataclass_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    fill = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
    return _only((dict,), "a table", fill)


def _dict_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    return _only((dict,), "a table", make_mapping_structure_fn(kind, converter))


def _list_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    as_list: Any = list[get_args(kind)[0]]  # type: ignore[misc]
    fill = converter.get_structure_hook(as_list)
    return _only((list, tuple), "a list", lambda value, _: tuple(fill(value, as_list)))


def _range_hook(kind: Any, converter: cattrs.Converter) -> _Hook:
    plain, limits = get_args(kind)
    read = converter.get_structure_hook(plain)
    expected = limits.of("an integer" if plain is int else "a number")

    def check(value: Any, _: Any) -> Any:
        number = read(value, plain)
        if number not in limits:
            raise ValueError(f"expected {expected}, got {value!r}")
        return number

    return check


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_factory(is_dataclass, _dataclass_hook)
    converter.register_structure_hook_factory(_has_origin(dict), _dict_hook)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_factory(_has_origin(Annotated), _range_hook)
    number = _only((int, float), "a number", lambda value, _: float(value))
    converter.register_structure_hook(float, number)
    converter.register_structure_hook(int, _only((int,), "an integer"))
    converter.register_structure_hook(str, _only((str,), "a string"))
    converter.register_structure_hook(bool, _only((bool,), "true or false"))
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    return converter


_CONVERTER = _converter()


def _message(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"missing key {error.args[0]!r}"
    if isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(item.name for item in fields(error.cl))
        unknown = f"unknown key {', '.join(sorted(error.extra_fields))}"
        return f"{unknown}; known are {known}" if known else f"{unknown}: it takes none"
    return str(error)


def structure(cls: type[T], table: Any, *, where: str, error: type[EdgeRuntimeError]) -> T:
    """Make a `cls` from plain data.

    Args:
        cls: a dataclass; nested dataclasses, tuples, optionals and dicts are read, too.
        table: the result of `json.loads` or `read_toml`.
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
        lines = [f"{where}: {len(problems)} problem(s)"]
        lines += [f"  {_with_place(problem)}" for problem in problems]
        raise error("\n".join(lines)) from invalid


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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as unread:
        raise error(
            f"{where} cannot be read ({unread.strerror}). {advice}".strip()
        ) from unread
    except ValueError as invalid:  # also what is not UTF-8
        raise error(f"{where} is not valid TOML: {invalid}") from invalid
