"""Files of cost profiles, format 1, and their cache.

docs/planning.md explains every field.
"""

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.documents import read_document, write_document
from edge_runtime.engines import engine_name
from edge_runtime.errors import DeviceError, RecordsError, StorageError
from edge_runtime.facts import CostProfile, RungCost
from edge_runtime.facts.costs import EXTRAPOLATED, INTERPOLATED, MEASURED, SOURCES
from edge_runtime.facts.devices import AUTO, CPU
from edge_runtime.package import Package
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import CACHE, cache_folder
from edge_runtime.units import bytes_text

logger = logging.getLogger(__name__)

FORMAT = 1

_MOST_APART = 2.0  # factor between the power and the energy of a step over its time
_ROUNDING = 1e-3  # relative, of a median against its interval


class EnvironmentKey(NamedTuple):
    """Everything except the package that the cost of a step depends on."""

    board: str  # id of its profile
    power_mode: str | None  # of the board, where it has modes
    engine: str
    runtime: str  # of the engine, with its version: "onnxruntime 1.31.1"
    device: str  # on which the engine runs: "cpu"
    gpu: str | None  # behind the device, with its driver; None: the CPU, or unknown
    threads: int | None  # of the engine; None: one per processor
    cpus: float | None  # that may be used, such as 2 or 0.5; None: unknown

    def profile_command(self, package: object = "PKG") -> str:
        """The command that measures costs here, for messages."""
        options = {
            "--engine": None if self.engine == engine_name(AUTO) else self.engine,
            "--device": None if self.device == CPU else self.device,
            "--threads": self.threads,
        }
        given = [f" {flag} {value}" for flag, value in options.items() if value is not None]
        return f"`edge-train profile {package}{''.join(given)}`"


def key_of(profile: CostProfile) -> EnvironmentKey:
    """Where a profile was measured."""
    return EnvironmentKey(*(getattr(profile, name) for name in EnvironmentKey._fields))


def cached_profile_path(
    package_digest: str, key: EnvironmentKey, variables: Mapping[str, str] = os.environ
) -> Path:
    """Path of the profile of this package and environment; it need not exist.

    Args:
        package_digest: of the package.
        key: the environment.
        variables: those of the process, for `EDGE_TRAIN_CACHE` and `XDG_CACHE_HOME`.

    Raises:
        ConfigError: neither a home folder nor a cache folder is known.
    """
    cpus = "unknown" if key.cpus is None else f"{key.cpus:g}"
    used = f"{key.threads or 'all'} of {cpus}"
    words = (key.board, key.power_mode or "", key.engine, key.runtime, key.device, used)
    gpu = [] if key.gpu is None else [key.gpu]  # too long for the name of a file
    exact = hashlib.sha256("\0".join((package_digest, *words, *gpu)).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(filter(None, words)))
    name = f"{package_digest[:12]}-{readable}-{exact[:8]}.json"
    return cache_folder(variables) / "profiles" / name


@contextmanager
def cache_writes() -> Iterator[None]:
    """Go on without the cache where it cannot be written; a warning says so once."""
    try:
        yield
    except StorageError as error:
        reason = getattr(error.__cause__, "strerror", None) or str(error)
        _warn_once(cache_folder(), reason)


_unwritable: set[Path] = set()  # folders that were named


def _warn_once(folder: Path, reason: str) -> None:
    if folder in _unwritable:
        return
    _unwritable.add(folder)
    logger.warning(
        "measured costs are not kept: %s cannot be written (%s). Set %s to a folder that can",
        folder,
        reason,
        CACHE,
    )


def save_profile(profile: CostProfile, path: Path) -> None:
    """Write a profile, complete or not at all.

    Raises:
        DeviceError: it has values that no board can have; it is not written.
        StorageError: the disk is full, read-only or gone.
    """
    try:
        _checked(unstructure(profile), "the measured costs are not plausible, and not kept")
    except RecordsError as error:
        raise DeviceError(
            f"{error}\nSee `edge-train doctor` for the sensors, and measure again."
        ) from error
    write_document(path, unstructure(profile))


def load_profile(path: Path) -> CostProfile:
    """Read a profile.

    Raises:
        DeviceError: the file does not exist.
        RecordsError: it is damaged or of another format; every problem is listed.
    """
    try:
        table = read_document(
            path, "cost profile", version=FORMAT, command="edge-train profile PKG"
        )
    except FileNotFoundError as error:
        raise DeviceError(
            f"cost profile {path} does not exist. Measure one on the board with "
            f"`edge-train profile PKG -o {path}`."
        ) from error
    return _checked(table, f"cost profile {path}")


def _checked(table: Any, where: str) -> CostProfile:
    """A profile whose values a measurement can give.

    Raises:
        RecordsError: all problems.
    """
    profile = structure(CostProfile, table, where=where, error=RecordsError)
    if problems := _problems_of(profile):
        raise _damaged(where, problems)
    return profile


def _damaged(where: str, problems: Sequence[str]) -> RecordsError:
    return RecordsError("\n  ".join([f"{where}: {len(problems)} problem(s)", *problems]))


def _problems_of(profile: CostProfile) -> list[str]:
    """Values that no measurement can give."""
    problems = []
    names = [cost.rung for cost in profile.rungs]
    problems += [f"rungs: {name} appears twice" for name in {*names} if names.count(name) > 1]
    if not names:
        problems.append("rungs: the list is empty")
    for index, cost in enumerate(profile.rungs):
        place = f"rungs[{index}]."
        if cost.source not in SOURCES:
            known = ", ".join(SOURCES)
            problems.append(f"{place}source: {cost.source!r} is unknown; known are {known}")
        if cost.source in (MEASURED, INTERPOLATED, EXTRAPOLATED) and not cost.step_s:
            problems.append(f"{place}step_s: a {cost.source} rung needs a time")
        problems += [f"{place}{problem}" for problem in _absurd(cost)]
    return sorted(problems)


