"""What drivers of GPUs say, however broken they are."""

import grp
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stub_drivers
from stub_drivers import DISCRETE, INTEGRATED, SOFTWARE

from edge_runtime.device import gpus
from edge_runtime.engines import device_gpu


@pytest.fixture
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose libraries come first; every question is asked anew."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    gpus.survey.cache_clear()
    yield tmp_path
    gpus.survey.cache_clear()


def test_cuda_gpus_have_a_name_a_capability_and_a_number(drivers: Path) -> None:
    stub_drivers.cuda(drivers)
    orin, a6000 = gpus.survey(gpus.CUDA).gpus
    assert orin.name == "Orin\x1b[2J �"
    assert (orin.kind, orin.api, orin.compute_capability) == ("integrated", "CUDA 12.6", "8.7")
    assert (a6000.name, a6000.kind, a6000.compute_capability) == (
        "RTX A6000",
        "discrete",
        "8.6",
    )
    assert device_gpu("cuda:1") == a6000
    assert device_gpu("cuda:2") is None


@pytest.mark.parametrize(
    ("init", "count", "problem"),
    [
        (100, 0, "the driver of cuda offers no GPU"),
        (0, 0, "the driver of cuda offers no GPU"),
        (999, 0, "NVIDIA's driver fails: cuInit returns 999"),
    ],
)
def test_a_driver_without_a_gpu_is_told(
    drivers: Path, init: int, count: int, problem: str
) -> None:
    stub_drivers.cuda(drivers, init=init, count=count)
    assert gpus.survey(gpus.CUDA) == gpus.Survey(gpus=(), problem=problem)


def test_a_driver_that_counts_too_far_is_not_followed(drivers: Path) -> None:
    stub_drivers.cuda(drivers, count=2**31 - 1)
    assert len(gpus.survey(gpus.CUDA).gpus) == 64


def test_a_library_that_is_no_driver_is_told(drivers: Path) -> None:
    stub_drivers.vulkan(drivers)
    os.rename(drivers / stub_drivers.VULKAN, drivers / stub_drivers.CUDA)
    problem = gpus.survey(gpus.CUDA).problem or ""
    assert problem.startswith("libcuda.so.1 is not NVIDIA's driver: no cuInit")
    (drivers / stub_drivers.CUDA).write_bytes(b"no library")
    gpus.survey.cache_clear()
    assert (gpus.survey(gpus.CUDA).problem or "").startswith("no NVIDIA driver: ")


def test_the_adapter_is_that_which_the_plugin_prefers(drivers: Path) -> None:
    adapters = [("llvmpipe", SOFTWARE), ("Iris", INTEGRATED), ("RTX", DISCRETE), ("?", 77)]
    stub_drivers.vulkan(drivers, *adapters)
    found = gpus.survey(gpus.VULKAN)
    kinds = ["software", "integrated", "discrete", "other"]
    assert [gpu.kind for gpu in found.gpus] == kinds
    assert found.problem is None
    # A driver that gives no text has the number, which NVIDIA packs in a way of its own.
    assert {(gpu.driver, gpu.api) for gpu in found.gpus} == {("540.4.2.0", "Vulkan 1.3.255")}
    assert device_gpu("webgpu") == found.gpus[2]
    assert device_gpu("cpu") is None


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        ("*(volatile int *)0 = 1", "a driver of vulkan crashes (SIGSEGV)"),
        ("_exit(3)", "a driver of vulkan ends the process that asks it (exit code 3)"),
        ("_exit(0)", "a driver of vulkan has ended the process that asked it"),
        ("sleep(60)", "a driver of vulkan does not answer in 2 s"),
    ],
)
def test_a_broken_driver_is_told_and_kills_nothing(
    drivers: Path, monkeypatch: pytest.MonkeyPatch, before: str, problem: str
) -> None:
    monkeypatch.setattr(gpus, "LONGEST_S", 2.0)
    stub_drivers.vulkan(drivers, ("GPU", DISCRETE), before=before)
    broken = gpus.Survey(gpus=(), problem=problem, is_broken=True)
    assert gpus.survey(gpus.VULKAN) == broken


def test_a_driver_that_hangs_ends_with_the_process_that_asked(drivers: Path) -> None:
    """Also when that is killed."""
    stub_drivers.vulkan(drivers, ("GPU", DISCRETE), before="sleep(60)")
    asks = "from edge_runtime.device import gpus; gpus.survey(gpus.VULKAN)"
    with subprocess.Popen([sys.executable, "-c", asks]) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        time.sleep(1.0)  # until it asks the driver
        process.kill()
    deadline_s = time.monotonic() + 5.0
    while (status := Path(f"/proc/{found[0]}/stat")).exists():
        if status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (-9, "libvulkan.so.1 finds no Vulkan driver"),
        (-1, "libvulkan.so.1 cannot be used: vkCreateInstance returns -1"),
    ],
)
def test_a_loader_without_a_driver_is_told(drivers: Path, result: int, problem: str) -> None:
    stub_drivers.vulkan(drivers, result=result)
    assert gpus.survey(gpus.VULKAN).problem == problem


def test_what_a_driver_prints_is_not_taken_for_the_answer(drivers: Path) -> None:
    says = 'printf("{}\\n"); fflush(stdout)'
    stub_drivers.vulkan(drivers, ("GPU", DISCRETE), before=says)
    assert [gpu.name for gpu in gpus.survey(gpus.VULKAN).gpus] == ["GPU"]


def test_a_loader_that_claims_more_than_it_gives_is_not_followed(drivers: Path) -> None:
    stub_drivers.vulkan(drivers, ("GPU", DISCRETE), claimed="4000000000u")
    assert [gpu.name for gpu in gpus.survey(gpus.VULKAN).gpus] == ["GPU"]


@pytest.fixture
def as_a_user() -> Iterator[None]:
    """Without root's right to open everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


OURS = {os.getegid(), *os.getgroups()}
GROUPS = (next(g.gr_gid for g in grp.getgrall() if g.gr_gid not in OURS), 54321)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A /dev with files of a known group, of an unknown one, and of this process's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        modes = {"dri/renderD128": 0o660, "dri/card0": 0o600, "dri/renderD129": 0o666}
        modes |= {"nvhost-gpu": 0o660, "nvmap": 0o600, "null": 0o600, "nvidia0": 0o640}
        for name, mode in modes.items():
            file = Path(folder) / "dev" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            file.chmod(mode)
        os.chown(f"{folder}/dev/dri/renderD128", 0, GROUPS[0])
        os.chown(f"{folder}/dev/nvhost-gpu", 0, GROUPS[1])
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")
def test_files_that_this_user_may_not_open_have_a_cure(closed: Path, as_a_user: None) -> None:
    group = grp.getgrgid(GROUPS[0]).gr_name
    assert gpus.closed_files(closed) == {
        f"{closed}/dev/dri/renderD128": f"add this user to the group {group} "
        f"(sudo usermod -aG {group} USER), log in again",
        f"{closed}/dev/nvhost-gpu": "start the container with --group-add 54321",
        f"{closed}/dev/nvmap": f"pass it into the container (--device {closed}/dev/nvmap)",
        f"{closed}/dev/nvidia0": f"pass it into the container (--device {closed}/dev/nvidia0)",
    }


def test_without_such_files_nothing_is_closed(tmp_path: Path) -> None:
    assert gpus.closed_files(tmp_path) == {}
    os.makedirs(tmp_path / "dev/dri")
    os.mkfifo(tmp_path / "dev/dri/renderD128")  # would wait for a writer
    assert gpus.closed_files(tmp_path) == {}
