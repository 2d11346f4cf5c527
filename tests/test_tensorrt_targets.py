"""The frozen encoder of a package on engine `tensorrt`: targets, records, resuming."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch", reason="exports a package")
pytest.importorskip("onnxruntime", reason="trains it")

from early_teacher import table_of
from steps import hyper_of, noise_batch
from teacher_file import write_teacher
from training_fakes import INFO

from edge_export.package.build import export_package
from edge_export.recipe import make_recipe
from edge_runtime.engines import ForwardOptions, create_engine
from edge_runtime.engines.encoders import choose_encoder_engine
from edge_runtime.engines.encoders.targets import Targets
from edge_runtime.errors import EngineError, StoppedError
from edge_runtime.profiling.worker import Noise
from edge_runtime.records import open_run
from edge_runtime.selftest import open_selftest
from edge_runtime.training import TrainingOptions, train
from edge_runtime.within_budget import _forward_engine_of, train_within

TEACHER = {"name": "vit_tiny", "patch_size": 8, "width": 24, "depth": 2, "heads": 3}
SMALL = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2},
    "method": {"name": "distillation"},
    "batch_size": 4,
    "keep_ratios": [0.5],
    "distillation": {"weight": 1.0, "teacher": TEACHER},
}
PICTURES = Noise(16, 16)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    teacher = folder / "teacher.safetensors"
    write_teacher(teacher, make_recipe(SMALL, where="test").frozen_facts())
    return export_package(
        make_recipe(SMALL, where="test"),
        folder / "package",
        init=None,
        teacher=teacher,
        report=lambda *_: None,
    )


def test_targets_are_those_of_ort(package, tensorrt):
    batch = noise_batch(package, "k050", 1)
    found = []
    for name in ("ort", "tensorrt"):
        targets = Targets(package, name, ForwardOptions(threads=1))
        assert targets.engine_text().startswith(f"{name}, ")
        found.append(targets.added_to(batch)["target.global"])
        targets.close()
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    assert tensorrt.cuda.allocations == {}


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """BYOL whose teacher is one step late."""
    recipe = make_recipe(table_of("byol", 1), where="test")
    folder = tmp_path_factory.mktemp("late") / "package"
    return export_package(recipe, folder, init=None, report=lambda *_: None)


def test_a_late_teacher_runs_on_the_gpu_beside_the_step(late, tensorrt, tmp_path):
    """Other weights for each batch, without another engine; the same bytes in turn."""
    assert choose_encoder_engine(late, "auto", ForwardOptions(threads=1)) == "tensorrt"
    builds = tensorrt.builds
    losses = {}
    for name, ahead in (("ort", False), ("tensorrt", False), ("tensorrt", True)):
        with create_engine(threads=1, forward_engine=name) as engine:
            engine.open(late, late.initial_state())
            assert engine.forward_engine.startswith(f"{name}, ")
            batches = [noise_batch(late, "k050", step) for step in range(1, 6)]
            losses[name, ahead] = [
                engine.step(
                    "k050", batch, hyper_of(late, step), following if ahead else None
                ).metrics["loss"]
                for step, (batch, following) in enumerate(pairwise([*batches, None]), start=1)
            ]
    assert losses["tensorrt", True] == losses["tensorrt", False]
    assert losses["tensorrt", True] == pytest.approx(losses["ort", False], rel=1e-5)
    assert tensorrt.builds == builds
    assert tensorrt.cuda.allocations == {}


def train_with(package, folder, forward_engine, **options):
    said = []
    events = list(
        train_within(
            package,
            PICTURES,
            folder,
            rungs=["k050"],
            epochs=1,
            threads=1,
            forward_engine=forward_engine,
            report=said.append,
            **options,
        )
    )
    return events, said


def test_a_run_builds_before_it_begins_and_records_its_engine(package, tensorrt, tmp_path):
    by_ort, _ = train_with(package, tmp_path / "ort", "ort")
    assert tensorrt.builds == 0
    events, said = train_with(package, tmp_path / "run", "auto")
    assert tensorrt.builds == 1
    assert any(line.startswith("building a TensorRT 10.3.0 engine") for line in said)
    text = "tensorrt, TensorRT 10.3.0 on cuda:0"
    assert events[0].forward_engine == open_run(tmp_path / "run").info.forward_engine == text
    assert by_ort[0].forward_engine.startswith("ort, onnxruntime")
    losses = [[e.loss for e in each if hasattr(e, "loss")] for each in (by_ort, events)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_run_goes_on_with_ort_if_the_gpu_gives_other_features(package, tensorrt, tmp_path):
    tensorrt.error = 0.3
    events, said = train_with(package, tmp_path / "run", "auto")
    assert events[0].forward_engine.startswith("ort, ")
    assert any("tensorrt cannot be used, ort is: " in line for line in said)
    with pytest.raises(EngineError, match="off those of engine ort"):
        train_with(package, tmp_path / "named", "tensorrt")
    assert not (tmp_path / "named").exists()


def test_a_build_before_a_run_can_be_stopped(package, tensorrt, tmp_path):
    with pytest.raises(StoppedError, match="nothing is kept"):
        train_with(package, tmp_path / "run", "auto", stop=lambda: tensorrt.builds > 0)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tensorrt")
def test_a_package_without_a_frozen_encoder_records_none(tmp_path):
    package = open_selftest()
    engine = create_engine(threads=1, forward_engine="tensorrt")
    options = TrainingOptions(engine=engine, epochs=1)
    first = next(
        iter(train(package, Noise(package.manifest.batch_size, 16), tmp_path / "run", options))
    )
    assert first.forward_engine is None


def test_what_is_built_is_not_built_again_for_the_step(package, tensorrt):
    options = ForwardOptions(threads=1)
    assert choose_encoder_engine(package, "auto", options) == "tensorrt"
    for _ in range(2):
        Targets(package, "tensorrt", options).close()
    assert tensorrt.builds == 1


@pytest.mark.parametrize(
    ("recorded", "named", "taken", "is_said"),
    [
        (None, "auto", "auto", False),
        ("ort, onnxruntime 1.31.1 on cpu", "auto", "ort", False),
        ("tensorrt, TensorRT 10.3.0 on cuda:0", "auto", "auto", False),
        ("ort, onnxruntime 1.31.1 on cpu", "tensorrt", "tensorrt", True),
        ("ort, onnxruntime 1.31.1 on cpu", "ort", "ort", False),
        ("\x1b[2J", "auto", "auto", False),
    ],
)
def test_a_run_that_is_continued_keeps_ort(recorded, named, taken, is_said):
    said = []
    begun = replace(INFO, forward_engine=recorded)
    assert _forward_engine_of(begun, named, said.append) == taken
    assert bool(said) == is_said
    assert _forward_engine_of(None, named, said.append) == named