def interval_problem(
    step_s: float | None, low_s: float | None, high_s: float | None
) -> str | None:
    """What is wrong with the time of a step and its interval, if anything is."""
    if step_s is None or low_s is None or high_s is None:
        return None
    if low_s > high_s:
        return f"step_s_low: {low_s:g} is above step_s_high, {high_s:g}"
    if not (1 - _ROUNDING) * low_s <= step_s <= (1 + _ROUNDING) * high_s:
        return f"step_s: {step_s:g} is outside of its interval, {low_s:g} to {high_s:g}"
    return None


def _absurd(cost: RungCost) -> list[str]:
    """Values of a rung that contradict each other."""
    interval = interval_problem(cost.step_s, cost.step_s_low, cost.step_s_high)
    problems = [] if interval is None else [interval]
    if cost.step_j == 0 or cost.power_w == 0:
        problems.append("step_j, power_w: 0 is not plausible while a board trains")
    elif cost.step_j and cost.power_w and cost.step_s:
        power_w = cost.step_j / cost.step_s
        if not 1 / _MOST_APART <= power_w / cost.power_w <= _MOST_APART:
            problems.append(
                f"step_j: {cost.step_j:g} J in {cost.step_s:g} s are {power_w:g} W, "
                f"but power_w is {cost.power_w:g}"
            )
    return problems


def check_package(profile: CostProfile, package: Package, where: str) -> None:
    """Refuse costs that contradict the package, all of whose rungs they are of.

    Raises:
        RecordsError: all contradictions, each with its field.
    """
    problems = [
        f"rungs[{index}].{problem}"
        for index, cost in enumerate(profile.rungs)
        for problem in _contradictions(cost, package)
    ]
    if problems:
        advice = "Measure again with `edge-train profile PKG`."
        raise RecordsError(f"{_damaged(where, problems)}\n{advice}")


def _contradictions(cost: RungCost, package: Package) -> Iterator[str]:
    manifest, rung = package.manifest, package.rung(cost.rung)
    facts = {
        "token_blocks": manifest.token_blocks(rung),
        "flops": rung.flops,
        "micro_batch": rung.micro_batch,
    }
    for name, fact in facts.items():
        if (value := getattr(cost, name)) != fact:
            yield f"{name}: {value}, but {rung.id} of the package has {fact}"
    for name in ("peak_bytes", "predicted_peak_bytes"):
        value = getattr(cost, name)
        if value is not None and value < manifest.state_bytes:
            yield (
                f"{name}: {bytes_text(value)}, but the state of the package alone has "
                f"{bytes_text(manifest.state_bytes)}"
            )


def check_fits(
    profile: CostProfile,
    package_digest: str,
    key: EnvironmentKey,
    *,
    rungs: Collection[str] | None = None,
) -> None:
    """Refuse a profile that was measured in another environment.

    Args:
        profile: that was measured.
        package_digest: of the package.
        key: the environment; processors that are unknown on either side fit.
        rungs: ids of those of the package; `None`: unknown.

    Raises:
        DeviceError: it differs; the message names each difference.
    """
    known = key_of(profile)
    pairs: dict[str, tuple[object, object]] = {
        "package": (profile.package_digest[:12], package_digest[:12]),
        "board": (known.board, key.board),
        "power mode": (known.power_mode, key.power_mode),
        "engine": (known.engine, key.engine),
        "runtime": (known.runtime, key.runtime),
        "device": (known.device, key.device),
        "GPU and driver": (known.gpu, key.gpu),
        "threads": (known.threads or "all processors", key.threads or "all processors"),
    }
    if key.cpus is not None and known.cpus is not None:
        pairs["processors"] = (f"{known.cpus:g}", f"{key.cpus:g}")
    if rungs is not None:
        foreign = [cost.rung for cost in profile.rungs if cost.rung not in rungs]
        if foreign:
            pairs["rungs"] = (", ".join(foreign), ", ".join(rungs))
    _refuse_differences(profile, pairs, key.profile_command())


def check_sensor_fits(
    profile: CostProfile, *, sensor: str | None, calibration: Mapping[str, Mapping[str, float]]
) -> None:
    """Refuse joules that were measured with another power sensor or calibration.

    Args:
        profile: that was measured.
        sensor: its kind.
        calibration: corrections of its rails.

    Raises:
        DeviceError: it differs; the message names each difference.
    """
    pairs: dict[str, tuple[object, object]] = {"power sensor": (profile.sensor, sensor)}
    if profile.calibration is not None:
        known = _calibration_text(profile.calibration)
        pairs["calibration"] = (known, _calibration_text(calibration))
    _refuse_differences(profile, pairs, key_of(profile).profile_command())


def _calibration_text(calibration: Mapping[str, Mapping[str, float]]) -> str | None:
    rails = [
        f"{rail} ({', '.join(f'{name} {value:g}' for name, value in sorted(facts.items()))})"
        for rail, facts in sorted(calibration.items())
    ]
    return ", ".join(rails) or None


def _refuse_differences(
    profile: CostProfile, pairs: Mapping[str, tuple[object, object]], command: str
) -> None:
    different = [
        f"  {name}: measured with {_shown(measured)}, here {_shown(here)}"
        for name, (measured, here) in pairs.items()
        if measured != here
    ]
    if different:
        lines = "\n".join(different)
        raise DeviceError(
            f"the cost profile of {profile.created_at} is not valid here:\n{lines}\n"
            f"Measure again with {command}."
        )


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
