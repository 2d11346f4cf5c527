"""Workers on an emulated board, with its true energy.

Two boards: one that a worker reads through EDGE_TRAIN_SYSFS, and one whose power monitors only
the real jtop service reads, which needs root and an environment with jetson-stats. Both are
driven by the CPU load of this machine. Clock: `time.monotonic`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from device_tests.emulated_board import driving
from device_tests.emulated_board.running import running_board
from device_tests.emulated_board.tree import write_board
from parts.common import Job, Row, worker_environment

_PROJECT = Path(__file__).parents[2]
_SCRIPT = _PROJECT / "device_tests/emulated_board/run_jtop_service.sh"
SENSORS = {"sysfs": "ina3221", "jtop": "jtop"}  # name in rows, name in edge-train


def on_board(sensor: str, board: str, part: str, job: Job, jtop: Path | None) -> Row:
    """Run `parts/<part>.py` on a job beside a board; returns its output, with the truth.

    Args:
        sensor: one of `SENSORS`.
        board: one of `device_tests.emulated_board.boards.BOARDS`.
        part: prints `start_s` and `window_s` of its measurement.
        job: plain data.
        jtop: the environment with jetson-stats, for that sensor.
    """
    job = {**job, "sensor": SENSORS[sensor]}
    command = [sys.executable, "-m", f"parts.{part}", json.dumps(job)]
    if sensor == "sysfs":
        with running_board(board) as running:
            row = _run(command, running.environment)
            running.wait_for_log(row["start_s"] + row["window_s"])
            return _with_truth(row, running.log)
    assert jtop is not None
    with tempfile.TemporaryDirectory() as folder:
        tree, log = Path(folder) / "sys", Path(folder) / "truth.csv"
        write_board(tree, board, monitors=False)
        words = [str(_SCRIPT), "-b", board, "-p", str(jtop / "bin/python"), "-s", folder]
        words += ["--truth", str(log), "--", "env", f"PYTHONPATH={_paths_with(jtop)}"]
        return _with_truth(_run([*words, *command], {"EDGE_TRAIN_SYSFS": str(tree)}), log)


def why_no_jtop(jtop: Path) -> str | None:
    """Why boards with a jtop service cannot run here; `None` if they can."""
    if os.getuid() != 0:
        return "only root can run its service on an emulated board"
    if not list(jtop.glob("lib/python*/site-packages/jtop")):
        return f"{jtop} is not an environment with jetson-stats: make test-system creates one"
    return None


def _paths_with(jtop: Path) -> str:
    (packages,) = jtop.absolute().glob("lib/python*/site-packages")
    return os.pathsep.join([worker_environment()["PYTHONPATH"], str(packages)])


def _run(command: list[str], environment: dict[str, str]) -> Row:
    done = subprocess.run(
        command,
        env={**worker_environment(), **environment},
        cwd=_PROJECT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr[-3000:]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _with_truth(row: Row, log: Path) -> Row:
    window = (row["start_s"], row["start_s"] + row["window_s"])
    power_w = [mw / 1000 for mw, _ in driving.held(log, *window, "true_mw")]
    return {
        **row,
        "true_j": driving.energy_j(log, *window),
        "lowest_w": min(power_w),
        "highest_w": max(power_w),
    }
