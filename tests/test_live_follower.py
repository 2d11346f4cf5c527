"""A run folder that is followed while it is written."""

import fcntl
import json
import os
import resource
import threading

import pytest
from live_runs import FINISHED, STARTED, Writing, finished_run, resumed, sample

from edge_runtime.errors import RecordsError
from edge_runtime.live import Follower
from edge_runtime.records.jsonl import (
    _BLOCK_BYTES,
    CutError,
    LineFile,
    LineReader,
    is_held,
)
from edge_runtime.schema import unstructure


def test_what_is_new_is_taken_in(tmp_path) -> None:
    with Writing(tmp_path / "run") as writing:
        follower = Follower(writing.run)
        assert not follower.poll()
        writing.event(0.1, STARTED)
        writing.steps(1, 2)
        assert follower.poll()
        assert not follower.poll()
        assert follower.status.steps_done == 2
        writing.steps(3)
        writing.samples(sample(1.0, 4.0), sample(2.0, 8.0))
        assert follower.poll()
        assert (follower.status.steps_done, follower.status.power_w) == (3, 8.0)
        assert follower.status.spent_j == 16.0
        writing.event(4.0, FINISHED)
        follower.poll()
        assert follower.status.ended == FINISHED


def test_half_a_line_waits_for_its_rest(tmp_path) -> None:
    run = finished_run(tmp_path / "run")
    file = tmp_path / "run/power.jsonl"
    line = json.dumps(unstructure(sample(11.0, 6.0))) + "\n"
    follower = Follower(run)
    for part in (line[:30], line[30:]):
        with file.open("a") as stream:
            stream.write(part)
        follower.poll()
    assert follower.status.power_w == 6.0


def test_steps_that_are_cut_by_a_resumed_run_are_followed(tmp_path) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.steps(1, 2, 3, 4)
        follower = Follower(writing.run)
        follower.poll()
    file = tmp_path / "run/steps.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]))
    with Writing(tmp_path / "run", process=2) as writing:
        writing.event(0.5, resumed(2))
        # Longer than before: the length alone would not tell.
        writing.steps(3, 4, 5)
        follower.poll()
    assert follower.status.steps_done == 5
    assert follower.status.last_step.measured.process == 2


def test_a_run_that_took_the_place_of_another_is_an_error(tmp_path) -> None:
    follower = Follower(finished_run(tmp_path / "run"))
    follower.poll()
    (tmp_path / "run").rename(tmp_path / "old")
    finished_run(tmp_path / "run", sensor="another")
    (tmp_path / "run/events.jsonl").write_text("")
    with pytest.raises(
        RecordsError, match=r"events.jsonl was truncated or replaced while it was"
    ):
        follower.poll()


@pytest.mark.parametrize("name", ["steps.jsonl", "events.jsonl", "power.jsonl"])
def test_a_missing_file_is_explained(tmp_path, name) -> None:
    run = finished_run(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(RecordsError, match=f"cannot read .*{name}: No such file"):
        Follower(run).poll()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "power.jsonl, line 11 is damaged: Expecting"),
        (b"[]", "power.jsonl, line 11 is damaged: it is not a JSON table"),
        (b'{"process": 1, "t_s": "x", "total_w": 1}', "t_s: expected a number, got 'x'"),
        (b'{"process": 1, "t_s": 2.0}', "missing key 'total_w'"),
    ],
)
def test_a_damaged_line_is_explained(tmp_path, line, message) -> None:
    run = finished_run(tmp_path / "run")
    with (tmp_path / "run/power.jsonl").open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(RecordsError, match=message):
        Follower(run).poll()


def test_only_the_end_of_many_steps_is_read(tmp_path, monkeypatch) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.steps(1)
    line = (tmp_path / "run/steps.jsonl").read_bytes()
    (tmp_path / "run/steps.jsonl").write_bytes(b"no JSON\n" * 20_000 + line)
    follower = Follower(writing.run)
    with pytest.raises(RecordsError, match=r"steps\.jsonl"):  # the tail holds such lines, too
        follower.poll()
    lines = b"".join(line.replace(b'"step": 1,', b'"step": %d,' % n) for n in range(2, 402))
    with (tmp_path / "run/steps.jsonl").open("ab") as stream:
        stream.write(lines)
    follower = Follower(writing.run)
    follower.poll()
    assert follower.status.steps_done == 401


def test_a_damaged_line_of_a_tail_has_no_number(tmp_path) -> None:
    file = tmp_path / "lines"
    file.write_text('{"n": 1}\n' * 100)
    lines = LineReader(file, tail_bytes=50)
    assert len(lines.read()) == 5
    with file.open("a") as stream:
        stream.write("[]\n")
    with pytest.raises(RecordsError, match="lines: a line is damaged: it is not a JSON table"):
        lines.read()


def test_lines_longer_than_a_block_are_read(tmp_path) -> None:
    file = tmp_path / "lines"
    file.write_text(json.dumps({"a": "x" * 3 * _BLOCK_BYTES}) + "\n" + '{"b": 1}\n')
    lines = LineReader(file)
    assert [[*table] for table in lines.read()] == [["a"], ["b"]]
    assert lines.read() == []


def test_a_tail_begins_with_a_whole_line(tmp_path) -> None:
    file = tmp_path / "lines"
    file.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(100)))
    tables = LineReader(file, tail_bytes=50).read()
    assert [table["n"] for table in tables] == [96, 97, 98, 99]
    assert len(LineReader(file, tail_bytes=5000).read()) == 100


def test_a_shorter_file_is_a_cut_one(tmp_path) -> None:
    file = tmp_path / "lines"
    file.write_text('{"n": 1}\n{"n": 2}\n')
    lines = LineReader(file)
    lines.read()
    os.truncate(file, 9)
    with pytest.raises(CutError, match="lines was truncated or replaced"):
        lines.read()


def test_whether_a_missing_run_is_held_is_an_error(tmp_path) -> None:
    with pytest.raises(RecordsError, match=r"cannot check .*gone: No such file"):
        is_held(tmp_path / "gone")


def test_asking_whether_a_run_is_held_keeps_nobody_out(tmp_path) -> None:
    path = tmp_path / "lines"
    file = LineFile(path)
    with path.open("rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.01, asking.close).start()
        file.hold()
    file.close()


def test_a_run_is_held_while_a_process_works_on_it(tmp_path) -> None:
    with Writing(tmp_path / "run"):
        assert is_held(tmp_path / "run/steps.jsonl")
    assert not is_held(tmp_path / "run/steps.jsonl")
    with Writing(tmp_path / "run", process=2):  # asking left nothing behind
        assert is_held(tmp_path / "run/steps.jsonl")


def test_a_long_run_takes_no_memory(tmp_path) -> None:
    """20,000 samples are 4 MB; they pass by in blocks."""
    run = finished_run(tmp_path / "run")
    line = (tmp_path / "run/power.jsonl").read_bytes().splitlines(keepends=True)[-1]
    with (tmp_path / "run/power.jsonl").open("ab") as stream:
        stream.write(line * 20_000)
    before = resource.getrusage(resource.RUSAGE_SELF)
    follower = Follower(run)
    follower.poll()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_maxrss - before.ru_maxrss < 16_000  # KiB
    assert follower.status.spent_s == 12.5
