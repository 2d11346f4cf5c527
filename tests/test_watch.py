"""`edge-train watch`: a run of another process, running or ended."""

import json
import os
import sys
import threading
import time
from dataclasses import replace

import pytest
from live_runs import (
    DIVERGED,
    FINISHED,
    LOST,
    RUNG,
    STARTED,
    STOPPED,
    Writing,
    finished_run,
    resumed,
)

from edge_runtime.cli.main import main
from edge_runtime.facts import Budget
from edge_runtime.records import open_run


@pytest.fixture(autouse=True)
def _quickly(monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.cli.watch._EVERY_S", 0.02)


def test_a_finished_run_is_shown_with_its_summary(tmp_path, capsys) -> None:
    finished_run(tmp_path / "run")
    assert main(["watch", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training 10 steps on fake (numpy)"
    assert lines[-3].startswith("finished: 10 steps, 40 images (4.0 images/s)")
    assert lines[-1] == f"checkpoint: {tmp_path / 'run' / 'checkpoints/10'}"


def test_json_is_one_event_per_line_and_the_last_is_the_summary(tmp_path, capsys) -> None:
    finished_run(tmp_path / "run")
    assert main(["watch", str(tmp_path / "run"), "--json"]) == 0
    tables = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [table["event"] for table in tables]
    assert kinds == ["started", "rung_changed", *["step"] * 10, "finished"]
    assert tables[2].keys() == {
        "event",
        "step",
        "epoch",
        "rung",
        "keep_ratio",
        "loss",
        "metrics",
        "applied",
        "lr",
        "images",
        "measured",
    }
    assert tables[-1]["spent"]["energy_j"] == 50.0


def test_a_run_is_followed_until_it_ends(tmp_path, capsys) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.event(0.1, STARTED)

        def write() -> None:
            for number in range(1, 4):
                time.sleep(0.1)
                writing.steps(number)
            writing.event(3.5, FINISHED)
            time.sleep(0.1)
            writing.__exit__()

        thread = threading.Thread(target=write)
        thread.start()
        assert main(["watch", str(tmp_path / "run"), "--json"]) == 0
        thread.join()
    kinds = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["started", "step", "step", "step", "finished"]


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (
            STOPPED,
            130,
            "run: stopped after step 4, as requested, state saved. Continue with the same",
        ),
        (LOST, 6, "run: no more pictures after step 3: the camera is gone. Continue with"),
        (DIVERGED, 8, "run: diverged: the loss of step 5 is nan."),
        (
            RUNG,
            6,
            "run, and it did not end: it was killed, or the power failed. Continue with",
        ),
    ],
    ids=["stopped", "no pictures", "diverged", "killed"],
)
def test_a_failed_run_gives_its_exit_code(tmp_path, capsys, ending, code, message) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.event(0.1, STARTED)
        writing.event(5.0, ending)
    assert main(["watch", str(tmp_path / "run")]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("limit_bytes", "code"), [(None, 4), (1 << 30, 0)])
def test_a_run_that_lacked_memory_gives_its_exit_code(tmp_path, capsys, limit_bytes, code):
    with Writing(tmp_path / "run", budget=Budget(memory_bytes=limit_bytes)) as writing:
        writing.event(0.1, STARTED)
        writing.event(5.0, replace(FINISHED, stopped_by="memory", reason="too little is free"))
    assert main(["watch", str(tmp_path / "run")]) == code
    assert ("too little is free" in capsys.readouterr().err) == (code == 4)


def test_a_resumed_run_has_not_ended(tmp_path, capsys) -> None:
    """Its previous end is its last event until the engine is ready."""
    with Writing(tmp_path / "run") as writing:
        writing.event(5.0, STOPPED)
    with Writing(tmp_path / "run", process=2) as writing:

        def write() -> None:
            time.sleep(0.3)
            writing.event(1.0, resumed(4))
            writing.event(2.0, FINISHED)
            writing.__exit__()

        thread = threading.Thread(target=write)
        thread.start()
        assert main(["watch", str(tmp_path / "run")]) == 0
        thread.join()
    assert "resuming after step 4 of 10 from checkpoints/4 on fake" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "nowhere is not a run folder: run.json cannot be read"),
        ({"format": 3}, "run format 3 is unknown; this edge-train reads format 2"),
    ],
)
def test_a_folder_without_a_run_is_explained(tmp_path, capsys, content, message) -> None:
    if content:
        (tmp_path / "nowhere").mkdir()
        (tmp_path / "nowhere/run.json").write_text(json.dumps(content))
    assert main(["watch", str(tmp_path / "nowhere")]) == 6
    assert message in capsys.readouterr().err


def test_a_truncated_line_is_skipped(tmp_path, capsys) -> None:
    with Writing(tmp_path / "run") as writing:
        writing.steps(1, 2)
    file = tmp_path / "run/steps.jsonl"
    os.truncate(file, file.stat().st_size - 20)
    assert main(["watch", str(tmp_path / "run"), "--json"]) == 6
    printed = capsys.readouterr()
    assert [json.loads(line)["step"] for line in printed.out.splitlines()] == [1]
    assert "it was killed, or the power failed" in printed.err


@pytest.mark.parametrize(("name", "line"), [("steps.jsonl", 11), ("events.jsonl", 4)])
def test_a_damaged_line_is_explained(tmp_path, capsys, name, line) -> None:
    finished_run(tmp_path / "run")
    with (tmp_path / "run" / name).open("a") as stream:
        stream.write("}\n")
    assert main(["watch", str(tmp_path / "run")]) == 6
    assert f"{name}, line {line} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("ended", [True, False])
def test_a_terminal_has_the_panel(tmp_path, monkeypatch, capsys, ended) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.chdir(tmp_path)  # a long path would fill the panel's first line
    if ended:
        finished_run(tmp_path / "run")
    else:
        Writing(tmp_path / "run").__exit__()
    assert main(["watch", "run"]) == (0 if ended else 6)
    screens = capsys.readouterr().out.split("\x1b[J")
    assert ("finished" if ended else "killed") in screens[-2]
    assert screens[-1].startswith("finished: 10 steps" if ended else "")


def test_watching_changes_nothing(tmp_path) -> None:
    finished_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    main(["watch", str(tmp_path / "run")])
    assert {path: path.read_bytes() for path in before} == before
    open_run(tmp_path / "run")
