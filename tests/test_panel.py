"""The panel of a run: its text, and how it is drawn on a terminal."""

import codecs
import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from live_runs import (
    AT,
    FINISHED,
    RUNG,
    STARTED,
    STOPPED,
    Writing,
    resumed,
    sample,
    status_of,
    step,
)
from rich.text import Text

from edge_runtime.cli.panel import Panel, can_redraw, progress_on
from edge_runtime.cli.panel_text import panel_text
from edge_runtime.cli.progress import Progress
from edge_runtime.cli.screen import Screen
from edge_runtime.facts import Budget
from edge_runtime.live import Status
from edge_runtime.records import LoggedEvent, events

RUN = Path("runs/one")
BUDGET = Budget(
    memory_bytes=8 << 20, energy_j=500.0, time_s=120.0, power_w=10.0, temperature_c=80.0
)
WHY = "4.2 kJ are left for 300 steps: " + "the plan for the rest is k050 for all of them, " * 8


def busy(**info) -> Status:
    """In the middle of everything."""
    changed = replace(RUNG, step=3, rung="k050", keep_ratio=0.5, reason=WHY)
    saved = events.CheckpointSaved(
        step=4, checkpoint="checkpoints/4", size_bytes=9 << 20, save_s=0.25
    )
    steps = [step(number, float(number)) for number in range(1, 7)]
    status = status_of(STARTED, RUNG, *steps, changed, saved, **{"budget": BUDGET} | info)
    status.spending.add(1, 40.0, 360.0)
    status.add_sample(sample(40.0, 9.5))
    return status


def shown(status: Status, width: int = 79, height: int = 23) -> list[str]:
    lines = panel_text(status, RUN, width=width, height=height)
    return [line.plain for line in lines]


def value(status: Status, label: str) -> str:
    (line,) = [line for line in shown(status) if line.startswith(label)]
    return re.sub(r" *[━─]+$", "", line[13:]).rstrip()


def test_the_panel_names_a_gpu() -> None:
    status = busy(device="webgpu", gpu="Mali-G610, panvk 25.3")
    assert value(status, "device") == "webgpu (Mali-G610, panvk 25.3)"
    there = replace(resumed(4), device="cuda:0")
    assert value(status_of(STARTED, there), "device") == "cuda:0"
    assert not any(line.startswith("device") for line in shown(busy()))
    failed = events.EngineFailed(
        step=4, device="cuda:0", reason="lost", out_of_memory=False, checkpoint=None
    )
    assert shown(status_of(STARTED, failed))[0].endswith("device cuda:0 failed")
    full = replace(failed, out_of_memory=True)
    assert shown(status_of(STARTED, full))[0].endswith("no memory on device cuda:0")


def test_a_limit_that_cannot_be_judged_is_not_missing_pictures() -> None:
    unknown = events.LimitUnknown(
        step=4, limit="energy", sensor="ina", reason="it is gone", checkpoint=None
    )
    head = shown(status_of(STARTED, unknown))[0]
    assert head.endswith("its energy limit cannot be judged")


def test_the_panel_shows_everything() -> None:
    status = busy()
    assert shown(status)[0] == "runs/one  training"
    assert value(status, "progress") == "step 6 of 10, epoch 2 of 2, 4.00 s left"
    assert value(status, "speed") == "4.0 images/s"
    assert value(status, "loss") == "1.5000, lr 1.00e-04"
    assert value(status, "rung") == "k050, keep-ratio 0.5, since step 3"
    assert value(status, "time") == "40 s spent, 1 min 20 s left of 2 min 0 s"
    assert value(status, "energy") == "360.0 J spent, 140.0 J left of 500.0 J"
    assert value(status, "power") == "9.50 W now, 9.00 W mean, at most 10.00 W"
    assert value(status, "memory") == "2.0 MiB resident, at most 8.0 MiB"
    assert value(status, "temperature") == "54.0 C, at most 80.0 C"
    assert shown(status)[-1].endswith("saved checkpoints/4 (9.0 MiB in 0.25 s)")


