"""The kernel enforces a memory limit, and edge-train reads it."""

import subprocess
import sys
from pathlib import Path

from device_tests.cgroup import MemoryGroup, memory_cgroup

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
LIMIT_BYTES = 96 * MIB
HOLD = (
    "import sys; held = bytearray(int(sys.argv[1])); held[::4096] = b'x' * len(held[::4096])"
)
SEEN = (
    "from edge_runtime.device import machine_facts, memory_now\n"
    "now = memory_now()\n"
    "print(machine_facts()['memory_bytes'], now.limit_bytes, now.available_bytes)"
)


def run_inside(
    group: MemoryGroup, code: str, *words: str
) -> "subprocess.CompletedProcess[str]":
    command = group.command([sys.executable, "-c", code, *words])
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_process_below_the_limit_survives() -> None:
    with memory_cgroup(LIMIT_BYTES) as group:
        assert run_inside(group, HOLD, str(32 * MIB)).returncode == 0
        assert group.kills == 0
        assert 32 * MIB < group.peak_bytes < LIMIT_BYTES


def test_a_process_above_the_limit_is_killed() -> None:
    with memory_cgroup(LIMIT_BYTES) as group:
        assert run_inside(group, HOLD, str(128 * MIB)).returncode == -9
        assert group.kills == 1
        assert group.peak_bytes <= LIMIT_BYTES


def test_only_the_child_that_prefers_it_is_killed() -> None:
    """As in profiling: the parent survives and gets the exit code."""
    parent = (
        "import subprocess, sys\n"
        "from edge_runtime.device import prefer_oom_kill\n"
        f"child = {HOLD!r}\n"
        "child = 'from edge_runtime.device import prefer_oom_kill\\n'"
        " 'prefer_oom_kill()\\n' + child\n"
        "print(subprocess.run([sys.executable, '-c', child, sys.argv[1]]).returncode)"
    )
    with memory_cgroup(LIMIT_BYTES) as group:
        done = run_inside(group, parent, str(128 * MIB))
        assert (done.returncode, done.stdout.strip(), group.kills) == (0, "-9", 1)


def test_edge_train_sees_the_limit() -> None:
    with memory_cgroup(LIMIT_BYTES) as group:
        done = run_inside(group, SEEN)
    memory_bytes, limit_bytes, available_bytes = map(int, done.stdout.split())
    assert memory_bytes == limit_bytes == LIMIT_BYTES
    assert 0 < available_bytes < LIMIT_BYTES


def test_nothing_is_left_behind() -> None:
    with memory_cgroup(LIMIT_BYTES) as group:
        sleeper = subprocess.Popen(group.command(["sleep", "60"]))
        while str(sleeper.pid) not in (group.folder / "cgroup.procs").read_text().split():
            pass
    assert sleeper.wait(5) == -9
    assert not group.folder.exists()


def test_the_controller_is_mounted_where_it_is_not() -> None:
    """In a mount namespace without any control groups."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    places = [place for place in reversed(mounts) if place.startswith("/sys/fs/cgroup")]
    script = "".join(f"umount {place}\n" for place in places) + 'exec "$@"'
    code = (
        "from device_tests.test_cgroup import *\n"
        "import device_tests.cgroup as cgroup\n"
        "assert cgroup._mounted() == []\n"
        "test_a_process_above_the_limit_is_killed()\n"
        "test_edge_train_sees_the_limit()\n"
        "assert cgroup._mounted() == []"
    )
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
