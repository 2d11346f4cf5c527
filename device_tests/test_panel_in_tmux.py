"""The panel in a real terminal: tmux, 80x24 and 200x50, also resized during a run.

The run is a stand-in that writes a run folder as `edge-train run` does, twenty steps a second.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WAIT_S = 60.0
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
RUN = """
import logging, os, sys, time
from pathlib import Path
from live_runs import *
from edge_runtime.cli.panel import progress_on
from edge_runtime.facts import Budget

folder = Path(sys.argv[1])
print("os.getpid() is", os.getpid(), file=sys.stderr)
with Writing(folder, total_steps=400, budget=Budget(energy_j=500.0)) as writing:
    show = progress_on(folder, sys.stdout)
    def report(t_s, event):
        writing.event(t_s, event)
        show(event)
    report(0.0, STARTED)
    report(0.0, RUNG)
    for number in range(1, 401):
        time.sleep(0.05)
        writing.samples(sample(number / 20, 9.0))
        report(number / 20, step(number, number / 20))
        if number == 40:
            logging.warning("a warning of step 40")
            os.write(2, b"a library said something\\n")
    report(20.0, FINISHED)
    show.close()
"""


class Tmux:
    """One session on a separate server."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._socket = str(folder / "tmux")
        shell = ["env", f"PYTHONPATH={PYTHONPATH}", "PS1=READY$ ", "bash", "--norc"]
        size = ["-x", str(columns), "-y", str(rows)]
        self("-f", "/dev/null", "new-session", "-d", *size, shlex.join(shell))

    def __call__(self, *words: str) -> str:
        """The output of one tmux command."""
        command = ["tmux", "-S", self._socket, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, line: str) -> None:
        self("send-keys", line, "Enter")

    def screen(self) -> list[str]:
        return self("capture-pane", "-p").splitlines()

    def resize(self, columns: int, rows: int) -> None:
        self("resize-window", "-x", str(columns), "-y", str(rows))

    def until(self, seen: Callable[[list[str]], object]) -> list[str]:
        """The first screen for which `seen` is true."""
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            lines = self.screen()
            if seen(lines):
                return lines
            time.sleep(0.1)
        pytest.fail("not seen:\n" + "\n".join(self.screen()))

    def close(self) -> None:
        self("kill-server")


@pytest.fixture
def tmux(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tmux]:
    made = Tmux(tmp_path, *request.param)
    yield made
    made.close()


def run_command(folder: Path) -> str:
    script = folder / "stand_in.py"
    script.write_text(RUN)
    return shlex.join([sys.executable, str(script), str(folder / "run")])


def watch_command(folder: Path) -> str:
    words = [sys.executable, "-m", "edge_runtime.cli.main", "watch", str(folder / "run")]
    return shlex.join(words) + "; echo exit code $?"


def at_step(lines: list[str]) -> int:
    """The step on the panel; 0 without a panel."""
    match = re.search(r"^progress     step (\d+) of 400", "\n".join(lines), re.MULTILINE)
    return int(match[1]) if match else 0


def is_after(step: int) -> Callable[[list[str]], bool]:
    """Whether a screen shows a later step."""
    return lambda lines: at_step(lines) > step


def has_one_panel(lines: list[str]) -> bool:
    """Its labels, once and in their order; no remains of another one."""
    labels = ["progress", "speed", "loss", "rung", "time", "energy", "power", "memory"]
    shown = [word for line in lines if (word := line.split(" ")[0]) in labels]
    return shown == labels


@pytest.mark.parametrize("tmux", [(80, 24), (200, 50), (40, 20)], indirect=True)
def test_a_run_shows_one_panel_and_leaves_its_summary(tmux: Tmux, tmp_path: Path) -> None:
    tmux.type(run_command(tmp_path))
    lines = tmux.until(is_after(60))
    assert has_one_panel(lines)
    text = "\n".join(lines)
    assert text.index("a warning of step 40") < text.index("progress")
    assert text.index("a library said something") < text.index("progress")
    lines = tmux.until(lambda lines: any(line.startswith("READY$") for line in lines[5:]))
    assert has_one_panel(lines)
    assert any(line.startswith("finished: 10 steps") for line in lines)


@pytest.mark.parametrize("tmux", [(120, 40)], indirect=True)
def test_a_terminal_may_change_its_size(tmux: Tmux, tmp_path: Path) -> None:
    tmux.type(run_command(tmp_path))
    tmux.until(at_step)
    for columns, rows in [(80, 24), (50, 24), (200, 50), (100, 30), (60, 20)]:
        tmux.resize(columns, rows)
        step = at_step(tmux.until(at_step))
        lines = tmux.until(is_after(step + 20))
        assert has_one_panel(lines), "\n".join(lines)


@pytest.mark.parametrize("tmux", [(80, 24)], indirect=True)
def test_a_killed_run_leaves_a_terminal_that_works(tmux: Tmux, tmp_path: Path) -> None:
    tmux.type(run_command(tmp_path))
    lines = tmux.until(is_after(5))
    (process,) = re.findall(r"os.getpid\(\) is (\d+)", "\n".join(lines))
    os.kill(int(process), signal.SIGKILL)
    tmux.until(lambda lines: "READY$" in lines[-1] or "Killed" in "\n".join(lines))
    tmux.type("clear")
    tmux.type(watch_command(tmp_path))
    lines = tmux.until(lambda lines: any("exit code 6" in line for line in lines))
    assert any(line.endswith("run  killed") for line in lines)
    assert has_one_panel(lines)
    assert "it was killed, or the" in "\n".join(lines)
    assert tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"  # it is visible


@pytest.mark.parametrize("tmux", [(80, 24)], indirect=True)
def test_a_run_is_watched_from_another_terminal(tmux: Tmux, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen(
        shlex.split(run_command(tmp_path)), env=environment, stdout=subprocess.DEVNULL
    ) as run:
        while not (tmp_path / "run/steps.jsonl").exists():
            assert run.poll() is None
            time.sleep(0.1)
        tmux.type(watch_command(tmp_path))
        assert has_one_panel(tmux.until(is_after(20)))
        lines = tmux.until(lambda lines: any("exit code 0" in line for line in lines))
        assert run.wait() == 0
    assert has_one_panel(lines)
    assert any(line.startswith("finished: 10 steps") for line in lines)
