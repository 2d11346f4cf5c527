"""What a run has spent: seconds and joules of all its processes, from their start on.

Clock: monotonic seconds. Energy is gross, of the board's total; `None` is unknown, and a sum
with an unknown part is unknown.
"""

import threading
from dataclasses import replace

from edge_runtime.device import PowerSample
from edge_runtime.facts import Spent
from edge_runtime.records import RunWriter
from edge_runtime.records.power import PowerRecord
from edge_runtime.records.spending import Spending

NOTHING = Spent(time_s=0.0, energy_j=0.0)


class PowerLog:
    """Writes a meter's samples into the run folder, those before there is one afterwards.

    Called by the sampling thread; the meter tells the training loop of a full disk.
    """

    def __init__(self, *, began_s: float) -> None:
        self._began_s = began_s
        self._lock = threading.Lock()
        self._early: list[PowerSample] = []
        self._writer: RunWriter | None = None
        self._process = 0

    def __call__(self, sample: PowerSample) -> None:
        """Take one sample."""
        with self._lock:
            if self._writer is None:
                self._early.append(sample)
            else:
                self._write(self._writer, sample)

    def write_to(self, writer: RunWriter, process: int) -> None:
        """From now on write into this run folder, as its process number `process`."""
        with self._lock:
            self._writer, self._process = writer, process
            for sample in self._early:
                self._write(writer, sample)
            self._early.clear()

    def stop(self) -> None:
        """Let go of the run folder; samples that still come are dropped."""
        with self._lock:
            self._writer = None

    def _write(self, writer: RunWriter, sample: PowerSample) -> None:
        """Raises `StorageError`."""
        record = PowerRecord(
            process=self._process,
            t_s=sample.t_s - self._began_s,
            total_w=sample.total_w,
            energy_j=sample.energy_j,
            rails_w=sample.rails_w,
            temperature_c=sample.temperature_c,
            throttled=sample.throttled,
            cpu_hz=sample.cpu_hz,
            gpu_hz=sample.gpu_hz,
            gpu_load=sample.gpu_load,
        )
        writer.sample(record)


def spent_before(spending: Spending, *, energy_is_estimate: bool) -> Spent:
    """What the processes of a run took, each from its start to its last sample."""
    if not spending.process:  # killed before the first sample
        return NOTHING
    return replace(
        NOTHING,
        time_s=spending.time_s,
        energy_j=spending.energy_j,
        energy_is_estimate=energy_is_estimate,
    )


def with_loss(earlier: Spent, at_checkpoint: Spent) -> Spent:
    """Earlier processes' total, with what came after the checkpoint counted as lost."""
    lost_j = None
    if earlier.energy_j is not None and at_checkpoint.energy_j is not None:
        lost_j = plus(
            at_checkpoint.lost_j, max(0.0, earlier.energy_j - at_checkpoint.energy_j)
        )
    return replace(
        earlier,
        lost_s=at_checkpoint.lost_s + max(0.0, earlier.time_s - at_checkpoint.time_s),
        lost_j=lost_j,
    )


def plus(a: float | None, b: float | None) -> float | None:
    """A sum; unknown if a part is."""
    return None if a is None or b is None else a + b


def minus(a: float | None, b: float | None) -> float | None:
    """A difference; unknown if a part is."""
    return None if a is None or b is None else a - b
