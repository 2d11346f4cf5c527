"""What a result was measured on: processor, memory, system."""

import math
import os
import platform
import re
import sys
from pathlib import Path

from edge_runtime.device.board import detect_board
from edge_runtime.device.cgroup import cpu_quota
from edge_runtime.device.files import text
from edge_runtime.device.memory import total_memory_bytes
from edge_runtime.errors import DeviceError

_NUMPY_THREADS = "OPENBLAS_NUM_THREADS"
_L4T = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")

Facts = dict[str, str | int | None]


def machine_facts(root: Path = Path("/")) -> Facts:
    """Facts of this machine, ready for JSON; `None` where unknown.

    Args:
        root: where /proc, /sys and /etc are.

    Returns:
        cpu_model: as the kernel names it.
        logical_cpus: those this process may use (affinity, container quota rounded up).
        memory_bytes: what this process may use (physical memory, container limit).
        os, kernel, machine, python: names and versions.
        board: id of the matching board profile.
    """
    return {
        "cpu_model": _cpu_model(root),
        "logical_cpus": cpu_threads(root),
        "memory_bytes": total_memory_bytes(root),
        "os": _os_name(root),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "board": _board_id(root),
    }


def _board_id(root: Path) -> str | None:
    try:
        return detect_board(root=root).id
    except DeviceError:
        return None


def l4t_release(root: Path = Path("/")) -> str | None:
    """The release of a Jetson's system software, such as "36.4.3"; `None`: no Jetson.

    Args:
        root: where /etc is.
    """
    release = _L4T.match(text(root / "etc/nv_tegra_release") or "")
    return f"{release[1]}.{release[2]}" if release else None


def usable_cpus(root: Path = Path("/")) -> float:
    """Processors that this process may use, such as 2; with a container's quota 0.5."""
    allowed, quota = float(len(os.sched_getaffinity(0))), cpu_quota(root)
    return allowed if quota is None else min(allowed, quota)


def cpu_threads(root: Path = Path("/")) -> int:
    """Threads that can run at the same time, on the processors that this process may use."""
    return max(1, math.ceil(usable_cpus(root)))


def boot_id(root: Path = Path("/")) -> str | None:
    """What is different after every restart of the system; `None`: unknown."""
    return text(root / "proc/sys/kernel/random/boot_id") or None


def limit_numpy_threads(threads: int | None = None) -> None:
    """Let numpy use as many threads as can run; without effect once numpy is imported.

    Its library for matrix products follows the affinity, but not a container's quota, which
    its threads would use up by waiting for each other.

    Args:
        threads: as requested; `None`: `cpu_threads`.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault(_NUMPY_THREADS, str(threads or cpu_threads()))


def _cpu_model(root: Path) -> str | None:
    """x86 kernels give a name; 64-bit ARM kernels the maker's and the core's number."""
    facts = dict(_pairs(root / "proc/cpuinfo", ":"))
    if name := facts.get("model name"):
        return name
    if (maker := facts.get("CPU implementer")) and (part := facts.get("CPU part")):
        return f"CPU implementer {maker}, part {part}"
    return None


def _os_name(root: Path) -> str | None:
    name = dict(_pairs(root / "etc/os-release", "=")).get("PRETTY_NAME")
    return name.strip("\"'") if name else None


def _pairs(path: Path, separator: str) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:  # no such file: the fact stays unknown
        return []
    parts = (line.partition(separator) for line in lines)
    return [(key.strip(), value.strip()) for key, middle, value in parts if middle]
