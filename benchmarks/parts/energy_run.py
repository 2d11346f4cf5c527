"""Worker of energy_truth.py: `edge-train run` in this process, with its meter watched.

Clock: `time.monotonic`; the window is that of the run, from the start of this process on.
"""

import io
import json
import os
import tempfile
import threading
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from edge_runtime.cli.main import main
from edge_runtime.device import process_elapsed_s
from parts.common import Job, answer

METER = "edge-train-meter"  # the name of its thread
LOOK_S = 0.25


def work(job: Job) -> dict[str, Any]:
    """Train some epochs on digits; returns the run's records of itself."""
    began_s = time.monotonic() - process_elapsed_s()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGE_TRAIN_CACHE"] = str(Path(folder) / "cache")
        run = Path(folder) / "run"
        words = ["run", job["package"], "digits", "-o", str(run), "--json"]
        words += ["--epochs", str(job["epochs"])]
        watch = MeterWatch()
        with redirect_stdout(io.StringIO()) as printed:
            code = main(words)
        meter = watch.ended()
        if code:
            raise SystemExit(f"edge-train {' '.join(words)} ended with {code}")
        info = json.loads((run / "run.json").read_text())
    if info["sensor"] != job["sensor"]:
        raise SystemExit(f"the run used {info['power_sensor']}, not {job['sensor']}")
    events = [json.loads(line) for line in printed.getvalue().splitlines()]
    finished = events[-1]
    return {
        "start_s": began_s,
        "window_s": finished["spent"]["time_s"],
        "reported_j": finished["spent"]["energy_j"],
        "steps": finished["steps"],
        **meter,
    }


class MeterWatch:
    """Measures the processor time of the meter's thread from outside."""

    def __init__(self) -> None:
        self._meter_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            for thread in threading.enumerate():
                if thread.name == METER and thread.native_id is not None:
                    with suppress(OSError):  # it has ended since
                        # The kernel's id of one thread's clock, see clock_getres(2).
                        self._meter_s = time.clock_gettime(~thread.native_id << 3 | 6)

    def ended(self) -> dict[str, float]:
        """The meter's share of all processor time of this process and its children."""
        self._stop.set()
        self._thread.join()
        cpu_s = sum(os.times()[:4])
        return {
            "meter_cpu_share": self._meter_s / cpu_s,
            "cpus_busy": cpu_s / process_elapsed_s(),
        }


if __name__ == "__main__":
    answer(work)
