"""Numbers with limits, lists and tables, TOML files."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.schema import (
    Finite,
    NonNegative,
    Positive,
    PositiveInt,
    Probability,
    Range,
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
    offset: Finite = 0.0
    count: PositiveInt = 1
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
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
        {"seed": 2**63 - 1, "beta": math.nextafter(1, 0), "count": 10**400},
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
        ({"gain": math.nan}, "gain: expected a number > 0, got nan"),
        ({"gain": math.inf}, "gain: expected a number > 0, got inf"),
        ({"gain": True}, "gain: expected a number, got True"),
        ({"gain": None}, "gain: expected a number, got None"),
        ({"power_w": -5e-324}, "power_w: expected a number >= 0, got -5e-324"),
        ({"offset": -math.inf}, "offset: expected a finite number, got -inf"),
        ({"count": 0}, "count: expected an integer >= 1, got 0"),
        ({"count": 1.0}, "count: expected an integer, got 1.0"),
        ({"count": False}, "count: expected an integer, got False"),
        ({"seed": 2**63}, f"seed: expected an integer in [0, {2**63}), got {2**63}"),
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
    assert str(caught.value) == f"it: 1 problem(s)\n  {problem}"


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)4 problem.*gain.*count.*ratios\[0\].*colour"):
        read({"gain": -1, "count": -1, "inner": {"ratios": [2]}, "colour": 1})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"file x cannot be read \(No such file or directory\)\. Look\."),
        (b"id = ", "file x is not valid TOML: "),
        (b"\xff\xfe", "file x is not valid TOML: "),
    ],
)
def test_a_toml_file_that_cannot_be_read_is_named(tmp_path: Path, content, problem) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_toml(path, where="file x", error=ConfigError, advice="Look.")
