"""Packages that several test files use, and what holds for all tests."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_runtime.package import Package

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRt

# More threads are slower for tensors of this size. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Handle signals as at a terminal, also in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files whose tests export, train or measure for more than some seconds.
SLOW_FILES = {
    "test_build", "test_cli_export", "test_cli_profile", "test_cuda_kernels",
    "test_data_memory",
    "test_declared_state", "test_demo", "test_doctor", "test_energy_runs", "test_engines",
    "test_engine_memory", "test_evaluation_room", "test_flops", "test_growth",
    "test_liveness", "test_measuring_within_budget", "test_micro_batches",
    "test_ort_training_artifacts", "test_package_format", "test_partial_training",
    "test_policies", "test_profiling", "test_ranker_file", "test_report_room", "test_selftest",
    "test_sensor_faults", "test_teacher_first", "test_teacher_overlap",
    "test_tensorrt_graphs", "test_tensorrt_targets",
    "test_training_budget", "test_training_resume", "test_verify",
    "test_wheel",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out, beside tests that say so themselves."""
    for item in items:
        exports = "small_package" in getattr(item, "fixturenames", ())
        if exports or item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """The package of `training_fakes`, which engine `FakeEngine` trains."""
    from training_fakes import write_package

    return write_package(tmp_path / "package")


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No vendor's library and program, whatever this machine has."""
    for module in ("jtop", "pynvml"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "FakeTensorRt":
    """A machine with an NVIDIA GPU, pycuda and TensorRT, and an empty cache."""
    pytest.importorskip("onnxruntime", reason="it computes in place of the GPU")
    from fake_cuda import FakeCuda
    from fake_tensorrt import FakeTensorRt

    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edge_runtime.engines.tensorrt.files._not_written", {})
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    world = FakeTensorRt(cuda)
    world.install(monkeypatch)
    return world


SMALL: dict[str, Any] = {
    "model": {
        "name": "vit_tiny",
        "image_size": 16,
        "patch_size": 4,
        "depth": 3,
        "width": 48,
        "heads": 2,
    },
    "batch_size": 8,
}


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Package]:
    """A package of that method and token policy: 3 blocks, 16 patches, rungs 1.0 and 0.5.

    Method `paired`, which a test has to register, has one block, and additional rungs with
    micro-batches of two pictures.
    """
    pytest.importorskip("torch", reason="exports a package")
    from combinations import keep_ratios
    from ranker_file import ranker_for

    from edge_export.package.build import export_package
    from edge_export.recipe import make_recipe

    folder: Path = tmp_path_factory.mktemp("packages")
    made: dict[tuple[str, str], Package] = {}

    def package(method: str, policy: str) -> Package:
        if (method, policy) not in made:
            parts = {"model": {**SMALL["model"], "depth": 1}, "micro_batches": [2]}
            table = {
                **SMALL,
                **(parts if method == "paired" else {}),
                "method": {"name": method},
                "tokens": {"name": policy},
                "keep_ratios": keep_ratios(method, policy),
            }
            recipe = make_recipe(table, where="test")
            made[method, policy] = export_package(
                recipe,
                folder / f"{method}-{policy}",
                init=None,
                ranker=ranker_for(recipe, folder),
                report=lambda *_: None,
            )
        return made[method, policy]

    return package
