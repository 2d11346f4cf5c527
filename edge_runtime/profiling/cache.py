"""Files of cost profiles, format 1, and their cache.

docs/planning.md explains every field.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.errors import ConfigError, DeviceError, RecordsError
from edge_runtime.facts import CostProfile
from edge_runtime.facts.costs import INTERPOLATED, MEASURED, SOURCES
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import storage_errors, write_file

FORMAT = 1
CACHE = "EDGE_TRAIN_CACHE"


def cached_profile_path(
    package_digest: str,
    *,
    board: str,
    power_mode: str | None,
    engine: str,
    runtime: str,
    device: str,
    threads: int | None,
    variables: Mapping[str, str] = os.environ,
) -> Path:
    """Path of the profile of this package and environment; it need not exist.

    Args:
        package_digest: of the package.
        board: id of its profile.
        power_mode: of the board, where it has modes.
        engine: its name.
        runtime: of the engine, with its version: "onnxruntime 1.31.1".
        device: on which the engine runs: "cpu".
        threads: of the engine; `None`: one per processor.
        variables: the environment, for `EDGE_TRAIN_CACHE` and `XDG_CACHE_HOME`.

    Raises:
        ConfigError: neither a home folder nor a cache folder is known.
    """
    key = (board, power_mode or "", engine, runtime, device, str(threads or "all"))
    exact = hashlib.sha256("\0".join((package_digest, *key)).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(filter(None, key)))
    name = f"{package_digest[:12]}-{readable}-{exact[:8]}.json"
    return cache_folder(variables) / "profiles" / name


def cache_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """`EDGE_TRAIN_CACHE`, or `edge-train` in the XDG cache folder.

    Raises:
        ConfigError: neither is known.
    """
    if named := variables.get(CACHE):
        return Path(named)
    if Path(xdg := variables.get("XDG_CACHE_HOME", "")).is_absolute():
        return Path(xdg) / "edge-train"
    try:
        return Path.home() / ".cache" / "edge-train"
    except RuntimeError as error:
        raise ConfigError(
            f"this user has no home folder for cost profiles. Set {CACHE} to a folder."
        ) from error


def save_profile(profile: CostProfile, path: Path) -> None:
    """Write a profile, complete or not at all.

    Raises:
        StorageError: the disk is full, read-only or gone.
    """
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(unstructure(profile), indent=2) + "\n").encode())


def load_profile(path: Path) -> CostProfile:
    """Read a profile.

    Raises:
        DeviceError: the file does not exist.
        RecordsError: it is damaged or of another format; every problem is listed.
    """
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DeviceError(
            f"cost profile {path} does not exist. Measure one on the board with "
            f"`edge-train profile PKG -o {path}`."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordsError(
            f"cost profile {path} cannot be read ({reason}). Measure again with "
            "`edge-train profile PKG`."
        ) from error
    version = table.get("format") if isinstance(table, dict) else None
    if version != FORMAT:
        raise RecordsError(
            f"cost profile {path}: format {version!r} is unknown; this edge-train reads "
            f"format {FORMAT}. Measure again with `edge-train profile PKG`."
        )
    where = f"cost profile {path}"
    profile = structure(CostProfile, table, where=where, error=RecordsError)
    if problems := _problems_of(profile):
        lines = [f"{where}: {len(problems)} problem(s)", *problems]
        raise RecordsError("\n  ".join(lines))
    return profile


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
        if cost.source in (MEASURED, INTERPOLATED) and not cost.step_s:
            problems.append(f"{place}step_s: a {cost.source} rung needs a time")
    return sorted(problems)


def check_fits(
    profile: CostProfile,
    *,
    package_digest: str,
    board: str,
    power_mode: str | None,
    engine: str,
    runtime: str,
    device: str,
    threads: int | None,
) -> None:
    """Refuse a profile that was measured in another environment.

    Raises:
        DeviceError: it differs; the message names each difference.
    """
    pairs = {
        "package": (profile.package_digest[:12], package_digest[:12]),
        "board": (profile.board, board),
        "power mode": (profile.power_mode, power_mode),
        "engine": (profile.engine, engine),
        "runtime": (profile.runtime, runtime),
        "device": (profile.device, device),
        "threads": (profile.threads or "all processors", threads or "all processors"),
    }
    different = [
        f"  {name}: measured with {_shown(measured)}, here {_shown(here)}"
        for name, (measured, here) in pairs.items()
        if measured != here
    ]
    if different:
        lines = "\n".join(different)
        raise DeviceError(
            f"the cost profile of {profile.created_at} is not valid here:\n{lines}\n"
            "Measure again with `edge-train profile PKG`."
        )


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
