"""The tests of a real board on an emulated one, to try the tests themselves.

`python -m device_tests.real_board.rehearse orin_nx --endurance 2min` runs all of them; further
arguments are pytest's. EDGE_TRAIN_TEST_WINDOW_S=2 makes measurements and runs shorter.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from device_tests.emulated_board.boards import BOARDS
from device_tests.emulated_board.driving import DriveOptions, HeatModel
from device_tests.emulated_board.running import running_board
from device_tests.real_board.results import ROOT


def rehearse(
    name: str, results: Path, words: Sequence[str] = (), *, capture: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run them.

    Args:
        name: one of `BOARDS`.
        results: the file to write.
        words: more arguments of pytest.
        capture: keep what it prints.
    """
    command = [sys.executable, "-m", "pytest", "device_tests", "-p", "no:cacheprovider"]
    command += ["--board", BOARDS[name].profile, "--board-results", str(results)]
    # Other programs of this machine do not heat the board, and it soon gets hot
    heat = HeatModel(k_per_w=4.0, time_constant_s=5.0)
    options = DriveOptions(pid=os.getpid(), with_children=True, hz=10, heat=heat)
    with running_board(name, options) as board, tempfile.TemporaryDirectory() as cache:
        return subprocess.run(
            [*command, *words],
            env={**os.environ, **board.environment, "EDGE_TRAIN_CACHE": cache},
            cwd=ROOT,
            capture_output=capture,
            text=True,
        )


if __name__ == "__main__":
    sys.exit(rehearse(sys.argv[1], Path("board-results.json"), sys.argv[2:]).returncode)
