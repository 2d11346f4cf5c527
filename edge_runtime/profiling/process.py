"""One rung measured in a separate process, which never outlives this one.

Clock: monotonic seconds, which all processes of a machine share.
"""

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device import Meter, python_command, start_errors
from edge_runtime.errors import EngineError, StoppedError, StorageError
from edge_runtime.facts.costs import PartSeconds, StepJoules
from edge_runtime.package import Package
from edge_runtime.profiling.cache import cache_writes
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.worker import (
    ERROR,
    MEASUREMENT,
    OUT_OF_MEMORY,
    MeasureJob,
    Measurement,
)
from edge_runtime.reading import MAX_TABLE_BYTES, read_file, read_json
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import CACHE, cache_folder, storage_errors

_WORKER = "from edge_runtime.profiling.worker import run; run()"
_STDERR = "stderr.txt"
_LOOK_S = 0.2  # between two calls of `stop`


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRung:
    """A process's measurement, and the costs of its end: everything after its last step."""

    measurement: Measurement
    end_s: PartSeconds
    end_j: StepJoules | None


def measure_rung(
    package: Package,
    rung_id: str,
    environment: Environment,
    meter: Meter,
    *,
    max_s: float,
    stop: Callable[[], bool],
) -> MeasuredRung | None:
    """Start a process for the rung and wait for it.

    Returns:
        Its measurement; `None` if it was killed, as when memory runs out.

    Raises:
        StoppedError: `stop` returned `True`; the process has ended.
        EngineError: it failed for a reason other than memory.
        DeviceError: no process can be started.
        StorageError: its files can be written nowhere, or there is no room for them.
    """
    with _scratch_folder() as scratch:
        job = MeasureJob(
            package=str(package.path.resolve()),
            rung=rung_id,
            engine=environment.engine,
            forward_engine=environment.forward_engine,
            device=environment.device,
            threads=environment.threads,
            board=str(environment.board_file) if environment.board_file else None,
            scratch=str(scratch),
            max_s=max_s,
        )
        code = _exit_code(job, stop)
        ended_s = time.monotonic()
        if code in (-signal.SIGKILL, OUT_OF_MEMORY):
            return None
        if code == StorageError.exit_code:
            raise StorageError(
                f"measuring rung {rung_id} of {package.path} failed: a short run and its "
                f"checkpoint cannot be written to {scratch.parent}. Free some space there, or "
                f"set {CACHE} to a folder on another disk."
            )
        if code:
            reason = _reason(code, scratch)
            raise EngineError(f"measuring rung {rung_id} of {package.path} failed: {reason}")
        if not (scratch / MEASUREMENT).exists():  # a driver may end a process as it likes
            reason = "something in its process ended it without an error"
            raise EngineError(f"measuring rung {rung_id} of {package.path} failed: {reason}")
        table = read_json(scratch / MEASUREMENT)
        measurement = structure(Measurement, table, where=f"rung {rung_id}", error=EngineError)
    return MeasuredRung(
        measurement=measurement,
        end_s=ended_s - measurement.last_step_s,
        end_j=meter.energy_between(measurement.last_step_s, ended_s),
    )


def _exit_code(job: MeasureJob, stop: Callable[[], bool]) -> int:
    """Run a job to its end.

    In a separate session the process receives no Ctrl-C or hang-up of a terminal. It ends
    when its stdin closes, however this process ends.
    """
    command = python_command(_WORKER, json.dumps(unstructure(job)))
    with (Path(job.scratch) / _STDERR).open("wb") as errors, start_errors():
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    with process:
        try:
            while not stop():
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK_S)
        finally:
            process.kill()
    raise StoppedError("stopped before anything was measured.")


def _reason(code: int, scratch: Path) -> str:
    """Why it failed: its message, or the output on stderr."""
    with suppress(FileNotFoundError):
        return read_file(scratch / ERROR, MAX_TABLE_BYTES).decode()
    left = (
        read_file(scratch / _STDERR, MAX_TABLE_BYTES).decode(errors="replace").strip()[-2000:]
    )
    if code < 0:
        return f"{signal.Signals(-code).name} ended its process. {left}".rstrip()
    return left or f"its process ended with {code}"


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """On the disk that checkpoints are timed on: /tmp may count as memory."""
    cache = cache_folder()
    folder: tempfile.TemporaryDirectory[str] | None = None
    with cache_writes(), storage_errors("write", cache):
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cache, prefix=".profile-")
    if folder is None:  # without a cache there may be no such disk
        with storage_errors("write", Path(tempfile.gettempdir())):
            folder = tempfile.TemporaryDirectory(prefix="edge-train-profile-")
    with folder as name:
        yield Path(name)
