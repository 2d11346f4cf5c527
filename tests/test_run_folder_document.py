"""docs/run-folder.md names every field of every file of a run folder."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from edge_runtime.budget import Budget
from edge_runtime.device import WindowEnergy
from edge_runtime.records import CheckpointInfo, RunInfo, Settings, events
from edge_runtime.records.power import PowerRecord

DOCUMENT = (Path(__file__).parents[1] / "docs/run-folder.md").read_text()
NAMED = set(re.findall(r"`([a-z0-9_.]+)`", DOCUMENT))

PARTS = [RunInfo, Settings, Budget, PowerRecord, WindowEnergy, CheckpointInfo, events.Spent]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_is_explained(part) -> None:
    assert {field.name for field in fields(part)} <= NAMED


def test_every_field_of_a_step_is_explained() -> None:
    names = {field.name for field in fields(events.StepRecord)} - {"measured"}
    measured = {f"measured.{field.name}" for field in fields(events.Measured)}
    assert names | measured <= NAMED


def test_every_event_has_a_row_with_its_fields() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", DOCUMENT, flags=re.MULTILINE))
    kinds = {kind for kind in events.Event.__args__ if kind is not events.StepRecord}
    for kind in kinds:
        assert is_dataclass(kind)
        # The name that its lines have, without making one.
        name = next(n for n, known in events._KINDS.items() if known is kind)
        wanted = [field.name for field in fields(kind)]
        listed = re.findall(r"`([a-z_]+)`", rows[name])
        assert listed[: len(wanted)] == wanted, name
