"""Processes that measure rungs of the fake package without training anything.

Each runs a line of Python by rung: `measured()` writes costs in proportion to the rung,
anything else may follow or come instead.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.device import ReplaySensor
from edge_runtime.profiling import Environment, bench, process, profile

POWER_W = 10.0
BASELINE_BYTES = 1000
_PROGRAM = """
import json, os, signal, sys, time

job = json.loads(sys.argv[1])
scratch, dense = job["scratch"], job["rung"] == "k100"

def measured(step_s=0.5, **changes):
    values = dict(
        step_s=step_s * (2 if dense else 1),
        step_s_low=min(0.4, step_s), step_s_high=max(1.1, 2 * step_s),
        step_j=5.0 * (2 if dense else 1), power_w=10.0,
        peak_bytes=20_000 * (2 if dense else 1), baseline_bytes=BASELINE,
        startup_s=1.5 + dense, switch_s=0.25, last_step_s=time.monotonic(),
    )
    with open(f"{scratch}/measurement.json", "w") as file:
        json.dump(values | changes, file)

def fail(reason, code):
    with open(f"{scratch}/error.txt", "w") as file:
        file.write(reason)
    sys.exit(code)

with open(LOG, "a") as file:
    print(json.dumps({"pid": os.getpid(), **job}), file=file)
exec(LINES.get(job["rung"], "measured()"))
"""


class FakeProcesses:
    """Their jobs, and their actions."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log, self._program = folder / "jobs.jsonl", folder / "process.py"
        worker = f"import runpy; runpy.run_path({str(self._program)!r})"
        monkeypatch.setattr(process, "_WORKER", worker)
        self.do()

    def do(self, k100: str = "measured()", k050: str = "measured()") -> None:
        """Set the action of the process of each rung."""
        facts = f"BASELINE, LOG, LINES = {BASELINE_BYTES}, {str(self._log)!r}, "
        self._program.write_text(facts + repr({"k100": k100, "k050": k050}) + _PROGRAM)
        self._log.write_text("")

    @property
    def jobs(self) -> list[dict]:
        """Jobs of the processes since then, in order."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def are_gone(self) -> bool:
        """Whether no process is left, not even a zombie."""
        return not any(Path(f"/proc/{job['pid']}").exists() for job in self.jobs)

    def wait_for(self, count: int) -> None:
        """Wait until that many have begun."""
        while len(self.jobs) < count:
            time.sleep(0.01)

    def begun(self, count: int) -> Callable[[], bool]:
        """A `stop` that returns `True` when that many have begun."""
        return lambda: len(self.jobs) >= count


def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProcesses:
    """Fake processes, engine and sensor, a separate cache, and no long idling."""
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.engine_runtime", lambda *_: "numpy")
    monkeypatch.setattr(f"{home}.open_sensor", lambda board: constant_sensor())
    monkeypatch.setattr(profile, "_IDLE_S", 0.05)
    monkeypatch.setattr(bench, "baseline_bytes", lambda: BASELINE_BYTES)
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    return FakeProcesses(tmp_path, monkeypatch)


def constant_sensor() -> ReplaySensor:
    return ReplaySensor([(0.0, {"ALL": POWER_W})], total=("ALL",))


def environment(**changes) -> Environment:
    return Environment.detect(**changes)
