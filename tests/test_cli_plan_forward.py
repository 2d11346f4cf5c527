"""`edge-train plan` where a package's encoder may run on TensorRT: nothing is built."""

from dataclasses import replace

import pytest
import test_cli_plan

from edge_runtime.cli.main import main
from edge_runtime.engines import encoders
from edge_runtime.errors import EngineError
from edge_runtime.profiling import (
    Environment,
    cached_profile_path,
    environment,
    key_of,
    save_profile,
)

package, profile = test_cli_plan.package, test_cli_plan.profile
BOTH = "numpy, TensorRT 10.3.0"
ORIN = "Orin, NVIDIA 540.4.0"


@pytest.fixture
def board(monkeypatch, package):
    """A board with TensorRT, on which a build is an error."""

    def runtime(engine, device, forward_engine):
        return BOTH if forward_engine == "tensorrt" else "numpy"

    def likely(package, name, device):
        return "tensorrt" if name == "auto" else name

    def no_build(*_):
        raise AssertionError("a plan builds nothing")

    monkeypatch.setattr(environment, "engine_runtime", runtime)
    monkeypatch.setattr(environment, "gpu_text", {"cuda:0": ORIN}.get)
    monkeypatch.setattr(encoders, "likely_encoder_engine", likely)
    monkeypatch.setattr(encoders, "Targets", no_build)


def kept(package, profile, **changes):
    """Where the cache has the profile."""
    found = replace(profile, cpus=test_cli_plan.device.usable_cpus(), **changes)
    path = cached_profile_path(package.digest, key_of(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_profile(found, path)
    return path


BY_TENSORRT = {"runtime": BOTH, "gpu": ORIN}


def plan(package, capsys, *words):
    code = main(["plan", str(package.path), "--images", "40", *words])
    written = capsys.readouterr()
    return code, written.out, written.err


@pytest.mark.usefixtures("board")
def test_the_costs_by_tensorrt_come_before_those_by_ort(package, profile, capsys) -> None:
    code, _, error = plan(package, capsys)
    assert code == 4
    assert f"no cost profile of {package.path} on {profile.board} with ort ({BOTH})" in error
    by_ort = kept(package, profile)
    assert f"profile     {by_ort}, of" in plan(package, capsys)[1]
    by_tensorrt = kept(package, profile, **BY_TENSORRT)
    assert f"profile     {by_tensorrt}, of" in plan(package, capsys)[1]
    assert f"profile     {by_ort}, of" in plan(package, capsys, "--forward-engine", "ort")[1]


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize("changes", [{}, BY_TENSORRT])
def test_a_profile_that_is_named_may_be_of_either(package, profile, capsys, changes) -> None:
    path = kept(package, profile, **changes)
    assert plan(package, capsys, "--profile", str(path))[0] == 0


@pytest.mark.usefixtures("board")
def test_a_tensorrt_that_cannot_be_imported_is_left_out(
    package, profile, capsys, monkeypatch
) -> None:
    def runtime(engine, device, forward_engine):
        if forward_engine == "tensorrt":
            raise EngineError("tensorrt cannot be imported")
        return "numpy"

    monkeypatch.setattr(environment, "engine_runtime", runtime)
    kept(package, profile)
    assert plan(package, capsys)[0] == 0
    code, _, error = plan(package, capsys, "--forward-engine", "tensorrt")
    assert (code, "cannot be imported" in error) == (5, True)


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(("forward_engine", "gpu"), [("ort", None), ("tensorrt", ORIN)])
def test_costs_on_the_cpu_are_of_the_gpu_of_the_forward_engine(forward_engine, gpu) -> None:
    here = Environment.detect(forward_engine=forward_engine)
    assert (here.device, here.gpu, here.key.gpu) == ("cpu", gpu, gpu)
