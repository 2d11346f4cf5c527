"""`edge-train doctor` about GPUs: their lines, and known traps with their cures."""

import re
from dataclasses import replace
from typing import Any

import pytest
from test_doctor import findings

from edge_runtime.cli import doctor
from edge_runtime.cli.doctor import Finding, try_part
from edge_runtime.cli.doctor_traps import find_traps
from edge_runtime.cli.main import main
from edge_runtime.device import gpus
from edge_runtime.engines import Placement
from edge_runtime.schema import unstructure


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What doctor collects here, without trying anything."""
    tried = findings("pictures", "ort", "export")
    monkeypatch.setattr(doctor, "try_part", tried.__getitem__)
    return doctor.collect(device="cpu")


def trial(part: str, gpu: gpus.Gpu | None = None, problem: str = "no") -> dict[str, Any]:
    """A trial on a GPU that failed."""
    finding = Finding(part=part, works=False, did=None, problem=problem)
    return {**unstructure(finding), "gpu": unstructure(gpu)}


ORIN = gpus.Gpu(
    name="Orin",
    kind="integrated",
    driver="NVIDIA 540.4.0",
    api="CUDA 12.6",
    compute_capability="8.7",
)
LLVMPIPE = gpus.Gpu(
    name="llvmpipe", kind="software", driver="Mesa 25.0.7", api="Vulkan 1.4.305"
)
NONE = gpus.Survey(gpus=(), problem="libvulkan.so.1 finds no Vulkan driver")
BY_VULKAN = replace(ORIN, api="Vulkan 1.3.251", compute_capability=None)
REAL = gpus.Survey(gpus=(LLVMPIPE, BY_VULKAN), problem=None)
PLUGIN = {"onnxruntime-ep-webgpu": "0.4.0"}


@pytest.mark.parametrize(
    ("versions", "vulkan", "devices", "closed", "trap"),
    [
        (
            {"onnxruntime": "1", "onnxruntime-training-cpu": "2"},
            NONE,
            [],
            {},
            r"onnxruntime and onnxruntime-training-cpu overwrite each other: keep one .* "
            r"\(pip uninstall onnxruntime onnxruntime-training-cpu\), then install one\.",
        ),
        (
            {"onnxruntime-gpu": "1.31.1"},
            NONE,
            [trial("cuda", ORIN, "CUDA error: no kernel image is available for execution")],
            {},
            r"has no code for compute capability 8\.7 of .* NVIDIA's wheel .* --device webgpu",
        ),
        (
            PLUGIN,
            REAL,
            [
                trial(
                    "webgpu",
                    ORIN,
                    'ORT runtime version "1.24.1" is below the minimum required version',
                )
            ],
            {},
            "needs a newer ONNX Runtime: pip install --upgrade onnxruntime",
        ),
        (
            {"onnxruntime-ep-webgpu": "0.1.0"},
            REAL,
            [],
            {},
            r"ep-webgpu 0\.1\.0 is older than 0\.4\.0, the first that was verified",
        ),
        (
            PLUGIN,
            REAL,
            [trial("webgpu")],
            {"/dev/dri/renderD128": "add this user to the group render"},
            "/dev/dri/renderD128 may not be opened: add this user to the group render",
        ),
        (PLUGIN, NONE, [], {}, r"Vulkan cannot be used: .* \(apt install libvulkan1\)"),
        (
            PLUGIN,
            gpus.Survey(gpus=(LLVMPIPE,), problem=None),
            [],
            {},
            "only llvmpipe, a processor that pretends to be a GPU: --device auto never takes",
        ),
    ],
)
def test_a_known_trap_has_its_cure(versions, vulkan, devices, closed, trap) -> None:
    surveys = {gpus.VULKAN: vulkan, gpus.CUDA: NONE}
    (found,) = find_traps(versions, surveys, devices, closed)
    assert re.search(trap, found)


def test_without_a_trap_nothing_is_said() -> None:
    """Nor about Vulkan and files of a GPU where no runtime would use them."""
    surveys, closed = {gpus.VULKAN: NONE, gpus.CUDA: NONE}, {"/dev/nvmap": "be root"}
    assert find_traps({"onnxruntime": "1.32.0"}, surveys, [], closed) == []
    surveys[gpus.VULKAN] = REAL
    for version in ("0.4.0", "0.10.0", "1.0.0.dev3"):
        devices = [trial("webgpu", ORIN)]
        named = {"onnxruntime-ep-webgpu": version}
        assert find_traps(named, surveys, devices, {}) == []


def on_gpu(gpu: gpus.Gpu | None, placement: Placement | None, *, half: bool) -> dict[str, Any]:
    done = findings("ort")["ort"].did
    assert done is not None
    did = {**done, "placement": unstructure(placement), "half_precision": half}
    finding = Finding(part="webgpu", works=True, did=did, problem=None)
    return {**unstructure(finding), "gpu": unstructure(gpu)}


@pytest.mark.parametrize(
    ("gpu", "placement", "lines"),
    [
        (
            ORIN,
            Placement(on_device=890, on_cpu={"Add": 2, "TopK": 1}),
            [
                "on Orin, integrated, NVIDIA 540.4.0, CUDA 12.6, compute capability 8.7",
                "890 of 893 nodes of the step run on it, and on the CPU 2 Add, 1 TopK: "
                "every step copies",
                "it trains packages of --precision fp16",
            ],
        ),
        (
            LLVMPIPE,
            Placement(on_device=9, on_cpu={}),
            [
                "on llvmpipe, software, Mesa 25.0.7, Vulkan 1.4.305: a processor computes, "
                "slower than engine ort does on it without a GPU",
                "9 of 9 nodes of the step run on it: no copies inside a step",
                "it has no float16 and does not train packages of --precision fp16",
            ],
        ),
        (
            None,
            None,
            [
                "on a GPU whose driver does not give its name",
                "this runtime does not tell which nodes of the step run on it: copies unknown",
                "it trains packages of --precision fp16",
            ],
        ),
    ],
)
def test_a_trial_on_a_gpu_names_it_and_its_copies(facts, gpu, placement, lines) -> None:
    text = doctor.render_text(
        {**facts, "devices": [on_gpu(gpu, placement, half=gpu != LLVMPIPE)]}
    )
    assert "".join(f"\n              {line}" for line in lines) + "\nexport" in text
    assert "also on webgpu (--device)" in text


def test_all_gpus_are_listed_or_why_there_are_none(facts) -> None:
    surveys = {gpus.VULKAN: REAL, gpus.CUDA: gpus.Survey(gpus=(ORIN,), problem=None)}
    text = doctor.render_text({**facts, "gpus": unstructure(surveys)})
    assert (
        "\ngpu           llvmpipe, software, Mesa 25.0.7, Vulkan 1.4.305"
        "\n              Orin, integrated, NVIDIA 540.4.0, Vulkan 1.3.251"
        "\n              Orin, integrated, NVIDIA 540.4.0, CUDA 12.6, compute capability 8.7\n"
    ) in text
    text = doctor.render_text({**facts, "gpus": unstructure({"vulkan": NONE, "cuda": NONE})})
    assert "\ngpu           none found: libvulkan.so.1 finds no Vulkan driver; " in text


def test_one_gpu_can_be_named(monkeypatch, capsys) -> None:
    """The exit code is then about it, too."""
    tried = findings("pictures", "ort") | {
        "cuda:7": Finding(
            part="cuda:7", works=False, did=None, problem="there is no device cuda:7"
        )
    }
    monkeypatch.setattr(doctor, "try_part", tried.__getitem__)
    assert main(["doctor", "--device", "cuda:7"]) == 5
    assert "\ncuda:7        no: there is no device cuda:7\n" in capsys.readouterr().out
    assert main(["doctor", "--device", "cpu"]) == 0
    assert "cuda:7" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cuda:-1", "cuda:99999999999999999999", "cuda:²", "gpu"])
def test_a_device_that_cannot_be_is_refused(monkeypatch, capsys, name: str) -> None:
    assert main(["doctor", "--device", name]) == 2
    assert f"unknown device {name!r}" in capsys.readouterr().err


def test_a_gpu_without_its_runtime_is_a_finding() -> None:
    pytest.importorskip("onnxruntime")
    finding = try_part("cuda:999")
    assert not finding.works
    assert "device cuda:999" in (finding.problem or "")
