"""Measures one rung in this process: a short real run on noise.

Started by `edge_runtime.profiling.process` in a separate process, so that its peak memory is
that of one rung, and the kernel kills it instead of its parent. It ends when its stdin closes:
its parent has ended then. The run is an ordinary one, with pipeline, meter and checkpoint, so
that its steps cost the same as later ones. Clock: monotonic seconds.
"""

import json
import math
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from typing_extensions import override

from edge_runtime.data.sources import Image
from edge_runtime.device import (
    Meter,
    PeakMemory,
    load_board,
    open_sensor,
    prefer_oom_kill,
    process_elapsed_s,
    process_tree_rss_bytes,
)
from edge_runtime.engines import create_engine
from edge_runtime.engines.base import BaseEngine, Batch, Engine, Hyper, StepResult
from edge_runtime.engines.runtime import release_free_memory
from edge_runtime.errors import ConfigError, EdgeRuntimeError, NoMemoryError, StoppedError
from edge_runtime.facts.costs import BoardWatts, PartSeconds, StepJoules, StepSeconds
from edge_runtime.leaving import leave
from edge_runtime.package import Package, open_package
from edge_runtime.package.manifest import Rung
from edge_runtime.records import events
from edge_runtime.schema import Bytes, Seconds, structure, unstructure
from edge_runtime.state import State
from edge_runtime.storage import storage_errors
from edge_runtime.training import Metering, TrainingOptions, train

WARM_UP_STEPS = 3
MIN_STEPS = 5
MIN_WINDOW_S = 2.0  # for the energy of a step
_FEW_STEPS_APART = 0.1  # half the width of the interval of fewer steps than that, relative
CONFIDENT = 0.03  # half the width of the median's interval, relative
OUT_OF_MEMORY = 137  # exit code, as a shell reports a process that was killed
MEASUREMENT, ERROR = "measurement.json", "error.txt"  # in the scratch folder
_RESAMPLES = 1000
_AT_ONCE = 50_000  # values of resamples: they count as the rung's memory
_LOOK_EVERY = 1.1  # factor between checks: a check takes time and energy, too
_TRIES = 100  # to remove a folder into which the run still writes
_ENDLESS = 1_000_000  # epochs; the watch ends the run


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureJob:
    """What to measure, as given by the parent: no file of others, so without ranges."""

    package: str  # path
    rung: str
    engine: str
    forward_engine: str
    device: str
    threads: int | None
    board: str | None  # path of a board file; None: recognised
    scratch: str  # folder for the run folder and the measurement
    max_s: float  # of steps, once the rung is loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Costs of one rung. Durations are medians where there are several."""

    step_s: StepSeconds
    step_s_low: StepSeconds  # of the 95 % bootstrap interval of the median
    step_s_high: StepSeconds
    step_j: StepJoules | None
    power_w: BoardWatts | None
    peak_bytes: Bytes  # of the process, with its share of GPU memory
    card_bytes: Bytes | None = None  # of a GPU's own memory
    # of the process when its first step begins, without what is predicted from the manifest:
    # state, weights of forward engines, images of the next step
    baseline_bytes: Bytes
    startup_s: PartSeconds  # from process start to the first step
    switch_s: PartSeconds  # of loading the rung's graph
    watched_s: Seconds = (
        0.0  # from the end of the first step, which loads the rung, to the last
    )
    last_step_s: (
        Seconds  # when the last step ended; from there to process exit is the run's end
    )


def main() -> int:
    """Measure the job of the command line; write the measurement, or the error."""
    job = structure(MeasureJob, json.loads(sys.argv[1]), where="job", error=ConfigError)
    scratch = Path(job.scratch)
    threading.Thread(target=_end_with_parent, args=[scratch], daemon=True).start()
    prefer_oom_kill()
    try:
        measurement = measure(job)
        with storage_errors("write", scratch):
            (scratch / MEASUREMENT).write_text(json.dumps(unstructure(measurement)))
    except (_OutOfMemory, NoMemoryError):
        return OUT_OF_MEMORY
    except EdgeRuntimeError as error:
        with suppress(OSError):  # a disk may be full: then the exit code says it
            text = str(error)
            (scratch / ERROR).write_text(text, encoding="utf-8", errors="backslashreplace")
        return error.exit_code
    return 0


