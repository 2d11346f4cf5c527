"""`--device auto`: the device on which a step takes the least time, by real processes."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measuring_fakes import FakeProcesses, environment, prepare
from test_within_budget import profile_of
from training_fakes import FakeEngine, write_package

from edge_runtime import profiling
from edge_runtime.device.gpus import Gpu
from edge_runtime.errors import ConfigError, RecordsError, StoppedError
from edge_runtime.package import Package
from edge_runtime.profiling import DeviceChoice, choose_device, fastest, save_profile

MALI = Gpu(name="Mali-G610", kind="integrated", driver="panvk 25.3", api="Vulkan 1.4.300")
LAVAPIPE = replace(MALI, name="llvmpipe", kind="software")
Install = Callable[..., FakeProcesses]


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return write_package(tmp_path / "package")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A machine with these GPUs, and a runtime for each."""
    processes = prepare(tmp_path, monkeypatch)
    monkeypatch.setattr(fastest, "create_engine", lambda *_, **__: FakeEngine())

    def with_gpus(**gpus: Gpu | None) -> FakeProcesses:
        found = {name.replace("cuda", "cuda:0"): gpu for name, gpu in gpus.items()}
        monkeypatch.setattr(fastest, "installed_gpus", lambda _: list(found))
        monkeypatch.setattr(fastest, "missing_gpu_text", "{} has no GPU here".format)
        monkeypatch.setattr(fastest, "device_gpu", found.get)
        texts = {name: gpu.text() for name, gpu in found.items() if gpu is not None}
        monkeypatch.setattr(profiling.environment, "gpu_text", texts.get)
        return processes

    return with_gpus


def choose(package: Package, device: str | None = "auto", **given: Any) -> DeviceChoice:
    return choose_device(package, device, **given)


BY_DEVICE = "measured({'cpu': 0.5, 'webgpu': %s, 'cuda:0': %s}[job['device']])"


@pytest.mark.parametrize(
    ("webgpu_s", "cuda_s", "taken"),
    [(0.25, 0.125, "cuda:0"), (0.125, 0.25, "webgpu"), (0.75, 1.0, "cpu")],
)
def test_the_fastest_is_taken_and_said(package, install, webgpu_s, cuda_s, taken) -> None:
    processes = install(webgpu=MALI, cuda=MALI)
    processes.do(k050=BY_DEVICE % (webgpu_s, cuda_s))
    said: list[str] = []
    choice = choose(package, report=said.append)
    assert choice.device == taken
    assert choice.reason == (
        f"a step of k050 takes 500.0 ms on cpu, {1000 * webgpu_s:.1f} ms on webgpu "
        f"(Mali-G610, panvk 25.3), "
        + ("1.00 s" if cuda_s == 1 else f"{1000 * cuda_s:.1f} ms")
        + " on cuda:0 (Mali-G610, panvk 25.3)"
    )
    assert said[-1] == f"--device auto takes {taken}: {choice.reason}"
    jobs = [(job["rung"], job["device"]) for job in processes.jobs]
    assert jobs == [("k050", "cpu"), ("k050", "webgpu"), ("k050", "cuda:0")]  # the cheapest


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        ({}, "no runtime of a GPU is installed"),
        ({"webgpu": LAVAPIPE}, "webgpu is only llvmpipe, a software adapter"),
        ({"webgpu": None}, "webgpu has no GPU here"),
        (
            {"webgpu": LAVAPIPE, "cuda": None},
            "webgpu is only llvmpipe, a software adapter; cuda:0 has no GPU here",
        ),
    ],
)
def test_where_the_cpu_is_alone_nothing_is_measured(package, install, gpus, reason) -> None:
    processes = install(**gpus)
    assert choose(package) == DeviceChoice(device="cpu", reason=reason)
    assert processes.jobs == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("fail('device lost', 5)", "measuring rung k050 of .* failed: device lost"),
        ("os.kill(os.getpid(), 9)", "a step of k050 was killed for memory"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV ended its process"),
    ],
)
def test_a_device_on_which_no_step_runs_is_not_taken(package, install, line, why) -> None:
    processes = install(webgpu=MALI)
    processes.do(k050=f"{line} if job['device'] == 'webgpu' else measured()")
    choice = choose(package)
    assert choice.device == "cpu"
    reason = choice.reason or ""
    assert reason.startswith("a step of k050 takes 500.0 ms on cpu; webgpu does not work: ")
    assert re.search(why, reason)


