"""The number of threads decides the last bits: a run that is continued keeps it."""

import pytest
from test_within_budget import package, train_within
from training_fakes import FakeEngine, stop_after

from edge_runtime import within_budget
from edge_runtime.device import cpu_threads
from edge_runtime.errors import StoppedError
from edge_runtime.records import events, open_run

__all__ = ["package"]  # the fixture


@pytest.fixture
def asked(package, monkeypatch) -> list[int | None]:
    """The threads of every engine that is created."""
    numbers: list[int | None] = []

    def create(name, *, device, threads, forward_engine):
        numbers.append(threads)
        engine = FakeEngine()
        engine.threads = threads
        return engine

    monkeypatch.setattr(within_budget, "create_engine", create)
    return numbers


def begin(package, folder, **given) -> None:
    with pytest.raises(StoppedError):
        train_within(package, folder, stop=stop_after(3), **given)


def resume(package, folder, **given) -> tuple[events.Resumed, list[str]]:
    said: list[str] = []
    first, *_ = train_within(package, folder, resume=True, report=said.append, **given)
    return first, [line for line in said if "threads" in line]


def test_a_run_keeps_its_number(package, asked, tmp_path) -> None:
    other = cpu_threads() + 1
    begin(package, tmp_path / "run", threads=other)
    first, said = resume(package, tmp_path / "run")
    assert asked == [other, other]
    assert (first.threads, said) == (other, [])


def test_all_processors_stay_all_processors(package, asked, tmp_path) -> None:
    """Costs are measured for that: a number would not find them."""
    begin(package, tmp_path / "run")
    first, _ = resume(package, tmp_path / "run")
    assert asked == [None, None]
    assert first.threads == cpu_threads() == open_run(tmp_path / "run").info.threads


def test_on_fewer_processors_the_number_stays(
    package,
    asked,
    tmp_path,
    monkeypatch,
) -> None:
    begin(package, tmp_path / "run")
    began = cpu_threads()
    monkeypatch.setattr(within_budget, "cpu_threads", lambda: began + 3)
    resume(package, tmp_path / "run")
    assert asked == [None, began]


def test_another_number_is_taken_and_said(package, asked, tmp_path) -> None:
    begin(package, tmp_path / "run", threads=3)
    first, said = resume(package, tmp_path / "run", threads=2)
    assert (asked, first.threads) == ([3, 2], 2)
    assert said[0].startswith("the run began with --threads 3 and goes on with 2: from here")
