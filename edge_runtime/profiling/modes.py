"""Cost profiles in several power modes. Clock: monotonic seconds."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.device import Meter, PowerModes, Thermometer
from edge_runtime.errors import (
    DeviceError,
    ModeError,
    StoppedError,
)
from edge_runtime.facts import CostProfile
from edge_runtime.facts.costs import MEASURED
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.profiling.bench import forget_measurements
from edge_runtime.profiling.cache import cache_writes, save_profile
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.profile import profile_package

# After a change of the mode, the board is left alone until it has settled.
SETTLE_S = 10.0  # at least; and the window in which the temperature must keep still
LONGEST_SETTLE_S = 180.0
_STILL_C = 1.0  # most that the hottest zone may move in the window
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeCosts:
    """What the rungs cost in one mode, or why that is not known."""

    mode: str
    profile: CostProfile | None = None
    path: Path | None = None  # of the profile in the cache; None: it is not kept
    was_cached: bool = False  # measured earlier
    throttled: bool | None = None  # while it was measured; None: unknown, or measured earlier
    problem: str | None = None  # why there is no profile


def profile_modes(
    package: Package,
    modes: PowerModes,
    names: Sequence[str],
    *,
    detect: Callable[[], Environment],
    rungs: Sequence[Rung],
    max_s: float,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> list[ModeCosts]:
    """Measure the rungs in each mode, except where the cache has their costs.

    To be called inside `mode_put_back`. What was measured while the board was throttled is
    not kept: the same mode is faster when the board is cool.

    Args:
        package: the package to train.
        modes: of the board.
        names: of those to measure, in this order.
        detect: returns the environment in the mode that is set.
        rungs: those that the engine can train.
        max_s: of steps per rung and mode.
        report: called with a line of text.
        stop: returns whether to stop.

    Raises:
        StoppedError: `stop` returned `True`.
        ModeError: a mode was changed by somebody else while it was measured.
        EdgeRuntimeError: any error of `profile_package`.
    """
    costs = []
    last = modes.current()  # that was set; what heat makes of it may read as the next one
    for name in names:
        if name != last or modes.current() != name:
            try:
                modes.set(name)
            except ModeError as error:
                if not _is_lowered_by_heat(modes, name):
                    report(f"not in {name}: {error}")
                    costs.append(ModeCosts(mode=name, problem=str(error)))
                    last = modes.current()
                    continue
            last = name
        here = replace(detect(), power_mode=name)  # heat may lower the mode that is read
        costs.append(_costs_in(name, package, modes, here, rungs, max_s, report, stop))
    return costs


def _costs_in(
    name: str,
    package: Package,
    modes: PowerModes,
    environment: Environment,
    rungs: Sequence[Rung],
    max_s: float,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> ModeCosts:
    """Costs in the mode that is set."""
    path = environment.cached_profile_path(package)
    with Meter(environment.sensor) as meter:
        known = environment.cached_profile(package, report)
        if known is not None and _is_complete(known, environment, rungs):
            report(f"in {name}: measured on {known.created_at}; that is used")
            return ModeCosts(mode=name, profile=known, path=path, was_cached=True)
        report(f"in {name}: waiting until the board has settled, then measuring")
        watch = _Watch(stop)
        try:
            wait_until_settled(watch)
            _require_mode(modes, name, watch)
            profile = profile_package(
                package,
                environment,
                meter,
                rungs=rungs,
                max_s=max_s,
                report=lambda cost: report(
                    cost.text(is_estimate=environment.power_is_estimate)
                ),
                progress=report,
                stop=watch,
            )
            try:
                _require_mode(modes, name, watch)
            except ModeError:
                forget_measurements(package, environment)
                raise
        finally:
            watch.close()
            if watch.throttled:
                forget_measurements(package, environment)
    if not watch.throttled:
        with cache_writes():
            save_profile(profile, path)
    forget_measurements(package, environment)
    return ModeCosts(
        mode=name,
        profile=profile,
        path=None if watch.throttled else path,
        throttled=watch.throttled,
    )


def _is_complete(
    profile: CostProfile, environment: Environment, rungs: Sequence[Rung]
) -> bool:
    """Whether nothing would be known better after measuring again."""
    costs = {cost.rung: cost for cost in profile.rungs}
    if any(rung.id not in costs for rung in rungs):
        return False
    try:
        environment.check_energy(profile)
    except DeviceError:
        return False
    measured = [cost for cost in costs.values() if cost.source == MEASURED]
    return environment.sensor is None or all(cost.step_j is not None for cost in measured)


def _is_lowered_by_heat(modes: PowerModes, name: str) -> bool:
    """Whether the mode is set, and lower limits are read because the board is throttled."""
    thermometer = Thermometer()
    try:
        return bool(thermometer.is_throttled()) and modes.is_within(name)
    finally:
        thermometer.close()


def _require_mode(modes: PowerModes, name: str, watch: "_Watch") -> None:
    """Refuse another mode than the one that was set, but for limits that heat lowers."""
    now = modes.current()
    watch.look()
    if now == name or (watch.throttled and modes.is_within(name)):
        return
    raise ModeError(
        f"power mode {name} was set, but the board is in {now or 'an unknown one'} now: "
        "another program or heat has changed it. What was measured in it is not kept."
    )


class _Watch:
    """A `stop` that notes whether the board was throttled, several times a second."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self.thermometer = Thermometer()
        self.throttled: bool | None = None

    def look(self) -> None:
        if (now := self.thermometer.is_throttled()) is not None:
            self.throttled = now or bool(self.throttled)

    def __call__(self) -> bool:
        self.look()
        return self._stop()

    def close(self) -> None:
        self.thermometer.close()


class Settling:
    """Whether a board has settled after a change.

    It has after 10 s in which its hottest zone moved by 1 degree at most; without a
    temperature after 10 s; and after 180 s in any case.
    """

    def __init__(self, begin_s: float) -> None:
        """`begin_s`: the time of the change."""
        self._begin_s = begin_s
        self._seen: deque[tuple[float, float]] = deque()

    def see(self, now_s: float, temperature_c: float | None) -> bool:
        """Take one reading in; returns whether the board has settled."""
        if temperature_c is not None:
            self._seen.append((now_s, temperature_c))
        while self._seen and self._seen[0][0] < now_s - SETTLE_S:
            self._seen.popleft()
        passed_s = now_s - self._begin_s
        if passed_s >= LONGEST_SETTLE_S:
            return True
        recent = [degrees for _, degrees in self._seen]
        is_still = not recent or max(recent) - min(recent) <= _STILL_C
        return passed_s >= SETTLE_S and is_still


def wait_until_settled(watch: _Watch) -> None:
    """Leave the board alone until its temperature keeps still.

    Raises:
        StoppedError: the watch says so.
    """
    settling = Settling(time.monotonic())
    while not settling.see(time.monotonic(), watch.thermometer.highest_c()):
        if watch():
            raise StoppedError("stopped before anything was measured in this mode.")
        time.sleep(_LOOK_S)
    watch.throttled = None  # counted from here on