def test_unknown_values_are_marked_and_are_not_zero() -> None:
    status = status_of(sensor=None)
    assert shown(status)[0] == "runs/one  starting"
    unknown = {
        label: value(status, label)
        for label in ("speed", "loss", "rung", "energy", "power", "memory", "temperature")
    }
    assert unknown.pop("energy") == unknown.pop("power") == "unknown: no power sensor"
    assert set(unknown.values()) == {"unknown"}
    assert value(status_of(), "power") == "unknown: ina3221 has not reported yet"


def test_an_estimate_is_marked_wherever_it_is_shown() -> None:
    status = busy(power_is_estimate=True)
    assert value(status, "energy").endswith("(estimate)")
    assert value(status, "power").endswith("(estimate)")


def test_a_lost_sensor_is_shown() -> None:
    status = busy()
    lost = events.SensorLost(step=5, sensor="jtop", reason="the service is gone")
    status.add_event(LoggedEvent(AT, None, lost))
    status.add_sample(sample(41.0, None))
    assert value(status, "power").startswith("unknown: jtop is lost since step 5, 9.00 W mean")


def test_a_throttled_board_is_shown() -> None:
    status = busy()
    status.add_sample(sample(41.0, 9.0, throttled=True))
    assert "54.0 C, at most 80.0 C, throttled" in value(status, "temperature")


@pytest.mark.parametrize(
    ("ending", "word"),
    [
        ([FINISHED], "finished"),
        ([replace(FINISHED, stopped_by="energy")], "ended by its energy limit"),
        ([STOPPED], "stopped"),
        ([STOPPED, resumed(4)], "training"),
    ],
)
def test_the_end_of_a_run_is_shown(ending, word) -> None:
    assert shown(status_of(*ending))[0] == f"runs/one  {word}"


def test_a_killed_process_is_shown() -> None:
    status = busy()
    status.was_killed = True
    assert shown(status)[0] == "runs/one  killed"
    assert "left" not in value(status, "progress")


@pytest.mark.parametrize(("width", "height"), [(79, 23), (199, 49), (39, 19), (9, 4), (1, 1)])
def test_it_fits_any_terminal(width, height) -> None:
    lines = panel_text(busy(), RUN, width=width, height=height)
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_bars_need_a_wide_terminal_and_a_limit() -> None:
    def with_bars(lines: list[str]) -> list[str]:
        return [line.split()[0] for line in lines[2:] if "━" in line]

    assert with_bars(shown(busy())) == ["time", "energy", "memory", "temperature"]
    assert with_bars(shown(busy(), width=60)) == []
    assert with_bars(shown(busy(budget=Budget()))) == []


def test_a_long_reason_has_at_most_three_lines() -> None:
    narrow = shown(busy())
    assert [line.strip() for line in narrow if line.startswith(" " * 13)][2].endswith("…")
    assert WHY.strip() in " ".join(line.strip() for line in shown(busy(), width=199))


