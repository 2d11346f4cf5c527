"""The cost profile of a package on this board: every rung in a fresh process of its own.

A process that is killed marks its rung as not fitting; the others go on. What is measured is
kept in the cache until the profile is complete: after an interruption the same call goes on.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edge_runtime.device import Meter, memory_now
from edge_runtime.errors import EngineError, Interrupted, RecordsError
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning import CostProfile, RungCost
from edge_runtime.planning.costs import DOES_NOT_FIT, FORMAT, MEASURED, UNMEASURED
from edge_runtime.planning.memory import predicted_peak_bytes
from edge_runtime.records import utc_now
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import storage_errors, write_file
from edge_runtime.training.conditions import Conditions
from edge_runtime.training.rung_process import MeasuredRung, Stopped, measure_rung

logger = logging.getLogger(__name__)

_IDLE_S = 5.0  # the board's idle power is the mean over so long


def _never() -> bool:
    return False


def profile_package(
    package: Package,
    conditions: Conditions,
    meter: Meter,
    *,
    memory_bytes: int | None = None,
    max_s: float = 60.0,
    report: Callable[[RungCost], None] = lambda _: None,
    stop: Callable[[], bool] = _never,
) -> CostProfile:
    """Measure every rung, the smallest first.

    Args:
        package: what is to be trained.
        conditions: on what.
        meter: of this process, for the idle power and what the end of a run takes.
        memory_bytes: measure no rung that is predicted to take more.
        max_s: of measured steps per rung.
        report: called after each rung.
        stop: asked several times a second while a rung is measured.

    Raises:
        EngineError: a rung failed for another reason than memory; or none fits.
        StorageError: there is no room for the files of the measuring processes.
        Interrupted: `stop` said so.
    """
    idle_w = meter.measure_idle(_IDLE_S) if meter.sensor else None
    bench = _Bench(package, conditions, meter, max_s=max_s, stop=stop)
    costs: list[RungCost] = []
    limit_bytes = _smallest(memory_bytes, memory_now().limit_bytes)
    for rung in sorted(package.manifest.rungs, key=lambda rung: rung.peak_activation_bytes):
        predicted = bench.predicted_bytes(rung)
        cost = _unmeasured(package, rung, predicted)
        if predicted is None or limit_bytes is None or predicted <= limit_bytes:
            cost = _with(cost, bench.measure(rung.id))
        costs.append(cost)
        report(cost)
    if not bench.measured:
        raise EngineError(
            f"no rung of {package.path} fits into the memory of this board; the smallest, "
            f"{costs[0].rung}, was killed. Export one with a smaller batch or model."
        )
    bench.forget()
    return _profile(package, conditions, meter, idle_w, list(bench.measured.values()), costs)


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


class _Bench:
    """Measures rungs, but those that an interrupted profile has measured before."""

    def __init__(
        self,
        package: Package,
        conditions: Conditions,
        meter: Meter,
        *,
        max_s: float,
        stop: Callable[[], bool],
    ) -> None:
        self._package, self._conditions, self._meter = package, conditions, meter
        self._max_s, self._stop = max_s, stop
        self._kept = conditions.cached_profile_path(package).with_suffix("")
        self.measured: dict[str, MeasuredRung] = {}

    def predicted_bytes(self, rung: Rung) -> int | None:
        """The peak of a rung by what the first one showed of this board."""
        if not self.measured:
            return None
        first = next(iter(self.measured.values()))
        return predicted_peak_bytes(self._package.manifest, rung, first.found.baseline_bytes)

    def measure(self, rung_id: str) -> MeasuredRung | None:
        """What it takes; `None` if it was killed."""
        known = self._read(rung_id)
        if known is None:
            try:
                known = measure_rung(
                    self._package,
                    rung_id,
                    self._conditions,
                    self._meter,
                    max_s=self._max_s,
                    stop=self._stop,
                )
            except Stopped:
                raise Interrupted(self._so_far(rung_id)) from None
            if known:
                self._keep(rung_id, known)
        if known:
            self.measured[rung_id] = known
        return known

    def forget(self) -> None:
        """Keep nothing for a next call: the profile is complete."""
        shutil.rmtree(self._kept, ignore_errors=True)

    def _so_far(self, rung_id: str) -> str:
        if not self.measured:
            return f"stopped while {rung_id} was measured, the first rung; nothing is kept."
        done = ", ".join(self.measured)
        return (
            f"stopped while {rung_id} was measured. Measured are {done}: the same command "
            "goes on with the others."
        )

    def _read(self, rung_id: str) -> MeasuredRung | None:
        # Not there, or written by another version of edge-train.
        with suppress(OSError, ValueError, RecordsError):
            table = json.loads(self._file(rung_id).read_bytes())
            known = structure(MeasuredRung, table, where=rung_id, error=RecordsError)
            logger.warning("%s was measured before the interruption", rung_id)
            return known
        return None

    def _keep(self, rung_id: str, known: MeasuredRung) -> None:
        with storage_errors("write", self._kept):
            self._kept.mkdir(parents=True, exist_ok=True)
        write_file(self._file(rung_id), json.dumps(unstructure(known)).encode())

    def _file(self, rung_id: str) -> Path:
        return self._kept / f"{rung_id}.json"


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


def _with(cost: RungCost, known: MeasuredRung | None) -> RungCost:
    """A rung's cost with what its process found; `None`: it was killed."""
    if known is None:
        return replace(cost, source=DOES_NOT_FIT)
    found = known.found
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
    meter: Meter,
    idle_w: float | None,
    measured: Sequence[MeasuredRung],
    costs: Sequence[RungCost],
) -> CostProfile:
    order = [rung.id for rung in package.manifest.rungs]
    sensor, longest = meter.sensor, max(measured, key=lambda known: known.end_s)
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
        energy_is_estimate=sensor is not None and sensor.is_estimate,
        idle_w=idle_w,
        baseline_bytes=min(known.found.baseline_bytes for known in measured),
        startup_s=max(known.found.startup_s for known in measured),
        switch_s=max(known.found.switch_s for known in measured),
        checkpoint_s=longest.end_s,
        checkpoint_j=longest.end_j,
        rungs=tuple(sorted(costs, key=lambda cost: order.index(cost.rung))),
    )
