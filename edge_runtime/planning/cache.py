"""Where measured cost profiles are kept."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.errors import ConfigError

CACHE = "EDGE_TRAIN_CACHE"


def cached_profile_path(
    package_digest: str,
    board_id: str,
    power_mode: str | None,
    engine_runtime: str,
    threads: int | None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """The file of the profile for these conditions; it need not exist.

    Args:
        package_digest: of the package.
        board_id: of the board profile.
        power_mode: of the board, where it has such.
        engine_runtime: engine and runtime with its version: "ort onnxruntime 1.31.1".
        threads: of the engine.
        environment: where `EDGE_TRAIN_CACHE` and `XDG_CACHE_HOME` are looked up.

    Raises:
        ConfigError: there is no home folder, and no variable that names a cache folder.
    """
    conditions = (board_id, power_mode or "", engine_runtime, str(threads or "all"))
    exact = hashlib.sha256("\0".join((package_digest, *conditions)).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(filter(None, conditions)))
    name = f"{package_digest[:12]}-{readable}-{exact[:8]}.json"
    return cache_folder(environment) / "profiles" / name


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`EDGE_TRAIN_CACHE`, or `edge-train` in the XDG cache folder.

    Raises:
        ConfigError: neither is known.
    """
    if named := environment.get(CACHE):
        return Path(named)
    if Path(xdg := environment.get("XDG_CACHE_HOME", "")).is_absolute():
        return Path(xdg) / "edge-train"
    try:
        return Path.home() / ".cache" / "edge-train"
    except RuntimeError as error:
        raise ConfigError(
            f"this user has no home folder to keep cost profiles in. Set {CACHE} to a folder."
        ) from error
