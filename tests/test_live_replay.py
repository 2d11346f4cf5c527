"""The events of a run, in the order in which they happened."""

import pytest
from facts_examples import RESULTS
from live_runs import (
    DIVERGED,
    FINISHED,
    RUNG,
    STARTED,
    STOPPED,
    Writing,
    finished_run,
    resumed,
)
from training_fakes import FakePictures, options, write_package

from edge_runtime.live import Replay
from edge_runtime.records import events, log_event, open_run
from edge_runtime.training import train

EVALUATION = events.Evaluation(
    step=10, results=RESULTS, spent_s=1.0, energy_j=None, energy_is_estimate=False
)


def replayed(replay: Replay) -> list[object]:
    """Step numbers, and the kinds of other events."""
    return [
        event.step if isinstance(event, events.StepRecord) else type(event).__name__
        for event in replay.poll()
    ]


def test_a_run_is_replayed_as_train_yielded_it(tmp_path) -> None:
    package = write_package(tmp_path / "package")
    rungs = ((1, "k100"), (7, "k050"))
    want = list(train(package, FakePictures(), tmp_path / "run", options(rungs=rungs)))
    replay = Replay(open_run(tmp_path / "run"))
    assert list(replay.poll()) == want[:-1]
    assert replay.ended == want[-1]


def test_what_comes_later_is_replayed_later(tmp_path) -> None:
    with Writing(tmp_path / "run") as writing:
        replay = Replay(writing.run)
        assert replayed(replay) == []
        writing.event(0.1, STARTED)
        assert replayed(replay) == ["Started"]
        writing.event(0.2, RUNG)
        writing.steps(1, 2)
        assert replayed(replay) == ["RungChanged", 1, 2]
        writing.steps(3)
        writing.event(3.5, RUNG)
        assert replayed(replay) == [3, "RungChanged"]
        assert replayed(replay) == []


def test_the_end_comes_after_what_was_evaluated(tmp_path) -> None:
    run = finished_run(tmp_path / "run")
    log_event(run.path, EVALUATION)
    replay = Replay(run)
    assert replayed(replay)[-2:] == [10, "Evaluation"]
    assert replay.ended == FINISHED


def test_an_end_before_a_resume_is_replayed_in_its_place(tmp_path) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.steps(1, 2)
        writing.event(3.0, STOPPED)
    replay = Replay(writing.run)
    assert replayed(replay) == [1, 2]
    with Writing(tmp_path / "run", process=2) as writing:
        writing.event(1.0, resumed(2))
        writing.steps(3)
        writing.event(9.0, DIVERGED)
    assert replayed(replay) == ["Interrupted", "Resumed", 3]
    assert replay.ended == DIVERGED


@pytest.mark.parametrize("block_bytes", [1 << 20, 250])
def test_steps_that_are_trained_again_are_replayed_again(
    tmp_path, monkeypatch, block_bytes
) -> None:
    """And those before the checkpoint are not, also where a block has no others."""
    monkeypatch.setattr("edge_runtime.records.jsonl._BLOCK_BYTES", block_bytes)
    with Writing(tmp_path / "run") as writing:
        writing.steps(1, 2, 3, 4)
    replay = Replay(writing.run)
    assert replayed(replay) == [1, 2, 3, 4]
    file = tmp_path / "run/steps.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    with Writing(tmp_path / "run", process=2) as writing:
        writing.event(0.5, resumed(2))
        writing.steps(3, 4, 5)
    assert replayed(replay) == ["Resumed", 3, 4, 5]


def test_many_blocks_keep_their_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.records.jsonl._BLOCK_BYTES", 700)
    kinds = replayed(Replay(finished_run(tmp_path / "run")))
    assert kinds == ["Started", "RungChanged", *range(1, 11)]


def test_an_event_waits_for_a_step_that_was_written_meanwhile(tmp_path, monkeypatch) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.steps(1)
        writing.event(1.5, RUNG)
        replay = Replay(writing.run)
        read, calls = replay._new_events, []

        def read_late():
            calls.append(1)
            if len(calls) == 2:  # the steps have been looked at, the events not yet
                writing.steps(2)
                writing.event(2.5, STARTED)
            return read()

        monkeypatch.setattr(replay, "_new_events", read_late)
        assert replayed(replay) == [1, "RungChanged", 2, "Started"]
