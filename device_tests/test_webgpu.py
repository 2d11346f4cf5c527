"""Engine `ort` on a real WebGPU device: Vulkan by lavapipe, Mesa's driver for a processor.

Also by SwiftShader, which Chromium brings, as a device without float16.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
VARIABLE = "EDGE_TRAIN_TEST_WEBGPU"
DRIVERS = Path("/usr/share/vulkan/icd.d")
SWIFTSHADER = "/usr/lib/chromium/vk_swiftshader_icd.json"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package per method and policy, with the losses of the CPU."""
    if given := os.environ.get("EDGE_TRAIN_TEST_PACKAGES"):
        return Path(given)
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run(
        [sys.executable, str(ROOT / "tests/handed_over.py"), str(folder)], check=True
    )
    return folder


def lavapipe() -> str:
    """Its file, which the loader of Vulkan reads."""
    found = sorted(DRIVERS.glob("lvp_icd*.json"))
    if not found:
        pytest.fail(f"{DRIVERS} has no lavapipe: use make test-system")
    return str(found[0])


def on_webgpu(
    *words: str, packages: Path, driver: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run Python in the environment with the plugin; the engine of its tests is on webgpu."""
    driver = driver or lavapipe()
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.fail(f"{VARIABLE} is not an environment with the plugin: use make test-system")
    return subprocess.run(
        [str(Path(folder).absolute() / "bin/python"), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "VK_DRIVER_FILES": driver,
            "VK_ICD_FILENAMES": driver,
            "XDG_RUNTIME_DIR": "/tmp",
            "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
            "EDGE_TRAIN_TEST_DEVICE": "webgpu",
            "EDGE_TRAIN_TEST_PACKAGES": str(packages),
        },
    )


@pytest.mark.parametrize(
    ("tests", "chosen", "least"),
    [
        ("tests/test_engines.py", "ort", 42),  # those of engine ort-training are skipped
        ("tests/test_handed_over.py", "", 35),  # every method and policy, in both precisions
    ],
)
def test_the_contract_of_engines_holds(
    packages: Path, tests: str, chosen: str, least: int
) -> None:
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", chosen)
    done = on_webgpu(*words, packages=packages)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= least, done.stdout


def test_every_graph_of_a_step_is_on_the_device_as_a_whole(packages: Path) -> None:
    """By the runtime's own placement: nothing is copied to the processor inside a step."""
    done = on_webgpu("-c", PLACED, str(packages), packages=packages)
    assert done.returncode == 0, done.stderr
    placed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(placed) >= 30  # graphs: 2 methods x 3 policies, rungs, micro-batches, twice
    for graph, on_device, on_cpu in placed:
        assert on_device > 0, graph
        assert on_cpu == {}, graph


PLACED = """
import json
import sys
from pathlib import Path
from edge_runtime.engines.devices import open_device
from edge_runtime.engines.placement import placement_of
from edge_runtime.package import open_package

device = open_device("webgpu")
for folder in sorted(path.parent for path in Path(sys.argv[1]).glob("*/manifest.json")):
    package = open_package(folder)
    graphs = {each.graph for each in package.manifest.periodic}
    graphs.update(*(rung.graphs.values() for rung in package.manifest.rungs))
    for graph in sorted(graphs):
        placed = placement_of(package, graph, device)
        print(json.dumps([f"{folder.name}/{graph}", placed.on_device, placed.on_cpu]))
"""


@pytest.mark.parametrize("sign", ["random", "one"])
def test_the_gradient_of_a_half_precision_weight_is_right(
    packages: Path, tmp_path: Path, sign: str
) -> None:
    """It sums 8,320 rows: as one sum, it would be off by 1 %, and with one sign by 22 %.

    Each number is rounded by 2**-12 in the mean, and so is the sum at each of its 416 steps:
    at random, sqrt(416) times that, 5e-3.
    """
    export = "import sys; sys.path.insert(0, 'tests'); import onnx, torch; "
    export += "from lowered import lowered; from test_half_sums import gradient; "
    export += "given = torch.zeros(8320, 48), torch.zeros(8320, 40); "
    export += "onnx.save(lowered(gradient, *given), sys.argv[1])"
    model = tmp_path / "gradient.onnx"
    subprocess.run([sys.executable, "-c", export, str(model)], check=True, cwd=ROOT)
    done = on_webgpu("-c", ERROR, str(model), sign, packages=packages)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 5e-3


ERROR = """
import sys
from pathlib import Path
import numpy as np
from edge_runtime.engines.devices import open_device
from edge_runtime.engines.runtime import session_options

rng = np.random.default_rng(0)
draw = rng.standard_normal if sys.argv[2] == "random" else rng.random
x, g = (draw((8320, width)).astype(np.float16).astype(np.float32) for width in (48, 40))
options = session_options(1, spinning=False)
session = open_device("webgpu").create_session(Path(sys.argv[1]), options)
(found,) = session.run(None, {"x0": x, "x1": g})
exact = x.T.astype(np.float64) @ g
print(np.linalg.norm(found - exact) / np.linalg.norm(exact))
"""


@pytest.mark.parametrize("package", ["simclr-random", "simclr-random-fp16"])
def test_a_killed_run_continues_on_the_device(
    packages: Path, tmp_path: Path, package: str
) -> None:
    """The result is that of an undisturbed run, bit for bit."""
    states = []
    for name, kills in (("whole", False), ("killed", True)):
        words = ["-m", "edge_runtime", "run", str(packages / package), "digits"]
        words += ["-o", str(tmp_path / name), "--device", "webgpu", "--keep-ratio", "0.5"]
        words += ["--images", "16", "--epochs", "2", "--checkpoint-every", "0.1s"]
        if kills:
            done = on_webgpu("-c", KILL, *words[2:], packages=packages)
            assert done.returncode == -9, done.stderr
            words.append("--resume")
        done = on_webgpu(*words, packages=packages)
        assert done.returncode == 0, done.stderr
        assert "on ort (onnxruntime " in done.stdout + done.stderr
        states.append((tmp_path / name / "checkpoints/4/state.safetensors").read_bytes())
    assert states[0] == states[1]


KILL = """
import os, signal, sys
from edge_runtime.cli.main import main
from edge_runtime.engines.ort import OrtEngine

class Killed(OrtEngine):
    def step(self, rung_id, batch, hyper, following=None):
        if hyper["step"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(rung_id, batch, hyper)

import edge_runtime.engines.ort
edge_runtime.engines.ort.OrtEngine = Killed
sys.exit(main(sys.argv[1:]))
"""


def test_without_an_adapter_the_cure_is_named(packages: Path, tmp_path: Path) -> None:
    program = "import os; del os.environ['ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER']; " + RUN
    words = ["run", str(packages / "simclr-random"), "digits", "-o", str(tmp_path / "run")]
    done = on_webgpu("-c", program, *words, "--device", "webgpu", packages=packages)
    assert done.returncode == 5
    assert "finds no GPU here. It needs a Vulkan driver and its loader" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_device_without_float16_refuses_half_precision(
    packages: Path, tmp_path: Path
) -> None:
    package = packages / "paired-random-fp16"
    words = ["run", str(package), "digits", "-o", str(tmp_path / "run"), "--device", "webgpu"]
    done = on_webgpu("-c", RUN, *words, packages=packages, driver=SWIFTSHADER)
    assert done.returncode == 5
    assert (
        f"engine ort cannot train {package}: it is of precision fp16, and device webgpu has "
        "no float16: its driver lacks shader-f16. Export it with --precision fp32, or use a "
        "GPU and a driver that have it."
    ) in done.stderr
    assert "[E:onnxruntime" not in done.stderr  # one message
    assert not (tmp_path / "run").exists()


RUN = "import sys; from edge_runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"


def facts_of_doctor(packages: Path) -> dict[str, Any]:
    words = ("-m", "edge_runtime", "doctor", "--json", "--device", "webgpu")
    done = on_webgpu(*words, packages=packages)
    assert done.returncode == 0, done.stderr + done.stdout
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_doctor_names_the_adapter_and_where_the_nodes_of_a_step_run(packages: Path) -> None:
    facts = facts_of_doctor(packages)
    (webgpu,) = facts["devices"]
    assert webgpu["works"], webgpu["problem"]
    assert webgpu["did"]["loss"] == pytest.approx(webgpu["did"]["expected_loss"], rel=1e-4)
    assert "llvmpipe" in webgpu["gpu"]["name"]
    assert webgpu["gpu"]["kind"] == "software"
    assert webgpu["gpu"]["api"].startswith("Vulkan 1.")
    assert webgpu["gpu"] in facts["gpus"]["vulkan"]["gpus"]
    assert webgpu["did"]["placement"]["on_device"] > 100
    assert webgpu["did"]["placement"]["on_cpu"] == {}
    assert webgpu["did"]["half_precision"]
    assert any("--device auto never takes it" in trap for trap in facts["traps"])


def test_a_software_adapter_is_never_taken_by_auto(packages: Path, tmp_path: Path) -> None:
    words = ["run", str(packages / "simclr-random"), "digits", "-o", str(tmp_path / "run")]
    words += ["--images", "16", "--epochs", "1", "--device", "auto", "--json"]
    done = on_webgpu("-m", "edge_runtime", *words, packages=packages)
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout.splitlines()[0])
    assert (started["device"], started["gpu"]) == ("cpu", None)
    reason = started["device_reason"]
    assert re.fullmatch("webgpu is only llvmpipe .*, a software adapter", reason)
    assert f"--device auto takes cpu: {reason}" in done.stderr


