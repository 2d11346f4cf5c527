"""Memory that GPUs hold for processes: of the machine, or of a card's own."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import fake_board
import pytest

from edge_runtime.device import MemoryNow, PeakMemory, gpus, memory, memory_now
from edge_runtime.device.gpus import memory as gpu_files

MIB = 2**20
OWN = os.getpid()

# As the kernel's drivers write it. Sizes in MiB: (of the machine, of the card).
V3D = """drm-driver:\tv3d
drm-client-id:\t5
drm-engine-render:\t100 ns
drm-total-memory:\t96 MiB
drm-shared-memory:\t0
drm-resident-memory:\t64 MiB
drm-active-memory:\t1 MiB
"""
AMDGPU = """pos:\t0
drm-driver:\tamdgpu
drm-client-id:\t7
drm-pdev:\t0000:03:00.0
drm-memory-vram:\t524288 KiB
drm-memory-gtt: \t16384 KiB
drm-memory-cpu: \t0 KiB
amd-memory-visible-vram:\t524288 KiB
drm-engine-gfx:\t5 ns
"""
XE = """drm-driver:\txe
drm-client-id:\t7
drm-pdev:\t0000:00:02.0
drm-total-system:\t0
drm-total-gtt:\t8 MiB
drm-total-vram0:\t32 MiB
drm-resident-system:\t0
drm-resident-gtt:\t4 MiB
drm-resident-vram0:\t24 MiB
"""
I915 = """drm-driver: i915
drm-client-id: 9
drm-pdev: 0000:00:02.0
drm-total-system0: 3145728
drm-resident-system0: 2097152
drm-total-local0: 1 MiB
drm-resident-stolen-local0: 1 MiB
"""
LIMA = "drm-driver:\tlima\ndrm-client-id:\t3\ndrm-engine-pp: 5 ns\n"  # no memory


def process(root: Path, pid: int, files: dict[int, tuple[str, str]]) -> None:
    """A process's open files: number -> (where it leads, its fdinfo)."""
    for number, (target, info) in files.items():
        link = root / f"proc/{pid}/fd/{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        fake_board.put(root / f"proc/{pid}/fdinfo/{number}", info)


def amounts(root: Path, *pids: int) -> tuple[int | None, int | None]:
    """MiB that a GPU holds of the machine's memory, and of a card's."""
    return tuple(  # type: ignore[return-value]
        None if size is None else size / MIB for size in gpus.gpu_memory(pids, root)
    )


@pytest.mark.parametrize(
    ("info", "held"),
    [
        (V3D, (64, None)),
        (AMDGPU, (16, 512)),
        (XE, (4, 24)),
        (I915, (2, 2)),
        (LIMA, (None, None)),
        ("", (None, None)),
        ("drm-resident-memory: 9223372036854775807 MiB\n", (None, None)),
        (f"drm-resident-memory: {10**30}\n", (None, None)),
        (f"drm-resident-memory: {10**14} MiB\ndrm-resident-vram: 1 MiB\n", (None, 1)),
        ("drm-resident-memory: -5 MiB\ndrm-resident-vram: 5 GiB\n", (None, None)),
        ("drm-resident-memory: ²\ndrm-resident-: 1\n\0\xff:\ndrm-total\n", (None, None)),
    ],
)
def test_the_memory_of_a_driver(tmp_path: Path, info: str, held: tuple[int, int]) -> None:
    process(tmp_path, 7, {3: ("/dev/dri/renderD128", info)})
    assert amounts(tmp_path, 7) == held


def test_a_client_counts_once_however_many_files_and_processes_have_it(tmp_path: Path) -> None:
    other = AMDGPU.replace("id:\t7", "id:\t8")
    same_number = XE  # client 7 of another device
    dri = "/dev/dri/renderD128"
    process(tmp_path, 7, {3: (dri, AMDGPU), 4: (dri, AMDGPU), 5: (dri, same_number)})
    process(tmp_path, 8, {3: (dri, AMDGPU), 9: (dri, other)})
    assert amounts(tmp_path, 7) == (16 + 4, 512 + 24)
    assert amounts(tmp_path, 7, 8) == (16 + 16 + 4, 512 + 512 + 24)


def test_other_files_and_processes_do_not_count(tmp_path: Path) -> None:
    process(tmp_path, 7, {3: ("/home/me/dri", V3D), 4: ("/dev/null", AMDGPU)})
    process(tmp_path, 8, {3: ("/dev/dri/card0", V3D)})
    assert amounts(tmp_path, 7) == (None, None)
    assert amounts(tmp_path, 7, 999_999) == (None, None)  # ended


def test_a_file_that_is_closed_meanwhile_does_not_count(tmp_path: Path) -> None:
    process(tmp_path, 7, {3: ("/dev/dri/card0", V3D), 4: ("/dev/dri/card0", AMDGPU)})
    (tmp_path / "proc/7/fdinfo/3").unlink()
    (tmp_path / "proc/7/fd/5").touch()  # leads nowhere
    assert amounts(tmp_path, 7) == (16, 512)


def test_it_counts_in_the_machines_memory_once(tmp_path: Path) -> None:
    """What a GPU shares with the processor is held beside the resident pages."""
    process(tmp_path, OWN, {3: ("/dev/dri/renderD128", AMDGPU)})
    fake_board.put(tmp_path / "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 100000 kB")
    now = memory_now(tmp_path)
    assert (now.gpu_bytes, now.card_bytes) == (16 * MIB, 512 * MIB)
    assert now.held_bytes == now.rss_bytes + 16 * MIB
    assert now.room_bytes == now.held_bytes + 100_000 * 1024


