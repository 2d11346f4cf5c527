"""Packages that train only the last block: moments of the others do not exist."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

import real_jobs  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import StoppedError  # noqa: E402
from edge_runtime.package import Package  # noqa: E402
from edge_runtime.package.names import EMA, EXP_AVG, EXP_AVG_SQ, PARAM  # noqa: E402
from edge_runtime.records import open_run  # noqa: E402
from edge_runtime.training import TrainingOptions, never, train  # noqa: E402

STEPS = real_jobs.PICTURES // 8
TABLE = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 3, "width": 16, "heads": 1},
    "method": {"name": "mocov3", "projector_width": 16, "projector_out": 8},
    "tokens": {"name": "none"},
    "batch_size": 8,
}
TRAINED = ("encoder.blocks.2.", "encoder.norm.", "projector.", "predictor.")
FROZEN = "encoder.blocks.0.mlp.fc1.weight"


def export(folder: Path, trained: list[str]) -> Package:
    recipe = make_recipe({**TABLE, "trained": trained}, where="test")
    folder.mkdir()
    return export_package(recipe, folder / "package", init=None, report=lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("partial")


@pytest.fixture(scope="module")
def package(folder) -> Package:
    return export(folder / "last", ["last-1"])


def bytes_of_state(package: Package) -> int:
    return sum(value.nbytes for value in package.initial_state().values())


def test_only_parameters_that_some_rung_trains_have_moments(package, folder):
    state = package.initial_state()
    parameters = {name.removeprefix(PARAM) for name in state if name.startswith(PARAM)}
    trained = {name for name in parameters if name.startswith(TRAINED)}
    assert trained < parameters
    for prefix in (EXP_AVG, EXP_AVG_SQ):
        moments = {n.removeprefix(prefix) for n in state if n.startswith(prefix)}
        assert moments == trained
    assert EMA + FROZEN in state  # a teacher is whole
    assert not [name for name in state if name.startswith("updates.")]  # one group: the step
    sizes = {name: value.nbytes for name, value in state.items()}
    left_out = 2 * sum(sizes[PARAM + name] for name in parameters - trained)
    whole = export(folder / "whole", ["all", "last-1"])
    counters = [n for n in whole.initial_state() if n.startswith("updates.")]
    expected = bytes_of_state(whole) - left_out - 4 * len(counters)
    assert bytes_of_state(package) == expected
    assert package.file(package.manifest.state_file).stat().st_size < (
        0.8 * whole.file(whole.manifest.state_file).stat().st_size
    )


def test_a_step_changes_what_the_rung_trains_alone(package):
    before, (rung,) = package.initial_state(), package.manifest.rungs
    with create_engine("ort", threads=1) as engine:
        engine.open(package, before)
        engine.step(rung.id, noise_batch(package, rung.id, 1), hyper_of(package, 1))
        after = engine.snapshot()
    assert after.keys() == before.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == package.manifest.changed_state(rung)
    assert {name for name in before if name.startswith(EXP_AVG)} <= changed
    assert PARAM + FROZEN not in changed
    assert EMA + FROZEN not in changed


def run(package: Package, run_dir: Path, *, stop=never) -> None:
    """Train an epoch; a run that exists goes on."""
    _, source, engine = real_jobs.ort_job(package.path.parent)
    options = TrainingOptions(
        engine=engine,
        rungs=((1, package.manifest.rungs[0].id),),
        epochs=1,
        threads=1,
        resume=True,
        stop=stop,
    )
    for _ in train(package, source, run_dir, options):
        pass


def test_a_stopped_run_resumes_to_the_same_bits(package, tmp_path):
    run(package, tmp_path / "whole")
    asked = itertools.count()
    with pytest.raises(StoppedError):
        run(package, tmp_path / "parts", stop=lambda: next(asked) >= STEPS // 2)
    assert 0 < len(open_run(tmp_path / "parts").steps()) < STEPS
    run(package, tmp_path / "parts")
    runs = [open_run(tmp_path / name) for name in ("whole", "parts")]
    for first, second in zip(*(each.steps() for each in runs), strict=True):
        assert replace(second, measured=first.measured) == first
    file = f"checkpoints/{STEPS}/state.safetensors"
    assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes()