class Terminal:
    """The test's side of a pseudo-terminal."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.stream: TextIO = os.fdopen(slave, "w")
        self.resize(80, 24)

    def resize(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def read(self) -> str:
        self.stream.flush()
        os.set_blocking(self._master, False)
        text = b""
        while True:
            try:
                text += os.read(self._master, 1 << 16)
            except BlockingIOError:
                return self._decoder.decode(text)

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.close()


def test_a_block_is_redrawn_in_place(terminal) -> None:
    screen = Screen(terminal.stream)
    assert screen.size == (79, 23)
    screen.draw([Text("one"), Text("two")])
    assert terminal.read() == "\rone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J"
    screen.draw([Text("three")], above="a warning\n")
    assert terminal.read() == "\r\x1b[2Aa warning\x1b[K\r\nthree\x1b[K\r\n\x1b[J"


def test_lines_that_a_narrower_terminal_has_wrapped_are_redrawn(terminal) -> None:
    screen = Screen(terminal.stream)
    screen.draw([Text("x" * 79), Text("y")])
    terminal.read()
    terminal.resize(30, 24)
    screen.draw([Text("x" * 29)])
    assert terminal.read().startswith("\r\x1b[4A")  # three rows of the first line


def test_only_a_terminal_that_can_redraw_has_a_panel(terminal, monkeypatch) -> None:
    assert can_redraw(terminal.stream)
    assert not can_redraw(io.StringIO())
    assert isinstance(progress_on(RUN, terminal.stream), Panel)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_on(RUN, terminal.stream), Progress)


def test_colours_are_a_choice(terminal, monkeypatch) -> None:
    Screen(terminal.stream).draw([Text("red", "red")])
    assert "\x1b[31m" in terminal.read()
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(terminal.stream).draw([Text("red", "red")])
    assert "\x1b[31m" not in terminal.read()


def test_a_run_leaves_its_last_panel_and_its_summary(terminal, tmp_path) -> None:
    with Writing(tmp_path / "run") as writing:
        panel = Panel(tmp_path / "run", terminal.stream)
        writing.event(0.1, STARTED)
        panel(STARTED)
        writing.steps(1, 2, 3)
        writing.event(4.0, FINISHED)
        panel(FINISHED)
        panel.close()
    *_, last = terminal.read().split("\x1b[J")[-2:]
    assert last.startswith("finished: 10 steps, 40 images")
    assert "checkpoint: " in last


def test_an_already_finished_run_has_no_panel(terminal, tmp_path) -> None:
    panel = Panel(tmp_path / "run", terminal.stream)
    panel(FINISHED)
    panel.close()
    assert terminal.read().startswith(f"{tmp_path / 'run'} is already finished\r\nfinished:")


def test_nothing_is_drawn_before_the_first_event(terminal, tmp_path) -> None:
    Panel(tmp_path / "run", terminal.stream).close()
    assert terminal.read() == ""


def test_a_failing_panel_is_replaced_by_lines(terminal, tmp_path, caplog) -> None:
    panel = Panel(tmp_path / "nowhere", terminal.stream)
    panel(STARTED)
    panel._thread.join(10)
    panel(step(1, 1.0))
    panel(FINISHED)
    panel.close()
    assert "the panel stopped: " in caplog.text
    lines = terminal.read().splitlines()
    assert lines[0] == "training 10 steps on fake (numpy)"
    assert lines[1].startswith("step 1/10 ")
    assert lines[2].startswith("finished: 10 steps")


NOISY = """
import logging, os, sys, time, warnings
from pathlib import Path
from live_runs import *
from edge_runtime.cli.panel import Panel
logging.basicConfig(format="edge-train: %(message)s", level=logging.WARNING)
with Writing(Path(sys.argv[1])) as writing:
    panel = Panel(writing.run.path, sys.stdout)
    writing.event(0.1, STARTED)
    panel(STARTED)
    logging.warning("from Python")
    os.write(2, b"from a library\\n")
    os.system("echo from a child >&2")
    time.sleep(1)
    panel.close()
print("the end", file=sys.stderr)
"""


def test_what_goes_to_stderr_is_shown_above(tmp_path) -> None:
    terminal = Terminal()
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))
    child = subprocess.Popen(
        [sys.executable, "-c", NOISY, "run"],  # a long path would fill the panel's first line
        cwd=tmp_path,
        stdout=terminal.stream,
        stderr=terminal.stream,
        env={**os.environ, "PYTHONPATH": path, "TERM": "xterm"},
    )
    text = ""
    while child.poll() is None:  # a full terminal buffer takes no more output
        text += terminal.read()
        time.sleep(0.05)
    text += terminal.read()
    terminal.close()
    assert child.returncode == 0
    for message in ("edge-train: from Python", "from a library", "from a child"):
        (frame,) = [part for part in text.split("\x1b[J") if message in part]
        assert frame.index(message) < frame.index("starting")  # the panel's first line
    assert text.endswith("the end\r\n")
