"""An emulated board on this machine, without root, driven by a separate process.

edge-train reads it with EDGE_TRAIN_SYSFS set as in `RunningBoard.environment`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_tests.emulated_board import __name__ as program
from device_tests.emulated_board import driving
from device_tests.emulated_board.driving import DriveOptions
from device_tests.emulated_board.options import drive_words
from device_tests.emulated_board.tools import write_tools
from device_tests.emulated_board.tree import write_board

_PROJECT = Path(__file__).parents[2]
_IN_MEMORY = Path("/dev/shm")  # on a disk each change takes milliseconds
_LONGEST_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBoard:
    """Times are those of `time.monotonic`, of any process."""

    sysfs: Path
    log: Path
    programs: Path  # folder of nvpmodel or vcgencmd

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make edge-train read this board instead of the machine."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return {"EDGE_TRAIN_SYSFS": str(self.sysfs), "PATH": path}

    def set_factor(self, factor: float) -> None:
        """Multiply all power by a factor, from the next update on."""
        driving.set_factor(self.sysfs, factor)

    def energy_j(self, start_s: float, end_s: float, column: str = "true_mw") -> float:
        """The true energy, or that of a rail as it could be read; waits for the log."""
        self.wait_for_log(end_s)
        return driving.energy_j(self.log, start_s, end_s, column)

    def highest(self, start_s: float, end_s: float, column: str = "temperature_c") -> float:
        """The largest value of a column of the log; waits for it."""
        self.wait_for_log(end_s)
        return driving.highest(self.log, start_s, end_s, column)

    def wait_for_log(self, until_s: float) -> None:
        """Wait until the log covers a time.

        Raises:
            TimeoutError: the board is no longer driven.
        """
        deadline_s = time.monotonic() + _LONGEST_S
        while not driving.covers(self.log, until_s):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.log} does not reach {until_s}")
            time.sleep(0.02)


@contextmanager
def running_board(name: str, options: DriveOptions | None = None) -> Iterator[RunningBoard]:
    """Drive a board of `BOARDS` during the block; its files are removed afterwards."""
    in_memory = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="board-") as folder:
        root = Path(folder)
        board = RunningBoard(
            sysfs=root / "sys", log=root / "truth.csv", programs=root / "usr/bin"
        )
        kind = write_board(board.sysfs, name)
        write_tools(root, kind, state=str(root / "nvpmodel.status"), sysfs=board.sysfs)
        command = [sys.executable, "-m", program, "drive", str(board.sysfs)]
        command += ["--log", str(board.log), *drive_words(options or DriveOptions())]
        driver = subprocess.Popen(command, cwd=_PROJECT)
        try:
            board.wait_for_log(time.monotonic())
            time.sleep(driving.START_S)
            yield board
        finally:
            driver.send_signal(signal.SIGTERM)
            driver.wait(_LONGEST_S)