def test_if_no_step_runs_anywhere_the_cpu_is_taken_and_says_why(package, install) -> None:
    """It evaluates any package, and refuses to train this one."""
    install(webgpu=MALI).do(k050="fail('bad', 5)")
    choice = choose(package)
    assert choice.device == "cpu"
    assert re.match(r"cpu does not work: .* bad.*; webgpu does not work", choice.reason or "")


def test_half_precision_is_timed_on_gpus_alone(package, install, monkeypatch) -> None:
    processes = install(webgpu=MALI)

    class OnGpus(FakeEngine):
        def __init__(self, device: str) -> None:
            super().__init__(unsupported=("k050",) if device == "cpu" else ())

    monkeypatch.setattr(fastest, "create_engine", lambda _, device: OnGpus(device))
    choice = choose(package)
    assert choice.device == "webgpu"
    assert "; cpu does not work: engine fake cannot train" in (choice.reason or "")
    assert [job["device"] for job in processes.jobs] == ["webgpu"]


def test_known_costs_are_not_measured_again(package, install) -> None:
    processes = install(webgpu=MALI)
    here = environment(device="webgpu")
    assert here.gpu == "Mali-G610, panvk 25.3"
    costs = profile_of(package, device="webgpu", gpu=here.gpu)  # k050: 5 ms
    save_profile(costs, here.cached_profile_path(package))
    choice = choose(package)
    assert choice.device == "webgpu"
    assert "5.0 ms on webgpu" in (choice.reason or "")
    assert [job["device"] for job in processes.jobs] == ["cpu"]


def test_costs_of_another_driver_are_not_used(package, install) -> None:
    processes = install(webgpu=MALI)
    old = environment(device="webgpu")
    save_profile(
        profile_of(package, device="webgpu", gpu=old.gpu), old.cached_profile_path(package)
    )
    install(webgpu=replace(MALI, driver="panvk 26.1"))
    choose(package)
    assert [job["device"] for job in processes.jobs] == ["cpu", "webgpu"]


@pytest.mark.parametrize(
    ("device", "recorded", "taken"),
    [
        (None, None, "cpu"),
        ("webgpu", None, "webgpu"),
        (None, "webgpu", "webgpu"),
        ("auto", "webgpu", "webgpu"),
        ("cpu", "webgpu", "cpu"),
        ("cuda", "cuda:0", "cuda:0"),
    ],
)
def test_a_run_keeps_its_device_unless_another_is_named(
    package, install, device, recorded, taken
) -> None:
    processes, said = install(webgpu=MALI), []
    choice = choose(package, device, recorded=recorded, report=said.append)
    assert choice == DeviceChoice(device=taken)
    if device == "cpu" and recorded == "webgpu":
        assert said == ["the run began on device webgpu and goes on with cpu"]
    elif device in (None, "auto") and recorded == "webgpu":
        assert said == ["on device webgpu, as the run began (--device takes another one)"]
    else:
        assert said == []
    assert processes.jobs == []


def test_a_driver_that_hangs_is_given_up(package, install, monkeypatch) -> None:
    monkeypatch.setattr(fastest, "_LONGEST_S", 0.5)
    processes = install(webgpu=MALI)
    processes.do(k050="time.sleep(60) if job['device'] == 'webgpu' else measured()")
    choice = choose(package)
    assert choice.device == "cpu"
    assert "; webgpu does not work: no step of k050 in 0.5 s" in (choice.reason or "")
    assert processes.are_gone()


def test_a_damaged_record_of_the_device_is_no_wrong_flag(package, install) -> None:
    with pytest.raises(RecordsError, match=r"run\.json: device: unknown device 'foo'"):
        choose(package, None, recorded="foo")


def test_a_name_that_cannot_be_is_refused(package, install) -> None:
    with pytest.raises(ConfigError, match="unknown device 'cuda:-1'"):
        choose(package, "cuda:-1")


def test_it_can_be_stopped(package, install) -> None:
    processes = install(webgpu=MALI)
    processes.do(k050="time.sleep(60)")
    with pytest.raises(StoppedError):
        choose(package, stop=processes.begun(1))
    assert processes.are_gone()
