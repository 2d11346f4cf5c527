"""Memory of our own processes and of what is left around them, in bytes.

Resident memory counts pages that a child shares with its parent in both, as far as both have
touched them: sums err on the side that keeps a memory budget.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device.cgroup import (
    memory_headroom_bytes,
    memory_limit_bytes,
    memory_pressure,
)
from edge_runtime.device.files import sysfs, text
from edge_runtime.device.meminfo import meminfo_bytes

_GPU_CLIENTS = "kernel/debug/nvmap/iovmm/clients"  # of a Jetson; only root may read it
_UNITS = {"K": 1024, "M": 1024**2}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNow:
    """`None` is unknown."""

    rss_bytes: int  # resident, of this process and of all its descendants
    peak_rss_bytes: int  # sum of the highest that each of those still alive ever had
    swap_bytes: int  # swapped out
    gpu_bytes: int | None  # of a Jetson's memory, held by the GPU for these processes
    limit_bytes: int | None  # what exists for us: of RAM and container limits, the smallest
    available_bytes: int | None  # what could still be had, of RAM and of those limits
    pressure_avg10: float | None  # % of the last 10 s that somebody waited for memory

    @property
    def peak_bytes(self) -> int:
        """What counts against a memory budget: the peak, with the GPU's share where known."""
        return self.peak_rss_bytes + (self.gpu_bytes or 0)


def memory_now(root: Path = Path("/")) -> MemoryNow:
    """The memory of this process and of its descendants, and of the machine.

    Args:
        root: where /proc and /sys lie, but for what belongs to processes.
    """
    tree = process_tree()
    known = [_status_bytes(pid) for pid in tree]
    amounts = meminfo_bytes(root)
    available = [amounts.get("MemAvailable"), memory_headroom_bytes(root)]
    return MemoryNow(
        rss_bytes=sum(status.get("VmRSS", 0) for status in known),
        peak_rss_bytes=sum(status.get("VmHWM", 0) for status in known),
        swap_bytes=sum(status.get("VmSwap", 0) for status in known),
        gpu_bytes=_gpu_bytes(sysfs(root), tree),
        limit_bytes=existing_bytes(root),
        available_bytes=min(
            (bytes_ for bytes_ in available if bytes_ is not None), default=None
        ),
        pressure_avg10=memory_pressure(root),
    )


def process_tree_rss_bytes() -> int:
    """Resident bytes of this process and of all its descendants, now."""
    return sum(_status_bytes(pid).get("VmRSS", 0) for pid in process_tree())


def existing_bytes(root: Path = Path("/")) -> int | None:
    """Memory that exists for this process: the RAM, or a container's limit if it is less."""
    amounts = [meminfo_bytes(root).get("MemTotal"), memory_limit_bytes(root)]
    return min((amount for amount in amounts if amount is not None), default=None)


def process_tree() -> list[int]:
    """Numbers of this process and of its descendants, itself first."""
    own = os.getpid()
    if not Path(f"/proc/self/task/{own}/children").exists():
        # A kernel without CONFIG_PROC_CHILDREN: a hundred times slower, over all processes.
        import psutil

        return [own, *(child.pid for child in psutil.Process().children(recursive=True))]
    found = [own]
    for pid in found:  # grows as we go
        for thread in _listed(f"/proc/{pid}/task"):
            children = text(Path(f"/proc/{pid}/task/{thread}/children")) or ""
            found += map(int, children.split())
    return found


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it ended since its parent named it
        return []


def _status_bytes(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status by name; empty for a process that has ended."""
    lines = (text(Path(f"/proc/{pid}/status")) or "").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.startswith("Vm"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _gpu_bytes(sys: Path, pids: list[int]) -> int | None:
    """What a Jetson's GPU holds for these processes: lines of client, name, pid and size."""
    table = text(sys / _GPU_CLIENTS)
    if table is None:
        return None
    rows = (line.split() for line in table.splitlines())
    ours = [
        row for row in rows if len(row) == 4 and row[2].isdecimal() and int(row[2]) in pids
    ]
    return sum(int(row[3][:-1]) * _UNITS[row[3][-1]] for row in ours)
