"""The fastest device for a package: that on which a step of it really ran in the least time.

A software adapter is never taken, and where the CPU is alone nothing is measured. The time is
that of a cost profile in the cache, or of a short run in a separate process, as in profiling.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device import Meter
from edge_runtime.engines import create_engine, device_gpu, installed_gpus, require_supported
from edge_runtime.engines.devices import device_name, missing_gpu_text
from edge_runtime.errors import ConfigError, EngineError, RecordsError, StoppedError
from edge_runtime.facts.devices import AUTO, CPU
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.process import measure_rung
from edge_runtime.records.event_text import device_text
from edge_runtime.training import never
from edge_runtime.units import step_text

_LONGEST_S = 120.0  # on each, until its steps are done: a driver may hang
_MEASURED_S = 3.0  # of steps on each device: it counts against a budget


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """A device, and why it was taken."""

    device: str
    reason: str | None = None  # for people; None: it was named


def choose_device(
    package: Package,
    device: str | None,
    *,
    recorded: str | None = None,
    engine: str = "auto",
    threads: int | None = None,
    board_file: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = never,
) -> DeviceChoice:
    """The device that is named; else that of the run; else, of "auto", the fastest.

    Args:
        package: to train or to evaluate.
        device: a name, "auto", or `None`: the CPU.
        recorded: of the run that is continued.
        engine: which trains it.
        threads: of the engine on the CPU.
        board_file: of the board; `None`: recognised.
        report: called with a line of text for each measurement, and for the choice.
        stop: called several times a second while a step is timed.

    Raises:
        ConfigError: no name of a device.
        RecordsError: the device of the run is none.
        DeviceError: the board is unknown, or no process can be started.
        StoppedError: `stop` returned `True`.
        StorageError: files of the measurements cannot be written.
    """
    if device not in (None, AUTO):
        named = device_name(device)
        if recorded not in (None, named):
            report(f"the run began on device {recorded} and goes on with {named}")
        return DeviceChoice(device=named)
    _check_recorded(recorded)
    if recorded not in (None, CPU):
        report(f"on device {recorded}, as the run began (--device takes another one)")
    if recorded is not None or device is None:
        return DeviceChoice(device=recorded or CPU)
    choice = _fastest(package, engine, threads, board_file, report, stop)
    report(f"--device auto takes {choice.device}: {choice.reason}")
    return choice


def _check_recorded(device: str | None) -> None:
    try:
        device_name(device or CPU)
    except ConfigError as error:
        raise RecordsError(f"run.json: device: {error} Name one with --device.") from error


def _fastest(
    package: Package,
    engine: str,
    threads: int | None,
    board_file: Path | None,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> DeviceChoice:
    """Time a step of the cheapest rung on the CPU and on every GPU."""
    gpus, refused = _usable(engine)
    if not gpus:
        why = "; ".join(refused) or "no runtime of a GPU is installed"
        return DeviceChoice(device=CPU, reason=why)
    rung = min(package.ladder(), key=lambda rung: rung.flops)
    step_s: dict[str, float] = {}
    named: dict[str, str] = {}  # for people
    for device in (CPU, *gpus):
        environment = Environment.detect(
            engine, device=device, threads=threads, board_file=board_file
        )
        named[device] = device_text(device, environment.gpu)
        try:
            require_supported(create_engine(engine, device=device), package, rung)
            step_s[device] = _step_s(package, rung, environment, report, stop)
        except EngineError as error:
            refused.append(f"{device} does not work: {' '.join(str(error).split())}")
    if not step_s:  # the CPU evaluates any package, and says why it does not train this one
        return DeviceChoice(device=CPU, reason="; ".join(refused))
    fastest = min(step_s, key=step_s.__getitem__)
    times = [f"{step_text(step_s[each])} on {named[each]}" for each in step_s]
    reason = "; ".join([f"a step of {rung.id} takes {', '.join(times)}", *refused])
    return DeviceChoice(device=fastest, reason=reason)


def _usable(engine: str) -> tuple[list[str], list[str]]:
    """GPUs whose runtime is installed, and why others are not taken."""
    usable, refused = [], []
    for device in installed_gpus(engine):
        gpu = device_gpu(device)
        if gpu is None:
            refused.append(missing_gpu_text(device))
        elif gpu.is_software:
            refused.append(f"{device} is only {gpu.name}, a software adapter")
        else:
            usable.append(device)
    return usable, refused


def _step_s(
    package: Package,
    rung: Rung,
    environment: Environment,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> float:
    if (known := _known_s(package, rung, environment)) is not None:
        return known
    report(f"timing a step of {rung.id} on device {environment.device}")
    end_s = time.monotonic() + _LONGEST_S
    try:
        with Meter(None) as meter:
            measured = measure_rung(
                package,
                rung.id,
                environment,
                meter,
                max_s=_MEASURED_S,
                stop=lambda: stop() or time.monotonic() > end_s,
            )
    except StoppedError as error:
        if stop():
            raise
        raise EngineError(f"no step of {rung.id} in {_LONGEST_S:g} s") from error
    if measured is None:
        raise EngineError(f"a step of {rung.id} was killed for memory")
    return measured.measurement.step_s


def _known_s(package: Package, rung: Rung, environment: Environment) -> float | None:
    """Its time in the cached cost profile, if there is one."""
    profile = environment.cached_profile(package, lambda _: None)
    costs = {cost.rung: cost for cost in profile.rungs} if profile else {}
    return costs[rung.id].step_s if rung.id in costs else None
