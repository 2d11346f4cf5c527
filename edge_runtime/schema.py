"""Plain tables (JSON, TOML) into frozen dataclasses, strictly, all problems at once.

Unknown keys are errors, `True` is not an integer, a string is never read as a number.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from edge_runtime.errors import EdgeRuntimeError

T = TypeVar("T")


def _exactly(kinds: tuple[type, ...], want: str) -> Any:
    def check(value: Any, _: type) -> Any:
        if type(value) not in kinds:
            raise ValueError(f"want {want}, got {value!r}")
        return value

    return check


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def from_table(kind: type[Any]) -> Callable[[Any, Any], Any]:
        fill = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

        def check(value: Any, target: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"want a table, got {value!r}")
            return fill(value, target)

        return check

    converter.register_structure_hook_factory(is_dataclass, from_table)
    converter.register_structure_hook(int, _exactly((int,), "an integer"))
    converter.register_structure_hook(
        float, lambda value, kind: float(_exactly((int, float), "a number")(value, kind))
    )
    converter.register_structure_hook(str, _exactly((str,), "a string"))
    converter.register_structure_hook(bool, _exactly((bool,), "true or false"))
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
    if isinstance(error, TypeError):
        return f"want a list: {error}"
    if isinstance(error, AttributeError):
        return f"want a table: {error}"
    return str(error)


def structure(cls: type[T], table: Any, *, where: str, error: type[EdgeRuntimeError]) -> T:
    """Make a `cls` from plain data.

    Args:
        cls: a dataclass; nested dataclasses, tuples, optionals and dicts are followed.
        table: what `json.loads` or `tomllib.loads` gave.
        where: the file's name, for the message.
        error: the class to raise.

    Raises:
        error: one line per problem, each with its path in the table.
    """
    if not isinstance(table, Mapping):
        raise error(f"{where}: want a table, got {type(table).__name__}")
    try:
        return _CONVERTER.structure(table, cls)
    except ClassValidationError as found:
        problems = cattrs.transform_error(found, format_exception=_message)
        lines = [f"{where}: {len(problems)} problem(s)"]
        lines += [f"  {_with_place(problem)}" for problem in problems]
        raise error("\n".join(lines)) from found


def _with_place(problem: str) -> str:
    what, _, place = problem.rpartition(" @ $")
    return f"{place.removeprefix('.')}: {what}" if place else what


def unstructure(value: Any) -> Any:
    """The plain data of a dataclass, as `json.dumps` takes it."""
    return _CONVERTER.unstructure(value)
