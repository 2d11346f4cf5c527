"""What a report is predicted to need, against what it takes in a process of its own."""

import json
import os
import subprocess

import pytest
from report_runs import MadeRun, info, sample

from edge_runtime.cli.main import main
from edge_runtime.device import python_command
from edge_runtime.device.room import require_room
from edge_runtime.errors import DeviceError
from edge_runtime.report import room

MEASURE = """
import edge_runtime.device
from edge_runtime.cli.main import main
from edge_runtime.device import memory_now
from pathlib import Path

def predict(action, more_bytes, advice):
    global needed_bytes
    needed_bytes = memory_now().rss_bytes + more_bytes

edge_runtime.device.require_room = predict
code = main(["report", *sys.argv[1:]])
print(needed_bytes, memory_now().peak_rss_bytes)
sys.exit(code)
"""
STEP_S = 0.25


def make_run(folder, steps, events=0):
    """A run of so many steps, with four samples for each of them."""
    run, end_s = MadeRun(info(total_steps=steps)), 2.0 + STEP_S * steps
    run.stepped(1, range(1, steps + 1), begin_s=2.0, step_s=0.2, wait_s=0.05)
    for number in range(events):
        fields = {
            "rung": f"k{number % 100}",
            "keep_ratio": 0.5,
            "reason": "the plan asks for it",
        }
        run.happened(1, 2.0 + number / events, "rung_changed", step=1, **fields)
    run.finished(1, end_s, steps)
    run.write(folder)  # without samples: the energy of many is slow by the definition
    with (folder / "power.jsonl").open("w") as file:
        for number in range(4 * steps):
            t_s = 0.1 + number * STEP_S / 4
            row = {**sample(1, t_s, 6.0 + number % 7), "energy_j": 9.0 * t_s}
            file.write(json.dumps(row) + "\n")
    return folder


@pytest.mark.parametrize(("steps", "events"), [(10, 0), (30_000, 0), (10, 10_000)])
@pytest.mark.parametrize("page", [False, True])
def test_the_prediction_is_a_close_upper_bound(tmp_path, steps, events, page):
    if page:
        pytest.importorskip("plotly")
    run = make_run(tmp_path / "run", steps, events)
    output = ["-o", str(tmp_path / "page.html")] if page else ["--csv", str(tmp_path / "csv")]
    command = python_command(MEASURE, str(run), *output)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needed_bytes, peak_bytes = map(int, done.stdout.split()[-2:])
    assert 1 <= needed_bytes / peak_bytes < 1.3


def test_a_run_of_weeks_needs_no_more_than_one_of_days(tmp_path):
    """Its files are that large; nothing of them is read here."""
    sizes = []
    for days in (3, 300):
        folder = tmp_path / str(days)
        folder.mkdir()
        for name in ("steps.jsonl", "power.jsonl"):
            (folder / name).touch()
            os.truncate(folder / name, days * 86_400 * 300)
        sizes.append(room.report_bytes([folder], page=False))
    assert sizes[0] == sizes[1] < 20 << 20


def test_the_largest_run_counts(tmp_path):
    small, large = (make_run(tmp_path / str(n), n) for n in (10, 1000))
    most = room.report_bytes([large], page=False)
    assert room.report_bytes([small, large, small], page=False) == most
    assert room.report_bytes([small], page=False) < most
    assert room.report_bytes([tmp_path / "no run"], page=False) < most


def test_a_report_that_cannot_fit_is_refused(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", 10)

    def refuse(action, more_bytes, advice):
        with pytest.raises(DeviceError) as caught:
            require_room(action, 1 << 60, advice)
        raise caught.value

    monkeypatch.setattr("edge_runtime.device.require_room", refuse)
    target = tmp_path / "page.html"
    assert main(["report", str(run), "-o", str(target)]) == 4
    message = capsys.readouterr().err
    assert "the report needs about" in message
    assert "choose --json or --csv" in message
    assert not target.exists()
