"""Numbers with limits, lists and tables, TOML files."""

import math
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.schema import (
    Bytes,
    Joules,
    NonNegative,
    Positive,
    PositiveInt,
    Probability,
    Range,
    parse_toml,
    read_toml,
    structure,
    unstructure,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    ratios: tuple[Annotated[float, Range(gt=0, le=1)], ...] = (1.0,)
    flip: Probability | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    gain: Positive = 1.0
    power_w: NonNegative = 0.0
    offset: float = 0.0
    spent_j: Joules = 0.0
    size_bytes: Bytes = 0
    free: object = None
    count: PositiveInt = 1
    seed: Annotated[int, Range(ge=0, lt=2**40)] = 0
    beta: Annotated[float, Range(ge=0, lt=1)] = 0.0
    inner: Inner = field(default_factory=Inner)
    named: dict[str, Inner] = field(default_factory=dict)


def read(table: object) -> Outer:
    return structure(Outer, table, where="it", error=ConfigError)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"gain": 5e-324, "power_w": 0, "offset": -1e308, "count": 1, "beta": 0},
        {"seed": 2**40 - 1, "beta": math.nextafter(1, 0), "count": 2**63 - 1},
        {"free": {"a": [1, {"b": None}]}},
        {"inner": {"ratios": [1, 0.5], "flip": None}, "named": {"a": {"flip": 1}}},
    ],
)
def test_numbers_within_their_limits_are_read_and_written(table) -> None:
    value = read(table)
    assert read(unstructure(value)) == value


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"gain": 0}, "gain: expected a number > 0, got 0"),
        ({"gain": math.nan}, "gain: expected a finite number, got nan"),
        ({"gain": math.inf}, "gain: expected a finite number, got inf"),
        ({"gain": True}, "gain: expected a number, got True"),
        ({"gain": None}, "gain: expected a number, got None"),
        ({"power_w": -5e-324}, "power_w: expected a number >= 0, got -5e-324"),
        ({"offset": -math.inf}, "offset: expected a finite number, got -inf"),
        ({"count": 0}, "count: expected an integer >= 1, got 0"),
        ({"count": 1.0}, "count: expected an integer, got 1.0"),
        ({"count": False}, "count: expected an integer, got False"),
        ({"seed": 2**40}, f"seed: expected an integer in [0, {2**40}), got {2**40}"),
        ({"count": 2**63}, f"count: expected an integer of 64 bits, got {2**63}"),
        ({"count": -(2**63) - 1}, "count: expected an integer of 64 bits, got -922337"),
        ({"gain": 10**400}, "gain: expected a finite number, got 1000000000000000"),
        ({"gain": "x" * 1000}, "gain: expected a number, got 'xxxxxxxxxxxxxxx"),
        ({"spent_j": 1e300}, f"spent_j: expected a number in [-{10**15}, {10**15}], got 1e"),
        ({"size_bytes": -1}, f"size_bytes: expected an integer in [0, {2**50}], got -1"),
        ({"beta": 1}, "beta: expected a number in [0, 1), got 1"),
        ({"inner": {"flip": 1.5}}, "inner.flip: expected a number in [0, 1], got 1.5"),
        ({"inner": {"ratios": [1, 0]}}, "inner.ratios[1]: expected a number in (0, 1], got 0"),
        ({"inner": {"ratios": "1"}}, "inner.ratios: expected a list, got '1'"),
        ({"inner": {"ratios": {"1": 1}}}, "inner.ratios: expected a list, got {'1': 1}"),
        ({"inner": [1]}, "inner: expected a table, got [1]"),
        ({"named": [1]}, "named: expected a table, got [1]"),
        (
            {"named": {"a": {"flip": -1}}},
            "named['a'].flip: expected a number in [0, 1], got -1",
        ),
    ],
)
def test_a_refused_value_is_named_with_its_place(table, problem) -> None:
    with pytest.raises(ConfigError) as caught:
        read(table)
    assert str(caught.value).startswith(f"it: 1 problem(s)\n  {problem}")
    assert len(str(caught.value)) < 200


def test_a_value_without_a_type_is_not_nested_deeply() -> None:
    deep: object = 1
    for _ in range(500):
        deep = {"a": [deep]}
    with pytest.raises(ConfigError, match="free: expected a value that is nested at most 16"):
        read({"free": deep})
    with pytest.raises(ConfigError, match="gain: expected a number, got"):
        read({"gain": deep})


