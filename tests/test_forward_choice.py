"""Which forward engine a command takes, and what it says and records about it."""

import sys

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="every forward engine is compared with it")

from tiny_encoder import SIZE_PX, make_package, make_state

from edge_runtime.cli import doctor
from edge_runtime.cli.doctor_text import _finding_text
from edge_runtime.engines import (
    ForwardOptions,
    encoder_weights,
    engine_runtime,
    likely_forward_engine,
    open_forward_engine,
)
from edge_runtime.engines.encoders import choose_encoder_engine
from edge_runtime.errors import ConfigError, EngineError, NoMemoryError, StoppedError


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


def opened(package, name="auto", **options):
    """The engine that is taken, and what was said."""
    said = []
    engine = open_forward_engine(
        package,
        package.manifest.embed,
        encoder_weights(package, make_state(1)),
        name,
        ForwardOptions(threads=1, report=said.append, **options),
    )
    with engine:
        engine.run(np.zeros((2, SIZE_PX, SIZE_PX, 3), np.uint8))
    return engine, said


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize(
    ("device", "gpu"),
    [("cpu", "cuda:0"), ("webgpu", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")],
)
def test_auto_is_tensorrt_where_it_has_a_gpu(package, device, gpu):
    engine, _ = opened(package, device=device)
    assert (engine.name, engine.device) == ("tensorrt", gpu)


def test_auto_is_ort_without_a_gpu(package, tensorrt):
    tensorrt.gpu = None
    engine, said = opened(package)
    assert (engine.name, engine.device, said) == ("ort", "cpu", [])


@pytest.mark.parametrize("missing", ["tensorrt", "pycuda"])
def test_auto_is_ort_where_a_part_is_not_installed(package, tensorrt, monkeypatch, missing):
    monkeypatch.setattr("edge_runtime.engines.tensorrt.api.MODULES", ("json", f"no_{missing}"))
    engine, said = opened(package)
    assert (engine.name, said, tensorrt.builds) == ("ort", [], 0)


@pytest.mark.usefixtures("tensorrt")
def test_a_named_engine_is_taken(package):
    assert opened(package, "ort")[0].name == "ort"
    assert opened(package, "tensorrt")[0].name == "tensorrt"
    with pytest.raises(
        ConfigError, match="unknown forward engine 'x'; known are auto, ort, te"
    ):
        opened(package, "x")


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (lambda world: setattr(world, "error", 0.5), EngineError, "off those of engine ort"),
        (lambda world: world.fails.add("Builder"), EngineError, "CUDA initialization failure"),
        (
            lambda world: world.fails.add("create_execution_context"),
            NoMemoryError,
            "OutOfMemory",
        ),
        (lambda world: setattr(world.cuda, "free_bytes", 0), NoMemoryError, "out of memory"),
    ],
)
def test_auto_falls_back_and_says_why_and_a_named_engine_is_refused(
    package, tensorrt, spoil, kind, reason
):
    spoil(tensorrt)
    engine, said = opened(package)
    assert engine.name == "ort"
    assert said[-1].startswith("forward engine tensorrt cannot be used, ort is: ")
    assert reason in said[-1]
    with pytest.raises(kind, match=reason):
        opened(package, "tensorrt")


@pytest.mark.usefixtures("tensorrt")
def test_auto_does_not_fall_back_when_it_is_stopped(package):
    with pytest.raises(StoppedError):
        opened(package, stop=lambda: True)


def test_auto_does_not_hide_an_error_of_ort(package, tensorrt):
    tensorrt.gpu = None
    package.file(package.manifest.embed).write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"onnxruntime.* cannot load"):
        opened(package)


def test_a_package_without_a_frozen_encoder_builds_nothing(package, tensorrt):
    assert choose_encoder_engine(package, "auto", ForwardOptions()) == "ort"
    assert tensorrt.builds == 0
    with pytest.raises(ConfigError, match="unknown forward engine"):
        choose_encoder_engine(package, "x", ForwardOptions())


@pytest.mark.usefixtures("tensorrt")
def test_costs_are_of_the_forward_engine_too():
    assert likely_forward_engine("auto", "cpu") == "tensorrt"
    assert engine_runtime("ort").startswith("onnxruntime")
    assert "TensorRT" not in engine_runtime("ort")
    both = engine_runtime("ort", forward_engine="tensorrt")
    assert both == f"{engine_runtime('ort')}, TensorRT 10.3.0"


@pytest.mark.usefixtures("tensorrt")
def test_doctor_tries_tensorrt_on_the_gpu_that_may_be_tried():
    assert doctor.tensorrt_parts("auto") == ["tensorrt on cuda:0"]
    assert doctor.tensorrt_parts("cuda:1") == ["tensorrt on cuda:1"]
    assert doctor.tensorrt_parts("cpu") == doctor.tensorrt_parts("webgpu") == []


def test_doctor_does_not_name_tensorrt_where_it_is_not_installed(tensorrt, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert doctor.tensorrt_parts("auto") == []


def test_doctor_shows_what_ran_or_why_not(tensorrt):
    part = "tensorrt on cuda:0"
    did = dict(doctor._trial(part)())
    text = _finding_text({"part": part, "works": True, "did": did, "problem": None})
    failed = {"part": part, "works": False, "did": None}
    assert _finding_text({**failed, "problem": "no memory"}) == "no: no memory"
    assert text.startswith("yes: TensorRT 10.3.0 on cuda:0 loaded a graph in ")
    assert text.endswith(", as one CUDA graph, with features as expected")
    tensorrt.error = 0.2
    with pytest.raises(EngineError, match="computes wrong results: features that are"):
        doctor._trial(part)()