def test_a_step_on_the_adapter_is_timed_where_it_is_taken_for_a_gpu(packages: Path) -> None:
    """It is slower than the processor, on which it runs: that is what `auto` finds."""
    done = on_webgpu("-c", TIMED, str(packages / "simclr-random"), packages=packages)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^cpu a step of \S+ takes .* on cpu, .* on webgpu \(llvmpipe", done.stdout
    )


TIMED = """
import sys
from dataclasses import replace
from edge_runtime.package import open_package
from edge_runtime.profiling import choose_device, fastest

real = fastest.device_gpu
fastest.device_gpu = lambda name: (gpu := real(name)) and replace(gpu, kind="discrete")
choice = choose_device(open_package(sys.argv[1]), "auto")
print(choice.device, choice.reason)
"""


def test_eval_gives_nearly_the_same_on_the_device(packages: Path, tmp_path: Path) -> None:
    words = ["run", str(packages / "simclr-random"), "digits", "-o", str(tmp_path / "run")]
    words += ["--images", "16", "--epochs", "1"]
    assert on_webgpu("-m", "edge_runtime", *words, packages=packages).returncode == 0
    scores = []
    for device in ("cpu", "webgpu"):
        words = ["eval", str(tmp_path / "run"), "--train", "digits:test"]
        words += ["--test", "digits:test", "--device", device, "--json"]
        done = on_webgpu("-m", "edge_runtime", *words, packages=packages)
        assert done.returncode == 0, done.stderr
        scores.append(json.loads(done.stdout)["knn"]["accuracy"])
    assert scores[0] == pytest.approx(scores[1], abs=0.01)  # of features that are rounded