def test_of_many_problems_the_first_are_shown() -> None:
    with pytest.raises(ConfigError, match=r"it: more than 20 problem\(s\)\n(.*\n?){20}$"):
        read({"inner": {"ratios": [2] * 1_000_000}})


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)4 problem.*gain.*count.*ratios\[0\].*colour"):
        read({"gain": -1, "count": -1, "inner": {"ratios": [2]}, "colour": 1})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"file x cannot be read \(No such file or directory\)\. Look\."),
        (b"id = ", "file x is not valid TOML: "),
        (b"\xff\xfe", "file x is not valid TOML: "),
        (b"a = " + b"[" * 50_000, "file x is not valid TOML: it is nested too deeply"),
        (b"a = " + b"1" * 10_000, "file x is not valid TOML: .*limit"),
        (rb'a = "\ud800"', "file x is not valid TOML: "),
        (b".".join([b"a"] * 30_000) + b" = 1", "file x is not valid TOML: .* too many dots"),
        (b"#" * 70_000, r"file x cannot be read \(it has 68.4 KiB; at most 64.0 KiB are"),
    ],
)
def test_a_toml_file_that_cannot_be_read_is_named(tmp_path: Path, content, problem) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_toml(path, where="file x", error=ConfigError, advice="Look.")


MANY = "[{" * 20
FLAT = f"""
# a number in [0, 1), {MANY}
basic = ["{MANY}", "\\"{MANY}"]  # {MANY}
literal = '{MANY}"'
lines = '''
'{MANY}''''
"""


def test_brackets_in_strings_and_comments_are_not_tables() -> None:
    basic_lines = f'more = """\n"{MANY}\\""""\n'
    assert parse_toml(FLAT + basic_lines) == {
        "basic": [MANY, f'"{MANY}'],
        "literal": f'{MANY}"',
        "lines": f"'{MANY}'",
        "more": f'"{MANY}"',
    }
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(FLAT + basic_lines + "deep = " + "[" * 17)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_string_that_ends_in_quotes_hides_nothing(quote: str) -> None:
    text = f"a = [{quote * 3}\nx{quote * 5}, "
    assert parse_toml(f"{text}{quote}[{quote}]") == {"a": ["x" + quote * 2, "["]}
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(f"{text}{'[' * 17}{quote}")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(f"{text.replace(quote * 5, quote * 4)}{'[' * 17}{quote}")


# Numbers without limits, and why.
WITHOUT_LIMITS = {
    "format": "compared with the one format that is read",
    "Budget": "checks its values itself, also those of flags",
}


def plain_numbers(kind: type, seen: set[type]) -> list[str]:
    """Fields of a dataclass, and of those inside it, that are numbers without limits."""
    if kind in seen:
        return []
    seen.add(kind)
    problems = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for part in parts_of(hint):
            if part in (int, float):
                problems.append(f"{kind.__name__}.{name}")
            elif isinstance(part, type) and is_dataclass(part):
                problems += plain_numbers(part, seen)
    return problems


def parts_of(hint: object) -> list[object]:
    """The types that a hint is made of; one with limits is one."""
    if get_origin(hint) is Annotated or not get_args(hint):
        return [hint]
    return [part for each in get_args(hint) for part in parts_of(each)]


def test_every_number_of_a_file_has_limits() -> None:
    from edge_runtime.device.board import Board
    from edge_runtime.package.manifest import Manifest
    from edge_runtime.profiling.process import MeasuredRung
    from edge_runtime.records import CheckpointInfo, RunInfo, events
    from edge_runtime.records.power import PowerRecord

    kinds = [Board, Manifest, MeasuredRung, CheckpointInfo, RunInfo, PowerRecord]
    seen: set[type] = set()
    problems = [
        problem
        for kind in (*kinds, events.Moment, *get_args(events.Event))
        for problem in plain_numbers(kind, seen)
    ]
    assert len(seen) > 40
    unexcused = {
        problem for problem in problems if not WITHOUT_LIMITS.keys() & {*problem.split(".")}
    }
    assert unexcused == set()


def test_every_number_of_a_recipe_has_limits() -> None:
    pytest.importorskip("torch")
    from edge_export.objectives import OBJECTIVES
    from edge_export.policies.simprune import Options
    from edge_export.recipe import Recipe

    seen: set[type] = set()
    kinds = (Recipe, *(each.options for each in OBJECTIVES.values()), Options)
    assert [problem for kind in kinds for problem in plain_numbers(kind, seen)] == []
