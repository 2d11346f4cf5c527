"""The package inside edge-train: its content, that it is up to date, and its use."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import selftest
from edge_runtime.engines import ENGINES, create_engine
from edge_runtime.errors import EngineError, PackageError
from edge_runtime.package import open_package
from edge_runtime.selftest import example_batch, open_selftest, read_expected, try_engine

MOST_BYTES = 2_000_000
OFFICIAL_CHECKPOINT = "ort_training/checkpoint"


def test_the_package_is_small_and_complete() -> None:
    package = open_selftest()
    files = [path for path in selftest.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    manifest = package.manifest
    assert (manifest.model.depth, manifest.model.image_size_px) == (2, 16)
    assert (manifest.method, manifest.token_policy) == ("simclr", "random")
    assert [rung.keep_ratio for rung in manifest.rungs] == [1.0, 0.75, 0.5]
    assert all(rung.ort_training is not None for rung in manifest.rungs)
    assert manifest.ort_training.refused is None
    described = {package.file(name) for name in manifest.sha256} | {
        package.file("manifest.json")
    }
    assert {path for path in selftest.PACKAGE.rglob("*") if path.is_file()} == described


def test_the_batch_is_the_same_on_every_machine() -> None:
    package = open_selftest()
    batch = example_batch(package, package.rung("k050"))
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "images.global": ("uint8", (2, 64, 16, 16, 3)),
        "keep.global": ("int64", (2, 64, 8)),
    }
    kept = batch["keep.global"]
    assert (np.diff(kept) > 0).all()  # a sorted subset
    assert (kept.min(), kept.max()) == (0, 15)
    content = b"".join(batch[name].tobytes() for name in sorted(batch))
    assert hashlib.sha256(content).hexdigest().startswith("e5134a692ffe39bf")


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_pytorchs_results(name: str) -> None:
    try:
        create_engine(name)
    except EngineError as error:
        pytest.skip(str(error))
    trial = try_engine(name, threads=1)
    assert (trial.engine, trial.rung) == (name, "k050")
    assert trial.runtime.startswith("onnxruntime")
    assert trial.loss == pytest.approx(trial.expected_loss, rel=1e-5)
    assert 0 < trial.step_s < 60
    assert 0 < trial.embedding_s < 60


class Broken:
    """A real engine with one fault."""

    def __init__(self, fault: str) -> None:
        self.engine, self.fault = create_engine("ort", threads=1), fault
        self.name, self.runtime = self.engine.name, self.engine.runtime

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.close()

    def open(self, package, state):
        self.engine.open(package, state)

    def step(self, rung_id, batch, hyper, following=None):
        result = self.engine.step(rung_id, batch, hyper)
        loss = result.metrics["loss"]
        wrong = {"nan": float("nan"), "loss": 1.001 * loss}
        return result._replace(metrics={"loss": wrong.get(self.fault, loss)})

    def snapshot(self):
        if self.fault == "idle":
            return open_selftest().initial_state()
        state = dict(self.engine.snapshot())
        if self.fault == "overflow":
            state["exp_avg.projector.1.bias"][0] = np.inf
        return state


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss", r"loss 5\.\d+ instead of 5\.\d+"),
        ("nan", r"loss nan instead of 5\.\d+"),
        ("idle", "the step changed no parameter"),
        ("overflow", r"exp_avg\.projector\.1\.bias is not finite after the step"),
    ],
)
def test_a_broken_engine_is_refused(monkeypatch, fault: str, message: str) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(selftest, "create_engine", lambda name, device, threads: Broken(fault))
    with pytest.raises(EngineError, match=f"computes wrong results: {message}. Install"):
        try_engine("ort", threads=1)


def test_wrong_features_are_refused(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    table = json.loads(selftest.EXPECTED.read_text())
    table["features"][7] += 0.01
    monkeypatch.setattr(selftest, "EXPECTED", tmp_path / "expected.json")
    selftest.EXPECTED.write_text(json.dumps(table))
    with pytest.raises(EngineError, match=r"wrong results: features that are 0\.01 off"):
        try_engine("ort", threads=1)


def test_a_half_installed_edge_train_is_explained(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(selftest, "EXPECTED", tmp_path / "expected.json")
    with pytest.raises(PackageError, match=r"cannot be read .* Install edge-train again"):
        read_expected()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The self-test package and its expected results, exported in this environment."""
    pytest.importorskip("torch", reason="exports a package")
    from edge_export.ort_training import artifacts as ort_training
    from edge_export.selftest import write_selftest

    if not ort_training.is_available():
        pytest.skip(ort_training.MISSING)
    folder = tmp_path_factory.mktemp("selftest")
    (folder / "package").mkdir()
    (folder / "package" / "of_before").touch()  # is replaced
    write_selftest(folder)
    return folder


def test_exporting_it_again_gives_the_same_content(written: Path) -> None:
    made, shipped = open_package(written / "package"), open_selftest()
    assert contents(made.path) == contents(shipped.path), "run: python -m edge_export.selftest"
    assert plain(made.path) == plain(shipped.path)
    assert made.manifest.producer.keys() == shipped.manifest.producer.keys()


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by name, except for those whose bytes may vary."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "checkpoint")
    }


def plain(folder: Path) -> dict[str, object]:
    """The manifest without versions, which change, and without the checkpoint's digest."""
    table = json.loads((folder / "manifest.json").read_text())
    del table["producer"], table["sha256"][OFFICIAL_CHECKPOINT]
    return dict(table)


def test_both_ort_training_checkpoints_hold_the_initial_state(written: Path) -> None:
    api = pytest.importorskip("onnxruntime.training.api")
    for package in (open_package(written / "package"), open_selftest()):
        path = package.file(OFFICIAL_CHECKPOINT)
        loaded = {
            f"param.{name}": parameter.data
            for name, parameter in api.CheckpointState.load_checkpoint(str(path)).parameters
        }
        wanted = {k: v for k, v in package.initial_state().items() if k.startswith("param.")}
        assert loaded.keys() == wanted.keys()
        assert all(np.array_equal(loaded[name], wanted[name]) for name in wanted)


def test_computing_the_expected_results_again_gives_the_same(written: Path) -> None:
    made = json.loads((written / "expected.json").read_text())
    shipped = read_expected()
    assert made["rung"] == shipped.rung
    assert made["loss"] == pytest.approx(shipped.loss, rel=1e-5)
    assert made["features"] == pytest.approx(shipped.features, abs=1e-5)


def test_a_package_without_ort_training_artifacts_is_refused(
    monkeypatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="exports a package")
    from edge_export.ort_training import artifacts as ort_training
    from edge_export.selftest import write_selftest

    monkeypatch.setattr(ort_training, "is_available", lambda: False)
    with pytest.raises(EngineError, match="self-test package needs ort-training artifacts"):
        write_selftest(tmp_path)
    assert list(tmp_path.iterdir()) == []
