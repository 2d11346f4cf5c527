"""Memory of this process tree and of the machine, in bytes.

Resident memory counts pages that a child shares with its parent in both, as far as both have
touched them: sums err on the side that keeps a memory budget.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device.cgroup import (
    memory_headroom_bytes,
    memory_limit_bytes,
    memory_pressure,
)
from edge_runtime.device.files import sysfs, text
from edge_runtime.device.gpus import gpu_memory
from edge_runtime.device.meminfo import meminfo_bytes
from edge_runtime.device.process import process_tree

_GPU_CLIENTS = "kernel/debug/nvmap/iovmm/clients"  # of a Jetson; only root may read it
_EVERY_S = 1.0  # of a peak's readings: listing all processes costs milliseconds
_UNITS = {"K": 1024, "M": 1024**2}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNow:
    """`None` is unknown."""

    rss_bytes: int  # resident, of this process and of all its descendants
    file_bytes: int  # of these, pages of files, such as libraries, which processes share
    peak_rss_bytes: int  # sum of the peaks of those that are still alive
    swap_bytes: int  # swapped out
    # Of the machine's memory, held by a GPU for these processes; no resident page is in it.
    gpu_bytes: int | None
    card_bytes: int | None  # of a GPU's own memory
    limit_bytes: int | None  # the smallest of the RAM and the container's limits
    available_bytes: int | None  # what is left of the RAM and within those limits
    pressure_avg10: float | None  # % of the last 10 s in which a process waited for memory

    @property
    def held_bytes(self) -> int:
        """What these processes hold now, with the GPU's share where known."""
        return self.rss_bytes + (self.gpu_bytes or 0)

    def has_room_for(self, more_bytes: int) -> bool:
        """Whether they may hold that much more; `True` where the room is unknown."""
        return self.room_bytes is None or self.held_bytes + more_bytes <= self.room_bytes

    @property
    def room_bytes(self) -> int | None:
        """The most that these processes may hold: what they hold, and what is left."""
        if self.available_bytes is None:
            return self.limit_bytes
        room_bytes = self.held_bytes + self.available_bytes
        # Pages that processes share are counted in each of them.
        return room_bytes if self.limit_bytes is None else min(room_bytes, self.limit_bytes)


def memory_now(root: Path = Path("/")) -> MemoryNow:
    """The memory of this process and of its descendants, and of the machine.

    Args:
        root: where /proc and /sys are, except for /proc/PID.
    """
    tree = process_tree()
    gpu = gpu_memory(tree, root)
    of_jetson = _jetson_bytes(sysfs(root), tree)
    statuses = [_status_bytes(pid) for pid in tree]
    available = [meminfo_bytes(root).get("MemAvailable"), memory_headroom_bytes(root)]
    return MemoryNow(
        rss_bytes=sum(status.get("VmRSS", 0) for status in statuses),
        file_bytes=sum(status.get("RssFile", 0) for status in statuses),
        peak_rss_bytes=sum(status.get("VmHWM", 0) for status in statuses),
        swap_bytes=sum(status.get("VmSwap", 0) for status in statuses),
        gpu_bytes=gpu.shared_bytes if of_jetson is None else of_jetson,
        card_bytes=gpu.card_bytes,
        limit_bytes=total_memory_bytes(root),
        available_bytes=min(
            (bytes_ for bytes_ in available if bytes_ is not None), default=None
        ),
        pressure_avg10=memory_pressure(root),
    )


class PeakMemory:
    """The most that these processes held, read once a second.

    The kernel keeps a record of each process's peak, but none of what GPUs held for it.
    """

    def __init__(self) -> None:
        self._read_s = -math.inf
        self._gpu_bytes = 0
        self.card_bytes: int | None = None  # of a GPU's own memory

    def reading(self, now_s: float) -> MemoryNow | None:
        """A new reading, where the last one is a second old."""
        if now_s - self._read_s < _EVERY_S:
            return None
        self._read_s = now_s
        return self._read()

    def peak_bytes(self) -> int:
        """What counts against a memory budget: with the GPU's share, where it is known."""
        return self._read().peak_rss_bytes + self._gpu_bytes

    def _read(self) -> MemoryNow:
        now = memory_now()
        self._gpu_bytes = max(self._gpu_bytes, now.gpu_bytes or 0)
        if now.card_bytes is not None:
            self.card_bytes = max(self.card_bytes or 0, now.card_bytes)
        return now


def process_tree_rss_bytes() -> int:
    """Resident bytes of this process and of all its descendants, now."""
    return sum(_status_bytes(pid).get("VmRSS", 0) for pid in process_tree())


def total_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory of the machine, or of the container if its limit is less."""
    amounts = [meminfo_bytes(root).get("MemTotal"), memory_limit_bytes(root)]
    return min((amount for amount in amounts if amount is not None), default=None)


def _status_bytes(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status by name; empty for a process that has ended."""
    lines = (text(Path(f"/proc/{pid}/status")) or "").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.startswith(("Vm", "RssFile")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _jetson_bytes(sys: Path, pids: list[int]) -> int | None:
    """What a Jetson's GPU holds for these processes: lines of client, name, pid and size."""
    table = text(sys / _GPU_CLIENTS)
    if table is None:
        return None
    rows = (line.split() for line in table.splitlines())
    ours = [
        row for row in rows if len(row) == 4 and row[2].isdecimal() and int(row[2]) in pids
    ]
    return sum(int(row[3][:-1]) * _UNITS[row[3][-1]] for row in ours)
