"""Budgets of runs on a GPU with memory of its own."""

from dataclasses import replace

import pytest
from measuring_fakes import environment
from test_within_budget import HOUR, measured, package, train_within
from training_fakes import kinds

from edge_runtime.profiling import save_profile
from edge_runtime.records import events

__all__ = ["measured", "package"]  # the fixtures


@pytest.mark.parametrize(
    ("free_bytes", "trained"), [(2000, "k100"), (1049, "k050"), (None, "k100")]
)
def test_a_rung_that_the_card_has_no_memory_for_is_not_begun(
    package, measured, tmp_path, monkeypatch, free_bytes, trained
) -> None:
    """Its own memory, by the measured peak and 5 %; where it is unknown, it is tried."""
    sizes = {"k100": 1000, "k050": 500}
    rungs = tuple(replace(cost, card_bytes=sizes[cost.rung]) for cost in measured.rungs)
    save_profile(replace(measured, rungs=rungs), environment().cached_profile_path(package))
    monkeypatch.setattr("edge_runtime.device.gpus.card_free_bytes", lambda: free_bytes)
    reported: list[str] = []
    found = train_within(package, tmp_path / "run", budget=HOUR, report=reported.append)
    assert {step.rung for step in kinds(found, events.StepRecord)} == {trained}
    left_out = "without rung k100: of the GPU's own memory, it needs 1.0 KiB, and 1.0 KiB are"
    assert any(line.startswith(left_out) for line in reported) == (trained == "k050")


def test_a_run_on_the_cpu_asks_no_driver(package, measured, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.device.gpus.card_free_bytes", None)
    monkeypatch.setattr("edge_runtime.device.gpus.survey", None)
    found = train_within(package, tmp_path / "run", budget=HOUR)
    assert isinstance(found[-1], events.Finished)