def run() -> NoReturn:
    """End this process as a run's does: its end is measured, too."""
    leave(main())


def _end_with_parent(scratch: Path) -> None:
    """End when stdin does, and remove the scratch folder."""
    os.read(0, 1)  # `sys.stdin` would hold a lock that the interpreter needs at exit
    for _ in range(_TRIES):
        shutil.rmtree(scratch, ignore_errors=True)
        if not scratch.exists():
            break
    os._exit(1)


class _OutOfMemory(Exception):  # noqa: N818 - ends the process as if it had been killed
    """Other programs have taken the memory: the run ended by itself."""


def measure(job: MeasureJob) -> Measurement:
    """Run the rung and measure its costs.

    Raises:
        EdgeRuntimeError: any error of a run.
    """
    package = open_package(Path(job.package))
    created = create_engine(
        job.engine,
        device=job.device,
        threads=job.threads,
        forward_engine=job.forward_engine,
    )
    engine = _WatchedEngine(created)
    board = load_board(Path(job.board) if job.board else None)
    watch, run_dir = Watch(job.max_s), Path(job.scratch) / "run"
    with Metering(open_sensor(board)) as metering:
        options = TrainingOptions(
            engine=engine,
            rungs=((1, job.rung),),
            metering=metering,
            epochs=_ENDLESS,
            stop=watch.is_sure,
        )
        with suppress(StoppedError):
            for event in train(package, _pictures(package), run_dir, options):
                if isinstance(event, events.Finished):  # by other programs
                    raise _OutOfMemory
                watch.see(event)
        return watch.measurement(engine.baseline_bytes, metering.meter)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median (percentile method, fixed seed)."""
    rng, known = np.random.default_rng(0), np.asarray(values)
    rows = max(1, _AT_ONCE // len(known))
    medians = [
        np.median(rng.choice(known, size=(rows, len(known))), axis=1)
        for _ in range(math.ceil(_RESAMPLES / rows))
    ]
    low, high = np.percentile(np.concatenate(medians), (2.5, 97.5))
    return float(low), float(high)


def _pictures(package: Package) -> "Noise":
    """Enough pictures that epoch ends, which cost a little, are rare."""
    manifest = package.manifest
    size_px = max(group.size_px for group in manifest.views)
    return Noise(64 * manifest.batch_size, size_px)


class Noise:
    """A `PictureSource` of noise, (size, size, 3), the same for the same index."""

    name = "noise"
    classes: Sequence[str] = ()
    labels = None

    def __init__(self, pictures: int, size_px: int) -> None:
        self._pictures, self._size_px = pictures, size_px

    def __len__(self) -> int:
        return self._pictures

    def key(self, index: int) -> str:
        """Number of the picture."""
        return f"{self.name} {index}"

    def read(self, index: int) -> Image:
        """The noise of this index."""
        shape = (self._size_px, self._size_px, 3)
        return np.random.default_rng(index).integers(0, 256, size=shape, dtype=np.uint8)


class Watch:
    """Follows a run's events until the measurement is precise enough."""

    def __init__(self, max_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_s, self._clock = max_s, clock
        self._peak = PeakMemory()
        self._steps = 0
        self._first_step_s = self._startup_s = 0.0
        self._loaded_s = math.nan
        self._durations_s: list[float] = []
        self._begin_s = self._end_s = math.nan
        self._look_at = MIN_STEPS  # of measured steps

    def see(self, event: events.Event) -> None:
        """Record one event."""
        now_s = self._clock()
        if not isinstance(event, events.StepRecord):
            return
        self._peak.reading(now_s)
        self._steps += 1
        measured = event.measured
        if self._steps == 1:
            self._first_step_s = measured.step_s
            self._startup_s = process_elapsed_s() - measured.step_s
            self._loaded_s = now_s
        # Slow steps need no more warm-up than time allows.
        is_early = self._steps <= WARM_UP_STEPS and now_s - self._loaded_s < self._max_s / 2
        if self._steps == 1 or (is_early and not self._durations_s):
            self._begin_s = now_s
        else:
            self._durations_s.append(measured.step_s + measured.wait_s)
            self._end_s = now_s

    def is_sure(self) -> bool:
        """Whether the run may end: the median is precise enough, or time is up."""
        steps = len(self._durations_s)
        if not steps:
            return False
        next_s = statistics.median(self._durations_s)
        if self._end_s - self._loaded_s + next_s > self._max_s:
            return True
        elapsed_s = self._end_s - self._begin_s
        if steps < MIN_STEPS or elapsed_s < MIN_WINDOW_S or steps < self._look_at:
            return False
        self._look_at = math.ceil(_LOOK_EVERY * steps)
        low_s, high_s = median_interval(self._durations_s)
        return (high_s - low_s) / 2 <= CONFIDENT * statistics.median(self._durations_s)

    def measurement(self, baseline_bytes: int, meter: Meter) -> Measurement:
        """The measurement of a run that has ended."""
        median_s = statistics.median(self._durations_s)
        low_s, high_s = median_interval(self._durations_s)
        if len(self._durations_s) < MIN_STEPS:
            low_s, high_s = (1 - _FEW_STEPS_APART) * low_s, (1 + _FEW_STEPS_APART) * high_s
        window_j = meter.energy_between(self._begin_s, self._end_s)
        if meter.lost_because() or (window_j is not None and window_j <= 0):
            window_j = None
        steps = len(self._durations_s)
        return Measurement(
            step_s=median_s,
            step_s_low=low_s,
            step_s_high=high_s,
            step_j=None if window_j is None else window_j / steps,
            power_w=None if window_j is None else window_j / (self._end_s - self._begin_s),
            peak_bytes=self._peak.peak_bytes(),
            card_bytes=self._peak.card_bytes,
            baseline_bytes=baseline_bytes,
            startup_s=self._startup_s,
            switch_s=max(0.0, self._first_step_s - median_s),
            watched_s=self._end_s - self._loaded_s,
            last_step_s=self._end_s,
        )


class _WatchedEngine(BaseEngine, Engine):
    """An engine that records the process's memory when its first step begins."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.name)
        self._engine = engine
        self.name, self.runtime, self.threads = engine.name, engine.runtime, engine.threads
        self.device = engine.device
        self._held_bytes = 0  # by state and weights
        self.baseline_bytes = 0

    @override
    def open(self, package: Package, state: State) -> None:
        # The weights of forward engines are predicted from the manifest, too
        held_bytes = package.manifest.forward_weight_bytes
        self._held_bytes = held_bytes + sum(tensor.nbytes for tensor in state.values())
        self._engine.open(package, state)
        self.forward_engine = self._engine.forward_engine

    @override
    def step(
        self, rung_id: str, batch: Batch, hyper: Hyper, following: Batch | None = None
    ) -> StepResult:
        if not self.baseline_bytes:
            # As the engine does: freed memory is not part of the process's memory.
            release_free_memory()
            # The engine holds the old state; the new one becomes resident once it is written.
            images_bytes = sum(images.nbytes for images in (following or {}).values())
            self.baseline_bytes = process_tree_rss_bytes() - self._held_bytes - images_bytes
        return self._engine.step(rung_id, batch, hyper, following)

    @override
    def snapshot(self) -> State:
        return self._engine.snapshot()

    @override
    def state_view(self) -> State:
        return self._engine.state_view()

    @override
    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        self._engine.run_periodic(graph, hyper)

    @override
    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        return self._engine.unsupported_reason(package, rung)

    @override
    def close(self) -> None:
        self._engine.close()
