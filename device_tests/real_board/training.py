"""Runs of `edge-train run` that are watched, and load for the processors."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from device_tests.real_board.watching import Watch
from edge_runtime.device import Board, cpu_threads
from edge_runtime.selftest import PACKAGE

# Of a measurement. A rehearsal on an emulated board may be shorter.
WINDOW_S = float(os.environ.get("EDGE_TRAIN_TEST_WINDOW_S", "10"))
RUN_S = 6 * WINDOW_S  # of a run with a budget
LONGEST_S = 10 * RUN_S + 600  # of a run that ends by itself; loading may take minutes
ENDING_S = 120.0  # after SIGTERM: a step, and a checkpoint
PICTURES, SIZE_PX, SEED = 200, 64, 20


def write_noise(folder: Path) -> Path:
    """Write seeded pictures of noise; returns their folder."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRun:
    """A process of `edge-train run`, from its start to its end."""

    code: int
    stderr: str  # and how it was ended, if it did not end in time
    folder: Path
    start_s: float
    end_s: float
    watch: Watch

    @property
    def time_s(self) -> float:
        """From start to end of the process."""
        return self.end_s - self.start_s

    @property
    def energy_j(self) -> float | None:
        """Of the board in that time, by the watch."""
        return self.watch.energy_j(self.start_s, self.end_s)

    @property
    def highest_c(self) -> float | None:
        """The highest temperature in that time, by the watch."""
        return self.watch.highest_c(self.start_s, self.end_s)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A JSON Lines file of the run folder."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.lines("events.jsonl") if event["event"] == kind]


def watched_run(
    board: Board,
    output: Path,
    pictures: Path,
    *words: str,
    stop_after_s: float | None = None,
    every_s: float = 0.1,
) -> WatchedRun:
    """Train the package inside edge-train, and watch the board meanwhile.

    Args:
        board: its profile.
        output: the run folder; its parent also gets stderr.
        pictures: to train on.
        words: more arguments of `edge-train run`.
        stop_after_s: sends SIGTERM then; `None`: the run ends by itself.
        every_s: between two readings of the watch.
    """
    command = [sys.executable, "-m", "edge_runtime", "run", str(PACKAGE), str(pictures)]
    command += ["-o", str(output), "--json", *words]
    errors = output.with_suffix(".stderr")
    with Watch(board, every_s=every_s) as watch, errors.open("w") as stderr:
        start_s = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        watch.pid = process.pid
        late = wait_for(process, stop_after_s)
        end_s = time.monotonic()
    return WatchedRun(
        code=process.returncode,
        stderr=f"{errors.read_text()}{late}",
        folder=output,
        start_s=start_s,
        end_s=end_s,
        watch=watch,
    )


def wait_for(process: "subprocess.Popen[bytes]", stop_after_s: float | None) -> str:
    """Wait for the end of a process, for a limited time.

    Args:
        process: that runs.
        stop_after_s: sends SIGTERM then; `None`: it ends by itself.

    Returns:
        How it was ended if it did not end in time; else nothing.
    """
    longest_s = LONGEST_S if stop_after_s is None else stop_after_s
    late = ""
    try:
        process.wait(longest_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        if stop_after_s is None:
            late = f"\nit did not end within {longest_s:g} s, and was sent SIGTERM"
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            late += f"\nit did not end within {ENDING_S:g} s after SIGTERM, and was killed"
    finally:
        process.kill()  # if it still runs
        process.wait()
    return late


@contextmanager
def busy_processors() -> Iterator[None]:
    """Every processor that this process may use computes during the block."""
    command = [sys.executable, "-c", "while True: sum(range(10000))"]
    processes = [subprocess.Popen(command) for _ in range(cpu_threads())]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
