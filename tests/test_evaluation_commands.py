"""`eval` and `export-encoder` on a run folder, from the flags to the exit code."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
from evaluated_runs import make_run, write_colours
from tiny_encoder import make_package

from edge_runtime.cli.main import main
from edge_runtime.evaluation import encoder_metadata, example_of_use, features
from edge_runtime.records import open_run
from edge_runtime.schema import unstructure


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


@pytest.fixture
def run_folder(tmp_path, package):
    """A run with checkpoints after steps 3 and 10."""
    return make_run(tmp_path / "run", package, 3, 10)


@pytest.fixture
def pictures(tmp_path):
    """Folders `train` and `test`, two colours each."""
    for part, count in [("train", 12), ("test", 6)]:
        write_colours(tmp_path / part, count)
    return ["--train", str(tmp_path / "train"), "--test", str(tmp_path / "test")]


def test_eval_json_has_everything(run_folder, package, pictures, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["eval", str(run_folder), *pictures, "--linear", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    knn, linear = document.pop("knn"), document.pop("linear")
    assert document == {
        "step": 10,
        "package": package.digest,
        "train": {"source": pictures[1], "pictures": 24},
        "test": {"source": pictures[3], "pictures": 12},
        "classes": 2,
    }
    assert (knn.pop("neighbours"), knn.pop("temperature")) == (20, 0.07)
    for accuracies in (knn, linear):
        assert set(accuracies) == {"accuracy", "untrained_accuracy"}
        assert all(0 <= share <= 1 for share in accuracies.values())
    assert linear["accuracy"] == 1.0  # the colours are a linear function of the pixels


def test_eval_is_recorded_in_the_run(run_folder, pictures, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["eval", str(run_folder), *pictures, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["linear"] is None
    (logged,) = open_run(run_folder).events()
    step = document.pop("step")
    assert (logged.moment, logged.event.step, unstructure(logged.event.results)) == (
        None,
        step,
        document,
    )
    assert logged.event.spent_s > 0
    assert not logged.event.energy_is_estimate or logged.event.energy_j is not None


def test_eval_runs_on_the_device_that_is_named(run_folder, pictures, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    real, asked = features.open_forward_engine, []

    def opened(package, graph, weights, name, options):
        asked.append((name, options.device))
        engine = real(package, graph, weights, name, replace(options, device="cpu"))
        engine.device = options.device
        return engine

    monkeypatch.setattr(features, "open_forward_engine", opened)
    assert main(["eval", str(run_folder), *pictures, "--device", "cuda:1"]) == 0
    # The untrained encoder runs where the trained one does
    assert asked == [("auto", "cuda:1"), ("ort", "cuda:1")]
    event = open_run(run_folder).events()[-1].event
    assert event.device == "cuda:1"
    assert event.forward_engine.startswith("ort, onnxruntime")
    assert event.forward_engine.endswith(" on cuda:1")
    assert main(["eval", str(run_folder), *pictures, "--device", "cuda:-1"]) == 2
    assert "unknown device 'cuda:-1'" in capsys.readouterr().err


def test_eval_by_tensorrt_builds_once_and_is_recorded(run_folder, pictures, tensorrt, capsys):
    command = ["eval", str(run_folder), *pictures, "--json"]
    assert main([*command, "--forward-engine", "ort"]) == 0
    by_ort = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    written = capsys.readouterr()
    assert json.loads(written.out) == by_ort
    assert "edge-train: building a TensorRT 10.3.0 engine of " in written.err
    assert tensorrt.builds == 1  # for the trained and the untrained encoder
    event = open_run(run_folder).events()[-1].event
    assert event.forward_engine == "tensorrt, TensorRT 10.3.0 on cuda:0"
    assert event.device == "cuda:0"


def test_eval_goes_on_with_ort_unless_tensorrt_is_named(
    run_folder, pictures, tensorrt, capsys
):
    tensorrt.error = 0.5
    command = ["eval", str(run_folder), *pictures]
    assert main(command) == 0
    assert "forward engine tensorrt cannot be used, ort is: " in capsys.readouterr().err
    assert open_run(run_folder).events()[-1].event.device == "cpu"
    assert tensorrt.builds == 1  # the untrained encoder does not try again
    assert main([*command, "--forward-engine", "tensorrt"]) == 5
    assert "off those of engine ort" in capsys.readouterr().err
    assert main([*command, "--forward-engine", "trt"]) == 2
    assert "unknown forward engine 'trt'; known are auto, ort, " in capsys.readouterr().err


def test_eval_says_which_device_auto_takes(run_folder, pictures, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("edge_runtime.profiling.fastest.installed_gpus", lambda _: [])
    assert main(["eval", str(run_folder), *pictures, "--device", "auto"]) == 0
    said = "--device auto takes cpu: no runtime of a GPU is installed\n"
    assert said in capsys.readouterr().err
    assert open_run(run_folder).events()[-1].event.device == "cpu"


def test_eval_prints_the_gain(run_folder, pictures, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["eval", str(run_folder), *pictures, "--linear", "--threads", "1"]) == 0
    output, (logged,) = capsys.readouterr().out, open_run(run_folder).events()
    knn = unstructure(logged.event.results)["knn"]
    gain = 100 * (knn["accuracy"] - knn["untrained_accuracy"])
    lines = output.splitlines()
    assert lines[0].startswith("encoder after 10 steps, package ")
    assert lines[1] == "24 training and 12 test pictures of 2 classes"
    assert lines[2].split() == [
        "kNN:",
        f"{knn['accuracy']:.2%}",
        "untrained",
        f"{knn['untrained_accuracy']:.2%}",
        f"{gain:+.2f}",
        "points",
    ]
    assert lines[3].startswith("linear probe:")
    assert len(lines) == 4


def test_a_moved_package_is_found_again_with_a_flag(run_folder, package, tmp_path, capsys):
    moved, target = tmp_path / "moved", tmp_path / "encoder.onnx"
    package.path.rename(moved)
    command = ["export-encoder", str(run_folder), "-o", str(target)]
    assert main(command) == 3
    assert "which does not exist any more. Give its current folder with --package PKG" in (
        capsys.readouterr().err
    )
    assert main([*command, "--package", str(moved)]) == 0
    assert target.exists()


def test_the_same_pictures_twice_are_noticed(run_folder, pictures, capsys):
    pytest.importorskip("onnxruntime")
    same = ["--train", pictures[1], "--test", pictures[1]]
    assert main(["eval", str(run_folder), *same]) == 0
    assert "--train and --test are the same pictures" in capsys.readouterr().err
    assert main(["eval", str(run_folder), *pictures]) == 0
    assert "the same pictures" not in capsys.readouterr().err


def test_another_package_is_refused(run_folder, package, tmp_path, capsys):
    other = make_package(tmp_path / "other", encoder_prefix="param.")
    command = ["eval", str(run_folder), "--train", "digits", "--test", "digits:test"]
    assert main([*command, "--package", str(other.path)]) == 3
    output = capsys.readouterr().err
    assert f"{other.path} is not the package that {run_folder} was trained from" in output
    assert package.digest[:12] in output
    assert other.digest[:12] in output


def test_a_run_without_a_checkpoint_is_refused(tmp_path, package, capsys):
    make_run(tmp_path / "run", package)
    target = tmp_path / "encoder.onnx"
    assert main(["export-encoder", str(tmp_path / "run"), "-o", str(target)]) == 6
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert not target.exists()


def test_a_damaged_checkpoint_is_skipped(run_folder, tmp_path, capsys):
    (run_folder / "checkpoints/10/state.safetensors").write_bytes(b"half")
    target = tmp_path / "encoder.safetensors"
    assert main(["export-encoder", str(run_folder), "-o", str(target)]) == 0
    assert "encoder after 3 steps" in capsys.readouterr().err


def test_pictures_without_classes_are_refused(run_folder, pictures, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "train/red", flat)
    command = ["eval", str(run_folder), "--train", str(flat), "--test", pictures[3]]
    assert main(command) == 6
    assert "has no labels" in capsys.readouterr().err
    assert open_run(run_folder).events() == []


def test_export_encoder_prints_one_document(run_folder, package, tmp_path, capsys):
    target = tmp_path / "encoder.safetensors"
    assert main(["export-encoder", str(run_folder), "-o", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(target),
        "size_bytes": target.stat().st_size,
        "step": 10,
        "package": package.digest,
        "metadata": encoder_metadata(package),
    }


def test_export_encoder_shows_how_the_file_is_used(run_folder, package, tmp_path, capsys):
    target = tmp_path / "encoder.onnx"
    assert main(["export-encoder", str(run_folder), "-o", str(target)]) == 0
    written = capsys.readouterr()
    assert written.err.startswith(f"wrote {target}: encoder after 10 steps, ")
    assert written.out == example_of_use(package.manifest.model, target)


def test_an_existing_encoder_is_not_replaced(run_folder, tmp_path, capsys):
    target = tmp_path / "encoder.onnx"
    target.write_bytes(b"mine")
    assert main(["export-encoder", str(run_folder), "-o", str(target)]) == 2
    assert (
        "exists and is not an encoder of edge-train that could be" in capsys.readouterr().err
    )
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_signal_leaves_no_temporary_file(run_folder, tmp_path, monkeypatch, number, suffix):
    before, lying = signal.getsignal(number), sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), number))
    command = ["export-encoder", str(run_folder), "-o", str(tmp_path / f"encoder{suffix}")]
    assert main(command) == 130
    assert sorted(tmp_path.iterdir()) == lying
    assert signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored(run_folder, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), signal.SIGHUP))
        assert main(["export-encoder", str(run_folder), "-o", str(tmp_path / "e.onnx")]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
