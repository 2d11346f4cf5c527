"""NULs in records, in the place of blocks that never reached the disk: read around, named."""

import json
import logging
import os
from pathlib import Path

import pytest
from live_runs import finished_run
from report_runs import gap_run
from training_fakes import run_to_the_end, stop_after

from edge_runtime.cli.main import main
from edge_runtime.errors import RecordsError, StoppedError
from edge_runtime.records import open_run
from edge_runtime.records.jsonl import LineFile, LineReader
from edge_runtime.report import summarize

FILES = ("steps.jsonl", "events.jsonl", "power.jsonl")


def zero(file: Path, start: int, end: int) -> None:
    content = bytearray(file.read_bytes())
    content[start:end] = bytes(end - start)
    file.write_bytes(content)


def middle_of_line(file: Path, number: int) -> int:
    lines = file.read_bytes().splitlines(keepends=True)
    return sum(map(len, lines[: number - 1])) + len(lines[number - 1]) // 2


def test_lines_with_nuls_are_left_out_and_counted(tmp_path, caplog) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(f'{{"n": {n}}}\n' for n in range(10)))
    zero(file, middle_of_line(file, 3), middle_of_line(file, 5))  # lines 3 to 5 become one
    zero(file, middle_of_line(file, 6), middle_of_line(file, 6) + 1)
    reader = LineReader(file)
    with caplog.at_level(logging.WARNING):
        tables = list(reader)
    assert [table["n"] for table in tables] == [0, 1, 5, 6, 8, 9]
    assert reader.zeroed_lines == [3, 6]
    assert caplog.messages == [
        f"{file}, line 3 has NULs, as after a power cut, and is left out"
    ]


def test_blocks_of_nothing_but_nuls_do_not_end_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.records.jsonl._BLOCK_BYTES", 64)
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"n": 1}\n' + bytes(1000) + b"\n" + bytes(100) + b'\n{"n": 2}\n')
    assert [table["n"] for table in LineReader(file)] == [1, 2]


def test_nuls_at_the_end_are_skipped_and_then_removed(tmp_path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2' + bytes(5 << 20))
    reader = LineReader(path)
    assert list(reader) == [{"n": 1}]
    assert reader.has_partial_line
    file = LineFile(path)
    file.append({"n": 3})
    file.close()
    assert path.read_bytes() == b'{"n": 1}\n{"n": 3}\n'


def test_a_terabyte_after_the_last_line_is_refused(tmp_path) -> None:
    path = tmp_path / "steps.jsonl"
    file = LineFile(path)
    file.append({"step": 1})
    os.truncate(path, 1 << 40)
    for action in (file.size_bytes, lambda: file.count_after(0), lambda: file.append({})):
        with pytest.raises(RecordsError, match=r"more than 256.* at its end are no lines"):
            action()
    file.close()


@pytest.mark.parametrize("name", FILES)
def test_a_report_says_what_is_lost(name, tmp_path) -> None:
    folder = gap_run().write(tmp_path / "run")
    file = folder / name
    zero(file, middle_of_line(file, 3), middle_of_line(file, 3) + 10)
    with file.open("ab") as stream:
        stream.write(bytes(4096))
    (run,) = summarize([folder])[0].runs
    texts = [note.text for note in run.notes if note.kind == "damaged"]
    assert texts == [
        f"{name} ends in the middle of a line, which was skipped: a process was killed or the "
        "disk was full.",
        f"{name} has NULs in 1 line(s), first in line 3, as after a power cut; what they held "
        "is lost, and left out.",
    ]


@pytest.mark.parametrize("name", FILES)
def test_watch_reads_around_them(name, tmp_path, capsys, caplog) -> None:
    finished_run(tmp_path / "run")
    file = tmp_path / "run" / name
    at = middle_of_line(file, 2)
    zero(file, at, at + 10)
    assert main(["watch", str(tmp_path / "run"), "--json"]) == 0
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert "finished" in events
    if name != "power.jsonl":  # which is not replayed
        assert f"{name}, line 2 has NULs" in caplog.text


def test_a_run_is_resumed_after_a_power_cut(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        run_to_the_end(package, folder, stop=stop_after(6))
    file = folder / "events.jsonl"
    zero(file, middle_of_line(file, 2), middle_of_line(file, 2) + 5)
    for name in FILES:
        with (folder / name).open("ab") as stream:
            stream.write(b'{"step": 7, "ep' + bytes(4096))
    run_to_the_end(package, folder, resume=True)
    resumed, whole = open_run(folder), open_run(tmp_path / "whole")
    assert [step.loss for step in resumed.steps()] == [step.loss for step in whole.steps()]
    assert resumed.newest_checkpoint().info.step == 10
    assert b"\0" not in (folder / "steps.jsonl").read_bytes()
