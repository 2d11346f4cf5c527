"""The cost profile of a package on this board: every rung in a fresh process of its own.

A child that is killed marks its rung as not fitting; the others go on. Clock: monotonic
seconds.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edge_runtime.device import Meter, memory_now
from edge_runtime.errors import EngineError
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning import CostProfile, RungCost
from edge_runtime.planning.cache import cache_folder
from edge_runtime.planning.costs import DOES_NOT_FIT, FORMAT, MEASURED, UNMEASURED
from edge_runtime.planning.memory import predicted_peak_bytes
from edge_runtime.records import utc_now
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import storage_errors
from edge_runtime.training.conditions import Conditions
from edge_runtime.training.measuring import ERROR, FOUND, MeasureJob, Measurement

_WORKER = "import sys; from edge_runtime.training.measuring import main; sys.exit(main())"
_IDLE_S = 5.0  # the board's idle power is the mean over so long


Report = Callable[[RungCost], None]


def profile_package(
    package: Package,
    conditions: Conditions,
    meter: Meter,
    *,
    memory_bytes: int | None = None,
    max_s: float = 60.0,
    report: Report = lambda _: None,
) -> CostProfile:
    """Measure every rung, the smallest first.

    Args:
        package: what is to be trained.
        conditions: on what.
        meter: of this process, for the idle power.
        memory_bytes: measure no rung that is predicted to take more.
        max_s: of measured steps per rung.
        report: called after each rung.

    Raises:
        EngineError: a rung failed for another reason than memory; or none fits.
        StorageError: there is no room for the children's files.
    """
    idle_w = meter.measure_idle(_IDLE_S) if conditions.sensor else None
    measured: list[Measurement] = []
    costs: list[RungCost] = []
    limit_bytes = _smallest(memory_bytes, memory_now().limit_bytes)
    for rung in sorted(package.manifest.rungs, key=lambda rung: rung.peak_activation_bytes):
        predicted = None
        if measured:
            predicted = predicted_peak_bytes(
                package.manifest, rung, measured[0].baseline_bytes
            )
        cost = _unmeasured(package, rung, predicted)
        if predicted is None or limit_bytes is None or predicted <= limit_bytes:
            found = _measure(package, rung, conditions, max_s)
            measured += [found] if found else []
            cost = _with(cost, found)
        costs.append(cost)
        report(costs[-1])
    if not measured:
        raise EngineError(
            f"no rung of {package.path} fits into the memory of this board; the smallest, "
            f"{costs[0].rung}, was killed. Export one with a smaller batch or model."
        )
    return _profile(package, conditions, idle_w, measured, costs)


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _measure(
    package: Package, rung: Rung, conditions: Conditions, max_s: float
) -> Measurement | None:
    """What a child found; `None` if it was killed, as it is when memory runs out."""
    with _scratch_folder() as scratch:
        job = MeasureJob(
            package=str(package.path.resolve()),
            rung=rung.id,
            engine=conditions.engine,
            threads=conditions.threads,
            board=str(conditions.board_file) if conditions.board_file else None,
            scratch=str(scratch),
            max_s=max_s,
        )
        command = [sys.executable, "-c", _WORKER, json.dumps(unstructure(job))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == -signal.SIGKILL:
            return None
        if done.returncode:
            error = scratch / ERROR
            reason = error.read_text() if error.exists() else done.stderr[-2000:]
            raise EngineError(f"measuring rung {rung.id} of {package.path} failed: {reason}")
        table = json.loads((scratch / FOUND).read_bytes())
        return structure(Measurement, table, where=f"rung {rung.id}", error=EngineError)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """On the disk, which checkpoints are timed on: what lies in /tmp may count as memory."""
    cache = cache_folder()
    with storage_errors("write", cache):
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cache, prefix=".profile-")
    with folder as name:
        yield Path(name)


def _unmeasured(package: Package, rung: Rung, predicted_bytes: int | None) -> RungCost:
    manifest = package.manifest
    views = sum(len(group.views) for group in manifest.views)
    return RungCost(
        rung=rung.id,
        token_blocks=views * manifest.batch_size * sum(rung.tokens_per_block),
        flops=rung.flops,
        step_s=None,
        step_s_low=None,
        step_s_high=None,
        step_j=None,
        power_w=None,
        peak_bytes=None,
        predicted_peak_bytes=predicted_bytes,
        source=UNMEASURED,
    )


def _with(cost: RungCost, found: Measurement | None) -> RungCost:
    """A rung's cost with what a child found; `None`: it was killed."""
    if found is None:
        return replace(cost, source=DOES_NOT_FIT)
    return replace(
        cost,
        step_s=found.step_s,
        step_s_low=found.step_s_low,
        step_s_high=found.step_s_high,
        step_j=found.step_j,
        power_w=found.power_w,
        peak_bytes=found.peak_bytes,
        source=MEASURED,
    )


def _profile(
    package: Package,
    conditions: Conditions,
    idle_w: float | None,
    measured: Sequence[Measurement],
    costs: Sequence[RungCost],
) -> CostProfile:
    order = [rung.id for rung in package.manifest.rungs]
    largest, sensor = measured[-1], conditions.sensor
    return CostProfile(
        format=FORMAT,
        created_at=utc_now(),
        package_digest=package.digest,
        board=conditions.board.id,
        power_mode=conditions.power_mode,
        engine=conditions.engine,
        runtime=conditions.runtime,
        threads=conditions.threads,
        sensor=None if sensor is None else sensor.name,
        energy_is_estimate=conditions.power_is_estimate,
        idle_w=idle_w,
        baseline_bytes=min(found.baseline_bytes for found in measured),
        startup_s=max(found.startup_s for found in measured),
        switch_s=max(found.switch_s for found in measured),
        checkpoint_s=largest.checkpoint_s,
        checkpoint_j=largest.checkpoint_j,
        rungs=tuple(sorted(costs, key=lambda cost: order.index(cost.rung))),
    )
