"""Memory of the process tree, of containers and of a Jetson's GPU."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fake_board
import pytest

from edge_runtime.device import memory_now, process_tree_rss_bytes
from edge_runtime.device.process import process_tree

MIB = 2**20
HOLD = "b = bytearray(b'x') * ({mib} << 20)"


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that runs `code` and then waits for the end of the block."""
    code += "; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate(b"\n")


def test_a_peak_stays_when_the_memory_is_given_back() -> None:
    before = memory_now()
    with child(HOLD.format(mib=48) + "; del b"):
        now = memory_now()
    assert now.peak_rss_bytes - before.peak_rss_bytes > 48 * MIB
    assert now.rss_bytes - before.rss_bytes < 40 * MIB
    assert now.rss_bytes <= now.peak_rss_bytes


def test_the_tree_is_this_process_and_its_descendants() -> None:
    nested = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'])"
    with child(nested) as process:
        tree = process_tree()
        assert tree[:1] == [os.getpid()]
        assert process.pid in tree
        assert len(tree) >= 3
        assert process_tree_rss_bytes() <= memory_now().peak_rss_bytes
    assert process.pid not in process_tree()


def test_children_of_every_thread_count() -> None:
    are_listed: list[bool] = []

    def work() -> None:
        with child("pass") as process:
            are_listed.append(process.pid in process_tree())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert are_listed == [True]


def test_without_the_kernels_list_of_children_the_tree_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with child("pass"):
        usual = process_tree()
        monkeypatch.setattr(Path, "exists", lambda _: False)
        assert process_tree() == usual


def test_a_tree_of_machines_files_gives_what_exists_and_what_is_left(tmp_path: Path) -> None:
    meminfo = "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable:  6000 kB\nHugePages_Total: 0"
    fake_board.put(tmp_path / "proc/meminfo", meminfo)
    fake_board.put(tmp_path / "proc/pressure/memory", "some avg10=1.25 avg60=0.00 total=5")
    now = memory_now(tmp_path)
    assert now.limit_bytes == 8000 * 1024
    assert now.available_bytes == 6000 * 1024
    assert now.pressure_avg10 == 1.25
    assert (now.gpu_bytes, now.card_bytes) == (None, None)
    assert now.held_bytes == now.rss_bytes


def test_what_no_file_has_is_unknown(tmp_path: Path) -> None:
    now = memory_now(tmp_path)
    assert (now.limit_bytes, now.available_bytes, now.pressure_avg10) == (None, None, None)
    assert now.rss_bytes > MIB


V2 = {
    "proc/self/cgroup": "0::/box/inner",
    "sys/fs/cgroup/box/memory.max": 4 * MIB,
    "sys/fs/cgroup/box/memory.current": 3 * MIB,
    "sys/fs/cgroup/box/memory.stat": f"anon 5\ninactive_file {MIB}\nactive_file 7",
    "sys/fs/cgroup/box/inner/memory.max": "max",
    "sys/fs/cgroup/box/inner/memory.current": MIB,
    "sys/fs/cgroup/box/inner/memory.pressure": "some avg10=7.50 avg60=0.00 total=5",
}
V1 = {
    "proc/self/cgroup": "4:memory:/box\n0::/",
    "sys/fs/cgroup/memory/box/memory.limit_in_bytes": 4 * MIB,
    "sys/fs/cgroup/memory/box/memory.usage_in_bytes": 3 * MIB,
    "sys/fs/cgroup/memory/box/memory.stat": (
        f"inactive_file 9\nhierarchical_memory_limit 1\ntotal_inactive_file {MIB}"
    ),
    "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
    "sys/fs/cgroup/memory/memory.usage_in_bytes": 99 * MIB,
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0",
}


HIGH = {
    **V2,
    "sys/fs/cgroup/box/memory.max": 9 * MIB,
    "sys/fs/cgroup/box/memory.high": 4 * MIB,
    "sys/fs/cgroup/box/inner/memory.high": "max",
}


@pytest.mark.parametrize("files", [V2, V1, HIGH], ids=["v2", "v1", "memory.high"])
def test_a_containers_limit_is_what_exists(tmp_path: Path, files: dict[str, object]) -> None:
    meminfo = "MemTotal: 16384 kB\nMemAvailable: 12288 kB"
    fake_board.write(tmp_path, {"proc/meminfo": meminfo, **files})
    now = memory_now(tmp_path)
    assert now.limit_bytes == 4 * MIB
    assert now.available_bytes == 2 * MIB  # files that were read can be dropped
    assert now.pressure_avg10 == (None if files is V1 else 7.5)
    assert now.room_bytes == 4 * MIB  # of which this process holds more, outside


def test_the_memory_that_a_process_may_hold_is_its_own_and_what_is_left(
    tmp_path: Path,
) -> None:
    fake_board.put(tmp_path / "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 100000 kB")
    now = memory_now(tmp_path)
    assert now.room_bytes == now.rss_bytes + 100_000 * 1024
    assert replace(now, available_bytes=None).room_bytes == now.limit_bytes


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {**V2, "sys/fs/cgroup/box/memory.current": 9 * MIB}
    assert memory_now(fake_board.write(tmp_path, files)).available_bytes == 0


def test_a_jetsons_gpu_reports_its_memory_of_this_process(tmp_path: Path) -> None:
    rows = [
        "CLIENT                        PROCESS      PID        SIZE",
        f"user                     python3     {os.getpid()}    12288K",
        "user                         Xorg     1         999K",
        f"user                     python3     {os.getpid()}    2M",
        "total                                          15335K",
    ]
    path = tmp_path / "sys/kernel/debug/nvmap/iovmm/clients"
    fake_board.put(path, "\n".join(rows))
    now = memory_now(tmp_path)
    assert now.gpu_bytes == 14 * MIB
    assert now.held_bytes == now.rss_bytes + 14 * MIB


def test_this_machines_files_can_be_read() -> None:
    now = memory_now()
    assert now.limit_bytes is not None
    assert now.available_bytes is not None
    assert 0 < now.available_bytes <= now.limit_bytes
    assert now.swap_bytes >= 0
