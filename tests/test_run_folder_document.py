"""docs/run-folder.md names every field of every file of a run folder, and no other."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from edge_runtime.facts import (
    Budget,
    EvaluationResults,
    KnnResult,
    Pictures,
    ProbeResult,
    Spent,
    WindowEnergy,
)
from edge_runtime.records import CheckpointInfo, RunInfo, Settings, events
from edge_runtime.records.power import PowerRecord

DOCUMENT = (Path(__file__).parents[1] / "docs/run-folder.md").read_text()


def names_of(kind) -> set[str]:
    return {field.name for field in fields(kind)}


def section(title: str) -> str:
    _, separator, rest = DOCUMENT.partition(f"\n## {title}\n")
    assert separator, title
    return rest.partition("\n## ")[0]


def rows(title: str, header: str = "field") -> dict[str, list[str]]:
    """Cells of each row by the names in its first cell, of the table with that header."""
    _, separator, rest = section(title).partition(f"| {header} |")
    assert separator, (title, header)
    table = rest.partition("\n\n")[0]
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]
    ]
    return {name: row[1:] for row in cells for name in re.findall(r"`([a-z0-9_.]+)`", row[0])}


def named(text: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)`", text)


@pytest.mark.parametrize(
    ("title", "kind"), [("run.json", RunInfo), ("power.jsonl", PowerRecord)]
)
def test_a_table_has_exactly_the_fields(title, kind) -> None:
    assert set(rows(title)) == names_of(kind)


def test_the_table_of_a_step_has_exactly_its_fields() -> None:
    measured = {f"measured.{name}" for name in names_of(events.Measured)}
    assert set(rows("steps.jsonl")) == names_of(events.StepRecord) - {"measured"} | measured


@pytest.mark.parametrize(("field", "kind"), [("settings", Settings), ("budget", Budget)])
def test_a_row_of_run_json_names_the_fields_of_its_table(field, kind) -> None:
    assert set(named(rows("run.json")[field][-1])) - {"null"} == names_of(kind)


def test_every_event_has_a_row_with_its_fields() -> None:
    table = rows("events.jsonl", "event")
    kinds = {name: kind for name, kind in events._KINDS.items() if name != "step"}
    assert set(table) == set(kinds)
    for name, kind in kinds.items():
        assert is_dataclass(kind)
        assert named(table[name][0]) == [field.name for field in fields(kind)], name


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("window", WindowEnergy),
        ("spent", Spent),
        ("results", EvaluationResults),
        ("train", Pictures),
        ("test", Pictures),
        ("knn", KnnResult),
        ("linear", ProbeResult),
    ],
)
def test_a_table_inside_an_event_has_a_row_with_its_fields(field, kind) -> None:
    assert set(named(rows("events.jsonl", "table")[field][0])) == names_of(kind)


def test_every_field_of_a_checkpoint_is_explained() -> None:
    assert set(named(section("checkpoint.json"))) == names_of(CheckpointInfo)
