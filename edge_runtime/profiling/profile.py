"""The cost profile of a package on this board: every rung in new processes.

Rungs are measured three times, from the smallest up, down and up again, so a board that heats
up affects all rungs alike, and the median hides other programs that come and go. Plans depend
on how rungs compare: where the times still disagree, they are smoothed towards a straight line
over FLOPs. A killed process marks its rung as not fitting; the others continue. Measurements
are kept in the cache until no rung is left to measure: after an interruption the same call
continues. Within an allowance of time, the smallest and the largest rung come first, and
what has no time left stays unmeasured; so does what does not fit beside this process, though
it may fit alone.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from edge_runtime.device import Meter, memory_now
from edge_runtime.engines import create_engine, supported_rungs
from edge_runtime.errors import BudgetError, EdgeRuntimeError, EngineError
from edge_runtime.facts import CostProfile, RungCost, WindowEnergy
from edge_runtime.facts.costs import DOES_NOT_FIT, MEASURED, UNMEASURED
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.planning.costs import smooth
from edge_runtime.profiling.bench import Allowance, Bench, forget_measurements
from edge_runtime.profiling.cache import FORMAT
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.process import MeasuredRung
from edge_runtime.records import utc_now
from edge_runtime.training import never
from edge_runtime.training.metering import calibration_of
from edge_runtime.units import bytes_text

logger = logging.getLogger(__name__)

_LARGEST_GAP = 0.1  # share of the time without true readings of power
_IDLE_S = 5.0  # of measuring the board's idle power
_IDLE_SHARE = 0.2  # of the allowance, at most


def profile_package(
    package: Package,
    environment: Environment,
    meter: Meter,
    *,
    rungs: Sequence[Rung] | None = None,
    memory_bytes: int | None = None,
    max_s: float = 60.0,
    left_s: Callable[[], float] | None = None,
    report: Callable[[RungCost], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = never,
) -> CostProfile:
    """Measure every rung that the engine can train three times, the smallest first.

    Args:
        package: the package to train.
        environment: where it will be trained.
        meter: of this process, for idle power and the costs of a run's end.
        rungs: those to measure; `None`: all that the engine can train.
        memory_bytes: the most that a rung's process may hold; rungs that may need more are
            left out.
        max_s: of steps per rung once it is loaded, a third of it in each repetition.
        left_s: returns the seconds that measuring may still take; `None`: all that it needs.
            The smallest rung is measured in any case, in up to twice that time.
        report: called after each repetition with the rung's costs so far.
        progress: called with a line of text before each repetition.
        stop: called several times a second while a rung is measured.

    Raises:
        EngineError: a rung failed for a reason other than memory; the smallest was killed; or
            none can be trained.
        StorageError: files of the measuring processes cannot be written.
        StoppedError: `stop` returned `True`.
        BudgetError: measuring a rung takes far longer than it may, or there is too little
            memory to measure the smallest beside this process.
    """
    before = meter.so_far()
    allowance = Allowance(left_s) if left_s else Allowance()
    idle_s = min(_IDLE_S, _IDLE_SHARE * max(0.0, allowance.whole_s))
    idle_w = meter.measure_idle(idle_s) if meter.sensor else None
    costs: dict[str, RungCost] = {}
    room = _Room.now(memory_bytes)
    rungs = rungs or _supported(package, environment)
    rungs = sorted(rungs, key=lambda rung: rung.peak_activation_bytes)
    bench = Bench(
        package,
        environment,
        meter,
        rungs=len(rungs),
        max_s=max_s,
        allowance=allowance,
        stop=stop,
        progress=progress,
    )
    # Of few measured rungs, these two give the most: those between follow from them.
    first = [rungs[0], *rungs[:0:-1]] if allowance.is_limited else rungs
    for rung in first:
        cost = _unmeasured(package, rung, bench.predicted_bytes(rung))
        if room.holds(cost) and bench.may_measure(rung):
            cost = _with(cost, bench.measure(rung))
        costs[rung.id] = cost
        report(cost)
    if not bench.measured:
        raise _nothing_fits(package, costs[rungs[0].id], room)
    for rung in [*reversed(rungs), *rungs]:
        cost = costs[rung.id]
        if cost.source == MEASURED and bench.may_measure(rung):
            bare = _unmeasured(package, rung, bench.predicted_bytes(rung))
            costs[rung.id] = _with(bare, bench.measure(rung))
            report(costs[rung.id])
    if not bench.is_capped and all(cost.source != UNMEASURED for cost in costs.values()):
        forget_measurements(package, environment)
    measured = [known for passes in bench.measured.values() for known in passes]
    smoothed = _smoothed(package, costs.values())
    profile = _profile(package, environment, meter, idle_w, measured, smoothed)
    if meter.sensor is None:
        return profile
    is_known = meter.lost_because() is None and _is_energy_known(before, meter.so_far())
    return profile if is_known else _without_energy(profile)


def _is_energy_known(before: WindowEnergy, after: WindowEnergy) -> bool:
    """Whether the power could be read, and be true, most of the time between the two."""
    gap_s, passed_s = after.gap_s - before.gap_s, after.duration_s - before.duration_s
    return gap_s <= _LARGEST_GAP * passed_s


def _without_energy(profile: CostProfile) -> CostProfile:
    """What is left of a profile if the readings of power could not be used."""
    logger.warning("the profile has no energy: %s had no true readings", profile.sensor)
    rungs = tuple(replace(cost, step_j=None, power_w=None) for cost in profile.rungs)
    return replace(profile, idle_w=None, checkpoint_j=None, rungs=rungs)


def _supported(package: Package, environment: Environment) -> Sequence[Rung]:
    engine = create_engine(
        environment.engine, device=environment.device, threads=environment.threads
    )
    return supported_rungs(engine, package, package.manifest.rungs)


def _smoothed(package: Package, costs: Iterable[RungCost]) -> list[RungCost]:
    """Smoothed among rungs of one kind: only between these is time a line over FLOPs."""
    kinds: dict[tuple[str, int | None], list[RungCost]] = {}
    for cost in costs:
        rung = package.rung(cost.rung)
        kinds.setdefault((rung.trained, rung.micro_batch), []).append(cost)
    return [cost for kind in kinds.values() for cost in smooth(kind)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """Memory for a process that measures a rung, beside this one."""

    own_bytes: int  # of this process
    beside_bytes: int | None  # that another one may hold now; None: unknown

    @classmethod
    def now(cls, memory_bytes: int | None) -> "_Room":
        """What is free, within a limit."""
        now = memory_now()
        limits = [] if memory_bytes is None else [memory_bytes]
        if now.available_bytes is not None:  # libraries are in memory once for both
            limits.append(now.available_bytes + now.file_bytes)
        return cls(own_bytes=now.rss_bytes, beside_bytes=min(limits, default=None))

    def holds(self, cost: RungCost) -> bool:
        """Whether the rung may be measured: with the reserve that a run of it would need."""
        return self.beside_bytes is None or (cost.need_bytes or 0) <= self.beside_bytes


def _nothing_fits(package: Package, smallest: RungCost, room: _Room) -> EdgeRuntimeError:
    """The error if not even the smallest rung was measured."""
    if smallest.source == DOES_NOT_FIT or room.beside_bytes is None:
        return EngineError(
            f"no rung of {package.path} fits into the memory of this board; the smallest, "
            f"{smallest.rung}, was killed. Export one with a smaller batch or model."
        )
    need_bytes = smallest.need_bytes or 0
    return BudgetError(
        f"no rung of {package.path} can be measured in this memory: the smallest, "
        f"{smallest.rung}, needs up to {bytes_text(need_bytes)}, and beside the "
        f"{bytes_text(room.own_bytes)} of this process {bytes_text(room.beside_bytes)} may be "
        f"used. Give {bytes_text(room.own_bytes + need_bytes)} in all; or measure it where "
        "there is more, without --memory (`edge-train profile PKG -o FILE`, then run with "
        "--profile FILE: a run takes less than measuring beside it); or export with a "
        "smaller batch or model."
    )


def _unmeasured(package: Package, rung: Rung, predicted_bytes: int) -> RungCost:
    manifest = package.manifest
    return RungCost(
        rung=rung.id,
        token_blocks=manifest.token_blocks(rung),
        flops=rung.flops,
        step_s=None,
        step_s_low=None,
        step_s_high=None,
        step_j=None,
        power_w=None,
        peak_bytes=None,
        predicted_peak_bytes=predicted_bytes,
        source=UNMEASURED,
        micro_batch=rung.micro_batch,
    )


def _with(cost: RungCost, measured: Sequence[MeasuredRung] | None) -> RungCost:
    """A rung's cost with its measurements; `None`: the last process was killed."""
    if measured is None:
        return replace(cost, source=DOES_NOT_FIT)
    known = [each.measurement for each in measured]
    return replace(
        cost,
        step_s=median(each.step_s for each in known),
        step_s_low=min(each.step_s_low for each in known),
        step_s_high=max(each.step_s_high for each in known),
        step_j=_median(each.step_j for each in known),
        power_w=_median(each.power_w for each in known),
        peak_bytes=max(each.peak_bytes for each in known),
        card_bytes=max(
            (each.card_bytes for each in known if each.card_bytes is not None), default=None
        ),
        source=MEASURED,
    )


def _median(values: Iterable[float | None]) -> float | None:
    """The median; unknown if one of the values is."""
    known = list(values)
    return None if None in known else median(value for value in known if value is not None)


def _profile(
    package: Package,
    environment: Environment,
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
        **environment.key._asdict(),
        calibration=calibration_of(sensor, environment.board),
        sensor=None if sensor is None else sensor.name,
        energy_is_estimate=sensor is not None and sensor.is_estimate,
        idle_w=idle_w,
        baseline_bytes=min(known.measurement.baseline_bytes for known in measured),
        startup_s=max(known.measurement.startup_s for known in measured),
        switch_s=max(known.measurement.switch_s for known in measured),
        checkpoint_s=longest.end_s,
        checkpoint_j=longest.end_j,
        rungs=tuple(sorted(costs, key=lambda cost: order.index(cost.rung))),
    )
