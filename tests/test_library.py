"""The public names take plain paths, have the command's defaults, and fail with our errors."""

import argparse
import inspect
import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_cli_run import write_pictures
from training_fakes import FakePictures, options, write_package

import edge_runtime
from edge_runtime.cli import embed as embed_command
from edge_runtime.cli import run as run_command
from edge_runtime.errors import ConfigError, DataError, PackageError, RecordsError
from edge_runtime.records import events
from edge_runtime.selftest import PACKAGE

DOCUMENT = (Path(__file__).parents[1] / "docs/library.md").read_text()


class Place(os.PathLike[str]):
    """A path that is neither text nor a `Path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.mark.parametrize("kind", [str, Path, Place])
def test_every_kind_of_path_is_taken(tmp_path, kind) -> None:
    write_package(tmp_path / "package")
    write_pictures(tmp_path / "pictures")
    package = edge_runtime.open_package(kind(tmp_path / "package"))
    assert package.path == tmp_path / "package"
    source = edge_runtime.open_source(kind(tmp_path / "pictures"))
    list(edge_runtime.train(package, source, kind(tmp_path / "run"), options()))
    run = edge_runtime.open_run(kind(tmp_path / "run"))
    assert run.path == tmp_path / "run"
    trained = edge_runtime.open_trained(kind(tmp_path / "run"))
    assert trained.step == run.newest_checkpoint().info.step
    with pytest.raises(ConfigError, match="the suffix of an encoder file is"):
        edge_runtime.export_encoder(package, trained.state, kind(tmp_path / "encoder.txt"))


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (edge_runtime.open_package, PackageError),
        (edge_runtime.open_run, RecordsError),
        (edge_runtime.open_trained, RecordsError),
        (edge_runtime.open_source, DataError),
    ],
)
@pytest.mark.parametrize("path", ["nowhere", "a\0b", "\udcff", "x" * 5000])
def test_what_cannot_be_opened_is_our_error(tmp_path, monkeypatch, function, error, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        function(path)


def test_training_has_the_defaults_of_the_command(tmp_path) -> None:
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    flags = parser.parse_args(["package", "pictures", "-o", "run"])
    defaults = edge_runtime.TrainingOptions()
    assert defaults.epochs == flags.epochs
    assert defaults.seed == flags.seed
    assert defaults.checkpoint_every_s == flags.checkpoint_every
    assert defaults.images_per_epoch == flags.images
    assert defaults.resume == flags.resume
    assert defaults.engine.name == edge_runtime.create_engine(flags.engine).name


def test_without_a_schedule_and_a_budget_the_largest_rung_is_trained(tmp_path) -> None:
    package = write_package(tmp_path / "package")
    asked = options(rungs=None)
    yielded = list(edge_runtime.train(package, FakePictures(), tmp_path / "run", asked))
    rungs = {event.rung for event in yielded if isinstance(event, events.StepRecord)}
    assert rungs == {"k100"}


def test_the_example_of_the_document_evaluates_a_run(tmp_path, monkeypatch, capsys) -> None:
    package, digits = edge_runtime.open_package(PACKAGE), edge_runtime.open_source("digits")
    asked = edge_runtime.TrainingOptions(epochs=1, images_per_epoch=128)
    list(edge_runtime.train(package, digits, tmp_path / "run", asked))
    (*_, example) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {"edge_runtime": edge_runtime})
    accuracy, untrained = map(float, capsys.readouterr().out.split())
    assert accuracy > 0.2
    assert untrained > 0.2
    assert (tmp_path / "encoder.onnx").stat().st_size > 1000
    with np.load(tmp_path / "features.npz", allow_pickle=False) as arrays:
        assert len(arrays["features"]) == len(edge_runtime.open_source("digits:test"))


def test_an_embedding_has_the_defaults_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    embed_command.add_arguments(parser)
    flags = parser.parse_args(["run", "pictures", "-o", "features.npz"])
    defaults = inspect.signature(edge_runtime.embed).parameters
    for name in ("images", "neighbours", "top", "threads"):
        assert defaults[name].default == getattr(flags, name)
