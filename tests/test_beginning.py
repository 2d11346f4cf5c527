"""What is shown of a run before its folder exists: its rungs are measured first."""

import threading
import time
from pathlib import Path

import pytest
from live_runs import FINISHED, RUNG, STARTED, Writing, status_of, step

from edge_runtime.cli.main import main
from edge_runtime.cli.panel_text import panel_text
from edge_runtime.live import Pace
from edge_runtime.records import events
from edge_runtime.records.beginning import Beginning, BeginningReader, beginning_file


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.cli.watch._EVERY_S", 0.02)


def test_watch_shows_what_is_measured_and_then_the_run(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"

    def work() -> None:
        with Beginning(folder) as begins:
            for number in (1, 2, 3):
                begins.note(f"measuring k050, round {number} of 3")
                time.sleep(0.1)
            with Writing(folder) as writing:
                begins.close()
                writing.event(0.1, STARTED)
                writing.steps(*range(1, 11))
                writing.event(10.5, FINISHED)

    thread = threading.Thread(target=work)
    thread.start()
    while BeginningReader(folder).poll() is None:
        time.sleep(0.01)
    assert main(["watch", str(folder)]) == 0
    thread.join()
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        f"edge-train: measuring k050, round {number} of 3" for number in (1, 2, 3)
    ]
    assert output.out.splitlines()[0].startswith("training 10 steps")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_process_left_is_not_waited_for(tmp_path: Path, capsys) -> None:
    file = beginning_file(tmp_path / "run")
    file.write_text('{"text": "measuring k100"}\n')
    assert main(["watch", str(tmp_path / "run")]) == 6
    assert "is not a run folder" in capsys.readouterr().err
    with Beginning(tmp_path / "run"):
        assert BeginningReader(tmp_path / "run").poll() == []
    assert not file.exists()


def test_a_run_begins_without_a_place_to_say_so(tmp_path: Path) -> None:
    with Beginning(tmp_path / "missing" / "run") as begins:
        begins.note("measuring")
    assert not (tmp_path / "missing").exists()


def test_a_run_goes_on_where_the_place_to_say_so_is_lost(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with Beginning(tmp_path / "runs" / "run") as begins:
        (tmp_path / "runs").rename(tmp_path / "moved")
        (tmp_path / "runs").touch()  # now a file: nothing in it can be removed
        begins.note("measuring")


def test_the_first_step_tells_nothing_about_the_time_that_is_left() -> None:
    pace = Pace(total_steps=10)
    assert pace.left_s is None
    pace.follow(step(1, 5.0))
    assert pace.left_s is None
    pace.follow(step(2, 6.0))
    assert pace.left_s == 8.0


def reasons(*logged: events.Event) -> list[str]:
    lines = panel_text(status_of(STARTED, *logged), Path("run"), width=99, height=40)
    return [line.plain.strip() for line in lines if line.plain.startswith(" " * 13)]


def test_the_panel_gives_the_reason_of_the_present_state() -> None:
    changed = events.RungChanged(step=2, rung="k050", keep_ratio=0.5, reason="less is left")
    paused = events.Paused(step=2, pause_s=2.0, reason="81 C, over --temperature 80C")
    assert reasons(changed) == ["less is left"]
    assert reasons(changed, step(2, 2.0), paused) == ["81 C, over --temperature 80C"]
    assert reasons(changed, step(2, 2.0), paused, step(3, 9.0)) == ["less is left"]
    assert (
        reasons(changed, events.RungChanged(step=5, rung="k100", keep_ratio=1.0, reason=None))
        == []
    )
    assert reasons(changed, FINISHED) == []
    (first, *_) = panel_text(status_of(RUNG, paused), Path("run"), width=99, height=40)
    assert first.plain == "run  pausing"
