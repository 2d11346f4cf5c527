"""`edge-train demo`, shortened: all steps, with and without torch, and errors."""

import contextlib
import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.cli.demo import KEEP_RATIO, _typed
from edge_runtime.cli.main import main, parser_for
from edge_runtime.engines import ENGINES
from edge_runtime.engines.ort import OrtEngine
from edge_runtime.errors import ConfigError, EngineError
from edge_runtime.package import open_package
from edge_runtime.records import open_run
from edge_runtime.selftest import RECIPE, open_selftest

LEAST_GAIN_POINTS = 3

pytest.importorskip("onnxruntime")


def refuse() -> None:
    raise ConfigError("export needs torch")


@pytest.fixture
def no_torch(monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.cli.export.load_export", refuse)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of 8 epochs without torch."""
    folder, output = tmp_path_factory.mktemp("demo") / "demo", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr("edge_runtime.cli.export.load_export", refuse)
        assert main(["demo", "-o", str(folder), "--epochs", "8"]) == 0
    return folder, output.getvalue()


def test_it_learns(done) -> None:
    pattern = r": (\S+)% correct,\nbefore training (\S+)%: (\S+) points"
    match = re.search(pattern, done[1])
    assert match
    trained, untrained, gain = map(float, match.groups())
    assert gain >= LEAST_GAIN_POINTS
    assert gain == pytest.approx(trained - untrained, abs=0.11)


def test_it_shows_the_commands_that_it_runs(done) -> None:
    folder, output = done
    assert re.findall(r"^\$ (.*)$", output, re.M) == [
        f"edge-train run {folder}/package digits -o {folder}/run "
        f"--keep-ratio {KEEP_RATIO} --epochs 8",
        f"edge-train eval {folder}/run --train digits --test digits:test",
    ]
    assert "8 epochs on 1415 handwritten digits, without their labels, took " in output
    assert "classification of 382 digits of other writers" in output


def test_it_ends_with_commands_that_exist(done, capsys) -> None:
    folder, output = done
    own, other = output.partition("More of this run:\n")[2].split("With your own pictures")
    lines = [line.strip() for line in (own + other).splitlines() if line.startswith("  ")]
    commands = [shlex.split(line) for line in lines]
    names = ["watch", "export-encoder", "export", "run", "export-encoder"]
    assert [(words[0], words[1]) for words in commands] == [("edge-train", x) for x in names]
    for _, *words in commands:
        assert parser_for(words).parse_args(words)
    for _, *words in commands[:2]:  # as they are
        assert main(words) == 0
    assert (folder / "encoder.onnx").stat().st_size > 1000
    (folder / "encoder.onnx").unlink()
    last = output.splitlines()[-1]
    assert last.startswith("`export` needs torch, on this or another machine: pip install ")


def test_commands_are_shown_as_the_demo_was_called(tmp_path, monkeypatch) -> None:
    script = tmp_path / "my env" / "edge-train"
    script.parent.mkdir()
    script.touch(0o755)
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert _typed(["inspect", "a b"]) == f"'{script}' inspect 'a b'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert _typed(["inspect"]) == "edge-train inspect"
    monkeypatch.setattr("sys.argv", [str(tmp_path / "edge_runtime/__main__.py")])
    assert _typed(["inspect"]) == f"{sys.executable} -m edge_runtime inspect"


def test_the_folder_stands_alone(done) -> None:
    folder = done[0]
    assert sorted(path.name for path in folder.iterdir()) == ["package", "recipe.toml", "run"]
    assert (folder / "recipe.toml").read_bytes() == RECIPE.read_bytes()
    assert open_package(folder / "package").digest == open_selftest().digest
    assert open_run(folder / "run").info.package_path == str(folder / "package")


def test_a_second_demo_needs_another_folder(done, capsys) -> None:
    assert main(["demo", "-o", str(done[0])]) == 2
    error = capsys.readouterr().err
    assert f"{done[0]} exists. Remove it, or choose another folder with -o." in error


def test_json_is_one_document(no_torch, tmp_path, capsys) -> None:
    words = ["demo", "-o", str(tmp_path / "demo"), "--epochs", "1", "--seed", "3", "--json"]
    assert main(words) == 0
    output = capsys.readouterr()
    facts = json.loads(output.out)
    assert "$ edge-train run" in output.err
    assert (facts["exported"], facts["seed"], facts["epochs"]) == (False, 3, 1)
    assert (facts["steps"], facts["keep_ratio"]) == (22, 0.75)
    knn = facts["knn"]
    gain = 100 * (knn["accuracy"] - knn["untrained_accuracy"])
    assert facts["gain_points"] == pytest.approx(gain)
    assert facts["package"] == open_selftest().digest
    assert open_run(tmp_path / "demo" / "run").info.settings.seed == 3
    assert facts["machine"]["logical_cpus"] >= 1
    assert facts["versions"]["runtime"].startswith("onnxruntime")


def test_with_torch_it_exports_a_package(monkeypatch, tmp_path, capsys) -> None:
    pytest.importorskip("torch", reason="exports a package")
    one_rung = RECIPE.read_text().replace("[1.0, 0.75, 0.5]", "[0.75]")  # three take longer
    monkeypatch.setattr("edge_runtime.selftest.RECIPE", tmp_path / "recipe.toml")
    (tmp_path / "recipe.toml").write_text(one_rung)
    words = ["demo", "-o", str(tmp_path / "demo"), "--epochs", "1", "--seed", "3", "--json"]
    assert main(words) == 0
    output = capsys.readouterr()
    facts = json.loads(output.out)
    assert facts["exported"] is True
    shown = (
        f"$ edge-train export {tmp_path}/demo/recipe.toml -o {tmp_path}/demo/package --seed 3"
    )
    assert shown in output.err
    manifest, shipped = (
        package.manifest
        for package in (open_package(tmp_path / "demo" / "package"), open_selftest())
    )
    assert manifest.recipe == {**shipped.recipe, "seed": 3, "keep_ratios": [0.75]}


def test_nothing_is_started_without_an_engine(monkeypatch, tmp_path, capsys) -> None:
    def missing(name, threads=None):
        raise EngineError("onnxruntime cannot be imported")

    monkeypatch.setattr("edge_runtime.engines.create_engine", missing)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 5
    assert "onnxruntime cannot be imported" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_demo_reports_how_to_continue(
    no_torch, monkeypatch, tmp_path, capsys
) -> None:
    class Signalled(OrtEngine):
        def step(self, rung_id, batch, hyper, following=None):
            if hyper["step"] == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(rung_id, batch, hyper)

    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, "ort", replace(ENGINES["ort"], create=Signalled))
        assert main(["demo", "-o", str(tmp_path / "demo"), "--epochs", "1"]) == 130
    error = capsys.readouterr().err
    command = re.search(
        r"the demo was stopped while it trained; continue with `(.*)`\.", error
    )
    assert command
    assert main(shlex.split(command[1])[1:]) == 0
    assert "resuming after step 3 of 22" in capsys.readouterr().out


def test_a_full_disk_leaves_no_half_package(no_torch, monkeypatch, tmp_path, capsys) -> None:
    def full(source, target, **_):
        (target / "manifest.json").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copytree", full)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 9
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["recipe.toml"]