def test_a_jetsons_table_takes_the_place_of_its_driver(tmp_path: Path) -> None:
    process(tmp_path, OWN, {3: ("/dev/dri/renderD128", V3D)})
    row = f"user python3 {OWN} 12288K"
    fake_board.put(tmp_path / "sys/kernel/debug/nvmap/iovmm/clients", row)
    assert memory_now(tmp_path).gpu_bytes == 12 * MIB


def test_peaks_are_those_of_the_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(gpu_mib: int | None, card_mib: int | None) -> MemoryNow:
        sizes = [None if mib is None else mib * MIB for mib in (gpu_mib, card_mib)]
        changes = {"gpu_bytes": sizes[0], "card_bytes": sizes[1], "peak_rss_bytes": 100 * MIB}
        return types.SimpleNamespace(**changes)  # type: ignore[return-value]

    given = iter([reading(None, None), reading(30, 500), reading(10, None), reading(20, 400)])
    monkeypatch.setattr(memory, "memory_now", lambda: next(given))
    peak = PeakMemory()
    assert [peak.reading(t_s) is None for t_s in (0.0, 0.9, 1.0, 1.5, 2.0)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert peak.peak_bytes() == 130 * MIB
    assert peak.card_bytes == 500 * MIB


def card(root: Path, number: int, total: object, used: object) -> None:
    folder = root / f"sys/class/drm/card{number}/device"
    fake_board.write(folder, {"mem_info_vram_total": total, "mem_info_vram_used": used})


@pytest.mark.parametrize(
    ("cards", "free"),
    [
        ([], None),
        ([(8 * MIB, 3 * MIB)], 5 * MIB),
        ([(8 * MIB, 9 * MIB)], 0),
        ([("much", 0)], None),
        ([(10**30, 0)], None),
        ([(8 * MIB, 3 * MIB), (8 * MIB, 0)], None),  # which one, is not known
    ],
)
def test_what_is_free_on_the_only_card(tmp_path: Path, cards: Any, free: int | None) -> None:
    for number, (total, used) in enumerate(cards):
        card(tmp_path, number, total, used)
    assert gpus.card_free_bytes(tmp_path) == free


class FakeNvml(types.ModuleType):
    """nvidia-ml-py with some GPUs; NVML itself is nowhere without one."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: dict[str, Any]) -> None:
        super().__init__("pynvml")
        self.gpus = gpus

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.gpus:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return self.gpus[index]

    def _processes(self, gpu: Any, kind: str) -> list[Any]:
        if kind not in gpu:
            raise self.NVMLError("not supported")
        return [types.SimpleNamespace(pid=p, usedGpuMemory=used) for p, used in gpu[kind]]

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Any) -> list[Any]:  # noqa: N802
        return self._processes(gpu, "compute")

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Any) -> list[Any]:  # noqa: N802
        return self._processes(gpu, "graphics")

    def nvmlDeviceGetMemoryInfo(self, gpu: Any) -> Any:  # noqa: N802
        if "free" not in gpu:
            raise self.NVMLError("not supported")
        return types.SimpleNamespace(free=gpu["free"])


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch):
    def install(*found: dict[str, Any]) -> None:
        gpu_files._nvml.cache_clear()
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*found))

    yield install
    gpu_files._nvml.cache_clear()


@pytest.mark.parametrize(
    ("found", "held"),
    [
        ([{"compute": [(7, 100 * MIB), (99, MIB)], "graphics": []}], 100),
        # Vulkan is both: the same memory.
        ([{"compute": [(7, 100 * MIB)], "graphics": [(7, 100 * MIB)]}], 100),
        ([{"compute": [(7, MIB)], "graphics": []}] * 2, 2),
        ([{"compute": [(7, None)], "graphics": []}], None),  # as in some containers
        ([{"compute": [(99, MIB)], "graphics": []}], None),  # other process numbers
        ([{}], None),  # a Jetson
        ([], None),
    ],
)
def test_nvidias_driver_says_what_a_card_holds(
    tmp_path: Path, nvml: Any, found: Any, held: int | None
) -> None:
    nvml(*found)
    process(tmp_path, 7, {3: ("/dev/nvidia0", ""), 4: ("/dev/dri/renderD128", V3D)})
    assert amounts(tmp_path, 7) == (64, held)


def test_without_a_file_of_nvidias_its_driver_is_not_asked(tmp_path: Path, nvml: Any) -> None:
    nvml({"compute": [(7, MIB)], "graphics": []})
    process(tmp_path, 7, {3: ("/dev/dri/renderD128", V3D)})
    assert amounts(tmp_path, 7) == (64, None)


def test_what_is_free_on_nvidias_only_card(tmp_path: Path, nvml: Any) -> None:
    nvml({"free": 5 * MIB})
    assert gpus.card_free_bytes(tmp_path) == 5 * MIB
    card(tmp_path, 0, 8 * MIB, 0)  # and one of AMD
    assert gpus.card_free_bytes(tmp_path) is None
    nvml({})  # a Jetson
    assert gpus.card_free_bytes(tmp_path) == 8 * MIB


def test_this_machines_files_can_be_read() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = gpus.gpu_memory([OWN, child.pid])
        assert all(size is None or 0 <= size < 1 << 40 for size in found)
        child.communicate(b"\n")
