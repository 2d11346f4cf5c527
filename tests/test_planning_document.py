"""docs/planning.md has every field of the types that it describes."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from edge_runtime.facts import (
    Budget,
    Calibration,
    CalibrationStage,
    CostProfile,
    Plan,
    RungCost,
    RungGradient,
    RungVerdict,
    SingleRungCost,
)
from edge_runtime.facts.budget import LIMITS
from edge_runtime.planning import Decision

TEXT = (Path(__file__).parents[1] / "docs" / "planning.md").read_text()


def keys(heading: str) -> set[str]:
    """Names in the first column of the table below that heading row."""
    _, separator, rest = TEXT.partition(f"| {heading} |")
    assert separator
    table = rest.partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    ("kind", "section", "heading"),
    [
        (CostProfile, "## Cost profile, format 1", "key"),
        (RungCost, "## Cost profile, format 1", "key of a rung"),
        (Plan, "## Plan\n", "key"),
        (RungVerdict, "## Plan\n", "key of a verdict"),
        (SingleRungCost, "## Plan\n", "key of a rung alone"),
        (Decision, "## Decision", "key"),
        (Calibration, "### Calibration, format 1", "key of a calibration"),
        (CalibrationStage, "### Calibration, format 1", "key of a stage"),
        (RungGradient, "### Calibration, format 1", "key of a rung's gradient"),
    ],
)
def test_every_field_is_documented(kind, section, heading, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.TEXT", TEXT.partition(section)[2])
    assert keys(heading) == {item.name for item in fields(kind)}


def test_every_limit_is_documented() -> None:
    table = TEXT.partition("| flag |")[2].partition("\n\n")[0]
    for limit in LIMITS:
        assert f"| `{limit.flag} " in table
        assert f"`{limit.field}`" in table
    assert {limit.field for limit in LIMITS} == {item.name for item in fields(Budget)}
