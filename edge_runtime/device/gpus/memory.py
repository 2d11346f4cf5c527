"""Memory that GPUs hold for processes, in bytes: of the machine, or of a card's own.

The kernel's DRM drivers say it in /proc/PID/fdinfo, by client (the kernel's document "DRM
client usage stats"). NVIDIA's driver says it to nvidia-ml-py, where that is installed. What no
driver says is unknown.
"""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.device.files import sysfs, text

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
_SIZE = re.compile(r"drm-(resident|memory|total)-(\S+):\s*(\d{1,15})\s*(KiB|MiB|)")
_IDENTITY = ("drm-pdev", "drm-driver", "drm-client-id")
_KEYS = ("resident", "memory", "total")  # the first that a driver gives
_OF_A_CARD = ("vram", "local", "stolen-local")  # regions, as their names begin
_MOST_BYTES = 1 << 50


class GpuMemory(NamedTuple):
    """Memory that GPUs hold for some processes. `None` is unknown."""

    shared_bytes: int | None  # of the machine's memory; no process counts it as resident
    card_bytes: int | None  # of the cards' own memory


def gpu_memory(pids: Sequence[int], root: Path = Path("/")) -> GpuMemory:
    """What GPUs hold for these processes now.

    Args:
        pids: of the processes.
        root: where /proc is.
    """
    clients: dict[tuple[str, ...], dict[str, int]] = {}
    uses_nvidia = False
    for pid in pids:
        folder = root / f"proc/{pid}"
        for number, target in _open_files(folder / "fd"):
            uses_nvidia |= target.startswith("/dev/nvidia")
            if target.startswith("/dev/dri/"):
                found = text(folder / "fdinfo" / number) or ""
                clients.setdefault(_client(found, pid, number), _regions(found))
    sizes = [item for regions in clients.values() for item in regions.items()]
    of_cards = [size for region, size in sizes if region.startswith(_OF_A_CARD)]
    shared = [size for region, size in sizes if not region.startswith(_OF_A_CARD)]
    if uses_nvidia and (nvidia := _nvidia_bytes(pids)) is not None:
        of_cards.append(nvidia)
    return GpuMemory(sum(shared) if shared else None, sum(of_cards) if of_cards else None)


def _open_files(folder: Path) -> Iterator[tuple[str, str]]:
    """The numbers of a process's open files, and where they lead."""
    try:
        numbers = os.listdir(folder)
    except OSError:  # it has ended, or belongs to another user
        return
    for number in numbers:
        try:
            yield number, os.readlink(folder / number)
        except OSError:  # closed a moment ago
            continue


def _client(found: str, pid: int, number: str) -> tuple[str, ...]:
    """Who holds the memory: files that were duplicated or inherited are one client."""
    lines = dict(line.partition(":")[::2] for line in found.splitlines())
    if "drm-client-id" not in lines:
        return str(pid), number
    return tuple(lines.get(key, "").strip() for key in _IDENTITY)


def _regions(found: str) -> dict[str, int]:
    """Bytes by memory region, by the best key that the driver gives for each."""
    sizes: dict[str, dict[str, int]] = {}
    for line in found.splitlines():
        if match := _SIZE.fullmatch(line.strip()):
            key, region, number, unit = match.groups()
            size = int(number) * _UNITS[unit]
            if size <= _MOST_BYTES:
                sizes.setdefault(region, {})[key] = size
    return {
        region: next(known[key] for key in _KEYS if key in known)
        for region, known in sizes.items()
    }


def card_free_bytes(root: Path = Path("/")) -> int | None:
    """What is free of the memory of the machine's only card; `None`: unknown, or several."""
    cards = [*_nvidia_free_bytes(), *_amd_free_bytes(sysfs(root))]
    return cards[0] if len(cards) == 1 else None


def _amd_free_bytes(sys: Path) -> Iterator[int]:
    for total in sorted(sys.glob("class/drm/card*/device/mem_info_vram_total")):
        numbers = [text(total), text(total.with_name("mem_info_vram_used"))]
        if all(number and re.fullmatch(r"\d{1,15}", number) for number in numbers):
            size, used = (int(number or 0) for number in numbers)
            yield max(0, size - used)


@cache
def _nvml() -> tuple[Any, tuple[Any, ...]] | None:
    """The module, connected, and its GPUs; `None` without it, or without a driver."""
    try:
        import pynvml
    except (ImportError, OSError, RuntimeError):  # also of a broken installation
        return None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return pynvml, tuple(pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count))
    except (pynvml.NVMLError, AttributeError, OSError):
        return None


def _nvidia_bytes(pids: Sequence[int]) -> int | None:
    """Unknown also in a container with process numbers of its own: none of ours is found."""
    connected = _nvml()
    if connected is None:
        return None
    module, gpus = connected
    used: dict[tuple[int, int], int] = {}
    for index, gpu in enumerate(gpus):
        try:
            running = [
                *module.nvmlDeviceGetComputeRunningProcesses(gpu),
                *module.nvmlDeviceGetGraphicsRunningProcesses(gpu),
            ]
        except module.NVMLError:  # a Jetson's, for one
            continue
        for process in running:
            if process.pid in pids and process.usedGpuMemory is not None:
                used[index, process.pid] = process.usedGpuMemory
    return sum(used.values()) if used else None


def _nvidia_free_bytes() -> Iterator[int]:
    connected = _nvml()
    if connected is None:
        return
    module, gpus = connected
    for gpu in gpus:
        try:
            yield module.nvmlDeviceGetMemoryInfo(gpu).free
        except module.NVMLError:
            continue
