import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.device import (
    cpu_threads,
    l4t_release,
    limit_numpy_threads,
    machine_facts,
    process_tree_rss_bytes,
    python_command,
    usable_cpus,
)

MIB = 1 << 20
FREE_CPUS = len(os.sched_getaffinity(0))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_grows_by_what_is_touched() -> None:
    before = process_tree_rss_bytes()
    with mmap.mmap(-1, 64 * MIB) as block:
        for offset in range(0, 64 * MIB, mmap.PAGESIZE):
            block[offset] = 1
        grown = process_tree_rss_bytes() - before
    assert grown == pytest.approx(64 * MIB, rel=0.1)  # the test process itself moves a little


def test_memory_counts_children_of_children() -> None:
    hold = "b = bytearray(b'x') * (48 << 20); print(flush=True); input()"
    nest = f"import subprocess, sys;subprocess.run([sys.executable, '-c', {hold!r}])"
    before = process_tree_rss_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", nest], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert process_tree_rss_bytes() - before > 48 * MIB
        child.communicate(b"\n")


def test_facts_of_this_machine_are_known_and_fit_json() -> None:
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    names = "cpu_model logical_cpus memory_bytes os kernel machine python board"
    assert list(facts) == names.split()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["logical_cpus"] in range(1, FREE_CPUS + 1)


def test_x86_facts_come_from_the_kernels_files(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) N100\n\nprocessor\t: 1\n",
            "proc/meminfo": "MemTotal:       16384 kB\nMemFree:         1024 kB\n",
            "etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12"\n',
        },
    )
    facts = machine_facts(root)
    assert facts["cpu_model"] == "Intel(R) N100"
    assert facts["memory_bytes"] == 16 * MIB
    assert facts["os"] == "Debian GNU/Linux 12"


def test_arm_cores_are_named_by_their_numbers(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    facts = machine_facts(write(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert facts["cpu_model"] == "CPU implementer 0x41, part 0xd42"


def test_what_no_file_has_is_none(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path)
    assert facts["cpu_model"] is None
    assert facts["memory_bytes"] is None
    assert facts["os"] is None
    assert facts["logical_cpus"] == FREE_CPUS


def test_a_machine_without_a_profile_has_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert machine_facts()["board"] is None


@pytest.mark.parametrize(
    "limits",
    [
        {
            "proc/self/cgroup": "0::/box/inner\n",
            "sys/fs/cgroup/box/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/box/inner/memory.max": "max\n",
            "sys/fs/cgroup/box/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/box/memory.max": "1048576\n",
        },
        {
            "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n0::/\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1048576\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        {  # a container whose own group is mounted as the root
            "proc/self/cgroup": "5:memory:/docker/1f\n4:cpu:/docker/1f\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n",
        },
    ],
    ids=["v2, limit outside", "v1", "v1, container"],
)
def test_a_containers_limits_count(tmp_path: Path, limits: dict[str, str]) -> None:
    root = write(tmp_path, {"proc/meminfo": "MemTotal: 16384 kB\n", **limits})
    facts = machine_facts(root)
    assert facts["logical_cpus"] == 1
    assert facts["memory_bytes"] == MIB


def test_a_part_of_a_processor_is_used_too(tmp_path: Path) -> None:
    limits = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}
    assert machine_facts(write(tmp_path, limits))["logical_cpus"] == min(2, FREE_CPUS)
    assert usable_cpus(tmp_path) == min(1.5, FREE_CPUS)
    assert cpu_threads(tmp_path) == min(2, FREE_CPUS)


@pytest.mark.parametrize(
    "limits",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_without_a_quota_all_processors_are_used(
    tmp_path: Path, limits: dict[str, str]
) -> None:
    assert machine_facts(write(tmp_path, limits))["logical_cpus"] == FREE_CPUS


def test_no_limit_of_version_1_is_not_more_than_the_machines_memory(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 16384 kB\n",
        "proc/self/cgroup": "5:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert machine_facts(write(tmp_path, files))["memory_bytes"] == 16 * MIB


LIMITED = """
import os
from edge_runtime.cli.main import main
from edge_runtime.device import cpu_threads
words = ["eval", "/nowhere", "--train", "digits", "--test", "digits", *sys.argv[1:]]
assert main(words) == 6
print(os.environ["OPENBLAS_NUM_THREADS"], cpu_threads())
"""


@pytest.mark.parametrize("flags", [[], ["--threads", "7"]])
def test_eval_limits_numpy_before_it_is_imported(flags, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    command = python_command(LIMITED, *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    limit, usable = done.stdout.split()
    assert limit == (flags[1] if flags else usable)


def test_a_limit_of_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.delitem(sys.modules, "numpy")
    limit_numpy_threads(1)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("content", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n", "36.4.3"),
        ("# R39 (release), REVISION: 2.0, GCID: 1\n", "39.2.0"),
        ("", None),
        ("something else", None),
        (None, None),
    ],
)
def test_the_release_of_a_jetson(tmp_path, content, release) -> None:
    (tmp_path / "etc").mkdir()
    if content is not None:
        (tmp_path / "etc/nv_tegra_release").write_text(content)
    assert l4t_release(tmp_path) == release
