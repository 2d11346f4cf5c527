"""Sums over the records before a checkpoint: nobody reads these records again."""

from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_runs import RUNG, STARTED, Writing, sample
from training_fakes import SPENT, FakePictures, options, stop_after, write_package

from edge_runtime.device import ReplaySensor
from edge_runtime.errors import RecordsError, StoppedError
from edge_runtime.live import Follower, Replay
from edge_runtime.records import Run, RunWriter, events, open_run
from edge_runtime.records.jsonl import LineReader
from edge_runtime.records.spending import Spending, add_table
from edge_runtime.records.totals import Losses, Totals
from edge_runtime.schema import unstructure
from edge_runtime.training import Metering, train

RECORDS = st.tuples(st.integers(0, 1), st.floats(0, 10), st.none() | st.floats(0, 100))


def save(writing: Writing, step: int) -> None:
    writing._writer.save(
        {"w": np.zeros(1, np.float32)}, step=step, epoch=0, spent=SPENT, losses=Losses()
    )


def spoil(file: Path, size_bytes: int) -> None:
    """Replace the beginning of a file by what no reader takes."""
    content = file.read_bytes()
    file.write_bytes(b"#" * (size_bytes - 1) + b"\n" + content[size_bytes:])


@pytest.fixture
def long_run(tmp_path) -> Run:
    """A checkpoint after the second sample; who reads the first two fails."""
    with Writing(tmp_path / "run") as writing:
        writing.event(0.1, STARTED)
        writing.samples(sample(1.0, 4.0), sample(2.0, 8.0))
        writing.steps(1, 2)
        save(writing, 2)
        writing.samples(sample(3.0, 6.0))
        writing.steps(3)
    with Writing(tmp_path / "run", process=2) as writing:
        writing.samples(sample(1.5, 5.0, process=2))
    run = writing.run
    spoil(run.path / "power.jsonl", run.totals().power_bytes)
    return run


@given(st.lists(RECORDS, max_size=20), st.integers(0, 20))
def test_spending_goes_on_from_any_sample(records, split) -> None:
    process, samples = 1, []
    for later, t_s, energy_j in records:
        process += later
        samples.append((process, t_s, energy_j))
    whole, before = Spending(), Spending()
    for each in samples:
        whole.add(*each)
    for each in samples[:split]:
        before.add(*each)
    for each in samples[split:]:
        before.add(*each)
    assert before == whole
    want_s = {number: t_s for number, t_s, _ in samples}
    assert whole.time_s == pytest.approx(sum(want_s.values()))
    want_j: dict[int, float | None] = {}
    for number, _, energy_j in samples:
        want_j[number] = want_j.get(number) if energy_j is None else energy_j
    known = [each for each in want_j.values() if each is not None]
    if samples and len(known) == len(want_j):
        assert whole.energy_j == pytest.approx(sum(known))
    else:
        assert whole.energy_j is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"process": True},
        {"process": 0},
        {"process": 10**30},
        {"t_s": 10**400},
        {"t_s": True},
        {"t_s": None},
        {"energy_j": 1e300},
        {"energy_j": "1"},
    ],
)
def test_a_sample_that_cannot_be_true_is_not_added(wrong) -> None:
    (name,) = wrong
    with pytest.raises(RecordsError, match=rf"power.jsonl: 1 problem\(s\)\n  {name}: "):
        add_table(Spending(), {**unstructure(sample(1.0, 4.0)), **wrong})


def test_a_sample_without_joules_is_not_one_with_unknown_joules() -> None:
    spending, table = Spending(), unstructure(sample(1.0, None))
    add_table(spending, table)
    assert (spending.time_s, spending.energy_j) == (1.0, None)
    del table["energy_j"]
    with pytest.raises(RecordsError, match="missing key 'energy_j'"):
        add_table(spending, table)


def test_samples_before_the_checkpoint_are_not_read(long_run) -> None:
    spending = long_run.spending(long_run.totals())
    assert spending.time_s == 3.0 + 1.5
    assert spending.energy_j == 3.0 * 6.0 + 1.5 * 5.0
    with pytest.raises(RecordsError, match=r"power.jsonl, line 1 is damaged"):
        long_run.spending(Totals())


def test_a_follower_reads_only_what_came_after_the_checkpoint(long_run, monkeypatch) -> None:
    last_line_bytes = len((long_run.path / "power.jsonl").read_bytes().splitlines()[-1]) + 1
    monkeypatch.setattr("edge_runtime.live.follower._TAIL_BYTES", last_line_bytes + 9)
    follower = Follower(long_run)
    assert follower.status.power_w == 5.0  # the newest, before anything is polled
    follower.poll()
    assert follower.status.spent_j == 3.0 * 6.0 + 1.5 * 5.0


def test_a_damaged_checkpoint_has_no_totals(long_run) -> None:
    (long_run.path / "checkpoints/2/checkpoint.json").write_text("{")
    assert long_run.totals() == Totals()


def test_a_replay_of_the_end_has_all_events_and_the_last_steps(tmp_path) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.event(0.1, STARTED)
        writing.event(0.2, RUNG)
        writing.steps(*range(1, 1001))
        writing.event(1000.5, RUNG)
    line_bytes = (tmp_path / "run/steps.jsonl").stat().st_size // 1000
    replayed = list(Replay(writing.run, tail_bytes=10 * line_bytes).poll())
    steps = [event.step for event in replayed if isinstance(event, events.StepRecord)]
    assert steps == list(range(steps[0], 1001))
    assert 8 <= len(steps) <= 10
    assert replayed[:2] == [STARTED, RUNG]
    assert replayed[-1] == RUNG


def test_lines_are_left_out_from_the_start(tmp_path) -> None:
    file = tmp_path / "lines"
    file.write_text('no JSON\n{"n": 1}\n[]\n')
    lines = LineReader(file, start_bytes=8)
    with pytest.raises(RecordsError, match="lines: a line is damaged"):  # has no number
        lines.read()


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 9))
def test_the_mean_loss_of_an_interrupted_epoch_is_that_of_a_whole_one(
    tmp_path_factory, polls
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    package = write_package(folder / "package")

    def means(run: Path) -> list[float]:
        logged = [each.event for each in open_run(run).events()]
        return [e.mean_loss for e in logged if isinstance(e, events.EpochFinished)]

    list(train(package, FakePictures(), folder / "whole", options()))
    with pytest.raises(StoppedError):
        list(train(package, FakePictures(), folder / "cut", options(stop=stop_after(polls))))
    spoil_steps = folder / "cut/steps.jsonl"
    spoil(spoil_steps, spoil_steps.stat().st_size)  # nobody reads them
    list(train(package, FakePictures(), folder / "cut", options(resume=True)))
    assert means(folder / "cut") == means(folder / "whole")


def test_a_resumed_run_adds_up_its_samples_as_if_it_had_read_them_all(tmp_path) -> None:
    package = write_package(tmp_path / "package")
    for stop in (stop_after(4), stop_after(3), None):
        sensor = ReplaySensor([(0.0, {"VDD_IN": 10.0})], total=["VDD_IN"])
        with Metering(sensor) as metering:
            asked = options(metering=metering, resume=True, **({"stop": stop} if stop else {}))
            with suppress(StoppedError):
                list(train(package, FakePictures(), tmp_path / "run", asked))
    run = open_run(tmp_path / "run")
    totals = run.totals()
    assert totals.spending.process == 3
    assert totals.power_bytes > 0
    assert run.spending(totals) == run.spending(Totals())
    with closing(RunWriter(run)) as writer:
        assert writer.count_spending(None) == run.spending(Totals())
