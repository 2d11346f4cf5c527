"""Artifacts of the official training API: published where they are right, else left out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")
pytest.importorskip("onnxruntime.training.artifacts", reason="it generates the artifacts")

from combinations import METHODS_AND_POLICIES, WITHOUT_ARTIFACTS  # noqa: E402
from reference_engine import program_of  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.objectives.base import Defaults  # noqa: E402
from edge_export.objectives.simsiam import SimSiam  # noqa: E402
from edge_export.ort_training import artifacts as ort_training  # noqa: E402
from edge_export.package import verify  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import EngineError  # noqa: E402
from edge_runtime.package import Package, open_package  # noqa: E402
from edge_runtime.package.names import EXP_AVG, PARAM  # noqa: E402

UPDATE = "graphs/update.onnx"
TABLE = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1},
    "method": {"name": "mocov3", "projector_width": 16, "projector_out": 8},
    "batch_size": 4,
    "keep_ratios": [1.0, 0.5],
}


class TaughtSimSiam(SimSiam):
    """With a teacher, which makes the package have `UPDATE`."""

    name = "taught-simsiam"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2, ema_momentum=0.9)

    def __init__(self, model, options):
        super().__init__(model, options)
        self.declaration = replace(self.declaration, teacher=("encoder.",))


@pytest.fixture(autouse=True)
def small_effort(monkeypatch):
    monkeypatch.setattr(verify, "TRIES", 2)


def export(folder: Path, **table: Any) -> Package:
    recipe = make_recipe({**TABLE, **table}, where="test")
    return export_package(recipe, folder / "package", init=None, report=lambda *_: None)


def assert_without_artifacts(package: Package) -> None:
    """No trace of artifacts, and each rung trains on engine `ort` as the files say."""
    manifest = package.manifest
    assert (manifest.ort_training.checkpoint, manifest.ort_training.update) == (None, None)
    assert [rung.ort_training for rung in manifest.rungs] == [None] * len(manifest.rungs)
    files = {
        str(path.relative_to(package.path))
        for path in package.path.rglob("*")
        if path.is_file()
    }
    assert not [name for name in files if name.startswith("ort_training") or name == UPDATE]
    assert not (package.path / "ort_training").exists()
    assert manifest.sha256.keys() | {"manifest.json"} == files
    assert manifest.graphs.keys() <= files
    assert "ort_training/" not in json.dumps(list(manifest.sha256))
    reopened = open_package(package.path)
    state = reopened.initial_state()
    with create_engine("ort", threads=1) as engine:
        engine.open(reopened, state)
        for step, rung in enumerate(manifest.rungs, start=1):
            batch = noise_batch(reopened, rung.id, step)
            assert np.isfinite(
                engine.step(rung.id, batch, hyper_of(reopened, step)).metrics["loss"]
            )
        after = engine.snapshot()
    weight = "encoder.blocks.0.mlp.fc1.weight"
    assert np.any(after[EXP_AVG + weight])
    assert not np.array_equal(after[PARAM + weight], state[PARAM + weight])
    with pytest.raises(EngineError, match=r"cannot train .*package"):
        create_engine("ort-training").open(reopened, state)


def test_a_stop_gradient_has_no_artifacts(monkeypatch, tmp_path):
    """ONNX has no operator that stops a gradient; ONNX Runtime's backward pass goes on."""
    monkeypatch.setitem(OBJECTIVES, TaughtSimSiam.name, TaughtSimSiam)
    package = export(tmp_path, method={**TABLE["method"], "name": TaughtSimSiam.name})
    refused = package.manifest.ort_training.refused
    assert "the gradients of ONNX Runtime's own backward pass are not PyTorch's" in refused
    assert "rung k100 on engine ort-training" in refused
    assert "gradient of " in refused
    assert_without_artifacts(package)


@pytest.mark.parametrize("failing", [1, 2], ids=["first rung", "second rung"])
def test_a_generator_that_fails_leaves_a_package_without_artifacts(
    monkeypatch, tmp_path, failing
):
    original, calls = ort_training.artifacts, []

    def artifacts(*given):
        calls.append(given)
        if len(calls) == failing:
            raise EngineError("generate_artifacts failed on the forward graph: no gradient")
        return original(*given)

    monkeypatch.setattr(ort_training, "artifacts", artifacts)
    package = export(tmp_path)
    assert len(calls) == failing
    assert package.manifest.ort_training.refused == (
        "generate_artifacts failed on the forward graph: no gradient"
    )
    assert_without_artifacts(package)


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        *(pair for pair in METHODS_AND_POLICIES if pair[0] not in WITHOUT_ARTIFACTS),
        ("simclr", "random+simprune"),
    ],
)
def test_every_built_in_recipe_that_may_has_artifacts(small_package, method, policy):
    package = small_package(method, policy)
    manifest = package.manifest
    if (refused := ort_training.refusal(program_of(package))) is not None:
        assert manifest.ort_training.refused == refused
        assert_without_artifacts(package)
        return
    assert manifest.ort_training.refused is None
    assert manifest.ort_training.checkpoint == ort_training.CHECKPOINT
    assert all(rung.ort_training is not None for rung in manifest.rungs)
    teacher = any(spec.name.startswith("ema.") for spec in manifest.state)
    assert manifest.ort_training.update == (UPDATE if teacher else None)
    assert package.file(ort_training.CHECKPOINT).is_file()
