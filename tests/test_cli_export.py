"""edge-train export: file, flags and --set become one recipe; its output; refusals."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.cli.main import main
from edge_runtime.package import open_package

ROOT = Path(__file__).parents[1]
SIZES = ["--image-size", "16", "--patch-size", "4"]
TINY = [*SIZES, "--depth", "1", "--width", "16", "--heads", "1", "--batch-size", "4"]


@pytest.fixture
def recipe_of(monkeypatch, tmp_path):
    """The recipe and the arguments that a command line leads to; nothing is exported."""
    build = pytest.importorskip(
        "edge_export.package.build", reason="recipes are read on the torch side"
    )
    seen = []

    def keep(recipe, target, *, init, teacher, ranker, report, verify_all):
        seen.append((recipe, target, init))
        assert ranker is None
        assert not verify_all
        report("a stage", None, None)
        report("a stage", 0.25, 0.5)
        rungs = [SimpleNamespace(id="k100")]
        manifest = SimpleNamespace(
            method=recipe.method.name,
            token_policy=recipe.tokens.name,
            model=SimpleNamespace(name=recipe.model.name),
            rungs=rungs,
            ort_training=SimpleNamespace(refused=None),
        )
        return SimpleNamespace(manifest=manifest, digest="ab" * 32)

    monkeypatch.setattr(build, "export_package", keep)

    def use(*words):
        assert main(["export", *words, "-o", str(tmp_path / "package")]) == 0
        (made,) = seen
        seen.clear()
        return made

    return use


def refused(capsys, tmp_path, *words):
    """The message of a command line that exits 2 and writes nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", *words, "-o", str(tmp_path / "package")]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.search("^edge-train: ", error, re.M)
    assert sorted(tmp_path.rglob("*")) == before
    return error


def test_every_flag_sets_its_key_of_the_recipe(recipe_of, tmp_path):
    recipe, target, init = recipe_of(
        *("--model", "deit_small", "--method", "mocov3", "--tokens", "simprune"),
        *("--image-size", "32", "--patch-size", "8", "--depth", "3", "--width", "48"),
        *("--heads", "4", "--keep-ratios", "1.0,0.5", "--batch-size", "6", "--seed", "9"),
        *("--init", "vit.safetensors"),
    )
    model = recipe.model
    assert (model.name, model.image_size, model.patch_size) == ("deit_small", 32, 8)
    assert (model.depth, model.width, model.heads) == (3, 48, 4)
    assert (recipe.method.name, recipe.tokens.name) == ("mocov3", "simprune")
    assert (recipe.keep_ratios, recipe.batch_size, recipe.seed) == ((1.0, 0.5), 6, 9)
    assert (target, str(init)) == (tmp_path / "package", "vit.safetensors")


def test_a_flag_overrides_the_file_and_set_overrides_all(recipe_of, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        "batch_size = 8\nseed = 8\nkeep_ratios = [0.5]\n[model]\nimage_size = 16\n"
        "patch_size = 4\n[optimizer]\nlr = 0.5\n"
    )
    recipe, _, init = recipe_of(
        *(str(path), "--batch-size", "4", "--seed", "4", "--set", "batch_size=2"),
        *("--set", "optimizer.beta1=0.5", "--set", "optimizer.beta1=0.75"),
    )
    assert (recipe.batch_size, recipe.seed, recipe.keep_ratios) == (2, 4, (0.5,))
    assert (recipe.model.image_size, recipe.model.patch_size) == (16, 4)
    assert (recipe.optimizer.lr, recipe.optimizer.beta1) == (0.5, 0.75)
    assert init is None


@pytest.mark.parametrize(
    ("assignment", "table", "key", "value"),
    [
        ("optimizer.lr=3e-4", "optimizer", "lr", 3e-4),
        ("optimizer.exempt_vectors=true", "optimizer", "exempt_vectors", True),
        ("model.name=deit_tiny", "model", "name", "deit_tiny"),
        ('model.name="deit_tiny"', "model", "name", "deit_tiny"),
        ("model.depth = 2", "model", "depth", 2),
    ],
)
def test_a_value_is_toml_or_text(recipe_of, assignment, table, key, value):
    recipe, _, _ = recipe_of(*SIZES, "--set", assignment.replace(" ", ""))
    assert getattr(getattr(recipe, table), key) == value


def test_lists_and_options_are_set(recipe_of):
    recipe, _, _ = recipe_of(
        *(*SIZES, "--set", "keep_ratios=[1.0, 0.25]", "--set", "method.temperature=0.5"),
        *("--set", "tokens.name=simprune", "--set", "tokens.placement=after-block"),
    )
    assert recipe.keep_ratios == (1.0, 0.25)
    assert recipe.method.options["temperature"] == 0.5
    assert recipe.tokens.options["placement"] == "after-block"


def test_stages_and_result_are_printed(recipe_of, capsys, tmp_path):
    recipe_of(*SIZES)
    out, error = capsys.readouterr()
    assert error.split() == ["a", "stage", "0.25", "s", "0.50", "CPU", "s"]
    assert out.splitlines() == [
        f"{tmp_path / 'package'}: simclr, tokens random, vit_tiny",
        "rungs k100; 0.5 CPU s",
    ]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (
            ["--image-size", "32"],
            [
                "recipe: 1 problem(s)",
                "model 'vit_tiny' is a family: give both --image-size and",
            ],
        ),
        ([*SIZES, "--method", "moco"], ["unknown method 'moco'; known are simclr, mocov3, "]),
        (
            [*SIZES, "--tokens", "evits"],
            ["unknown token policy 'evits'; known are none, random,"],
        ),
        ([*SIZES, "--model", "resnet"], ["unknown model 'resnet'; known are vit_tiny, vit_s"]),
        (
            [*SIZES, "--set", "optimizer.lr=abc"],
            ["optimizer.lr: expected a number, got 'abc'"],
        ),
        (
            [*SIZES, "--set", "optimizer.lr=.001"],
            ["optimizer.lr: expected a number, got '.001'"],
        ),
        (
            [*SIZES, "--set", "optimizer.lr=nan"],
            ["optimizer.lr: expected a finite number, got nan"],
        ),
        ([*SIZES, "--set", "optimizer.lr="], ["optimizer.lr: expected a number, got ''"]),
        ([*SIZES, "--set", "optimiser.lr=1"], ["unknown key optimiser; known are model,"]),
        (
            [*SIZES, "--set", "keep_ratios=1.0,0.5"],
            ["expected a list such as [1.0, 0.5], got '1.0"],
        ),
        (
            [*SIZES, "--set", "seed.lr.x=1"],
            ["seed: expected an integer, got {'lr': {'x': 1}}"],
        ),
        (["--set", "model=vit_tiny"], ["model: expected a table, got 'vit_tiny'"]),
        (
            [*SIZES, "--set", "batch_size=4", "--set", "batch_size.x=1"],
            ["batch_size.x cannot be set: batch_size is a value, not a table."],
        ),
        (
            [*SIZES, "--keep-ratios", "1.5,0"],
            [
                "keep_ratios[0]: expected a number in (0, 1], got 1.5",
                "keep_ratios[1]: expected a number in (0, 1], got 0.0",
            ],
        ),
        (
            [*SIZES, "--keep-ratios", "nan"],
            ["keep_ratios[0]: expected a finite number, got nan"],
        ),
        ([*SIZES, "--tokens", "none", "--keep-ratios", "0.5"], ["give 1.0 alone"]),
        (
            [*SIZES, "--batch-size", "1", "--seed", "-1"],
            [
                "batch_size: expected an integer in [2, 1000000], got 1",
                "seed: expected an integer >= 0, got -1",
            ],
        ),
        (
            [*SIZES, "--depth", "0", "--tokens", "none", "--keep-ratios", "0.5"],
            ["model.depth: expected an integer in [1, 1000], got 0"],
        ),
        (
            [*SIZES, "--width", "-16"],
            ["model.width: expected an integer in [1, 65536], got -16"],
        ),
        (
            [*SIZES, "--seed", "-1"],
            ["seed: expected an integer >= 0, got -1"],
        ),
        (["gone.toml"], ["recipe gone.toml cannot be read (No such file or directory)."]),
        ([*TINY, "--init", "gone.safetensors"], ["--init gone.safetensors cannot be read"]),
    ],
)
def test_a_wrong_recipe_exits_2(capsys, tmp_path, words, messages):
    pytest.importorskip("torch", reason="recipes are read on the torch side")
    error = refused(capsys, tmp_path, *words)
    assert [message for message in messages if message not in error] == []


def test_problems_of_a_file_name_the_file(capsys, tmp_path):
    pytest.importorskip("torch", reason="recipes are read on the torch side")
    path = tmp_path / "mine.toml"
    path.write_text('keep_ratios = "all"\nbatch_size = true\nmodel = "vit_tiny"\n')
    assert "mine.toml: " in refused(capsys, tmp_path, str(path))
    message = refused(capsys, tmp_path, str(path), "--depth", "2")
    assert "model.depth cannot be set: model is a value, not a table." in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depth", "two"], "argument --depth: invalid int value: 'two'"),
        (
            ["--keep-ratios", "1.0;0.5"],
            "expected comma-separated numbers, such as 1.0,0.75,0.5",
        ),
        (["--keep-ratios", "1.0,"], "got '1.0,'"),
        (["--set", "batch_size"], "expected KEY.PATH=VALUE, got 'batch_size'"),
        (["--set", "=4"], "expected KEY.PATH=VALUE, got '=4'"),
    ],
)
def test_wrong_usage_exits_2(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["export", *words, "-o", "package"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", ["torch", "onnx"])
def test_without_torch_and_onnx_the_error_names_the_extra(
    capsys, tmp_path, monkeypatch, module
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "edge_export"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    error = refused(capsys, tmp_path, *SIZES)
    assert "export needs torch and onnx (" in error
    assert "pip install 'PATH[export]'" in error
    assert "export on another machine and copy the folder." in error


def test_an_exported_encoder_is_where_the_next_package_starts(capsys, tmp_path):
    pytest.importorskip("torch", reason="exports packages")
    from edge_runtime.evaluation import export_encoder

    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["export", *TINY, "--tokens", "none", "-o", str(first)]) == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"{first}: simclr, tokens none, vit_tiny\nrungs k100; ")
    assert "\nverification" in error
    rng = np.random.default_rng(0)
    trained = {
        name: value + rng.normal(scale=0.02, size=value.shape).astype(np.float32)
        for name, value in open_package(first).initial_state().items()
    }
    export_encoder(open_package(first), trained, tmp_path / "encoder.safetensors")

    words = [
        "--tokens",
        "none",
        "--init",
        str(tmp_path / "encoder.safetensors"),
        "--seed",
        "1",
    ]
    assert main(["export", *TINY, *words, "-o", str(second), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    package = open_package(second)
    assert document["package"] == str(second)
    assert document["digest"] == package.digest
    stages = {stage["stage"]: stage for stage in document["stages"]}
    assert {"initial state", "k100 step graph", "verification"} <= stages.keys()
    assert all(stage.keys() == {"stage", "wall_s", "cpu_s"} for stage in document["stages"])
    state = package.initial_state()
    for tensor in package.manifest.encoder:
        name = package.manifest.encoder_prefix + tensor.name
        np.testing.assert_array_equal(state[name], trained[name])

    assert main(["export", *TINY, "-o", str(second)]) == 2
    assert "second exists; choose another folder or remove it." in capsys.readouterr().err
    assert open_package(second).digest == package.digest


def test_a_package_export_on_the_path_is_not_run(tmp_path):
    """Folders of these names are common: of a checkout, or of another library."""
    pytest.importorskip("torch", reason="recipes are read on the torch side")
    done = exported_beside(tmp_path, "export")
    assert "FOREIGN" not in done.stdout + done.stderr
    assert "image size 17 px is not a multiple of patch size 4 px" in done.stderr
    assert done.returncode == 2


def test_another_package_of_our_name_is_refused_and_not_run(tmp_path):
    done = exported_beside(tmp_path, "edge_export")
    assert "FOREIGN" not in done.stdout + done.stderr
    assert f"{tmp_path}/edge_export/__init__.py is not the edge_export of this" in done.stderr
    assert "Remove its folder from PYTHONPATH, or start in another folder." in done.stderr
    assert done.returncode == 2


def exported_beside(folder, name):
    """An export that fails early, with a foreign package first on the path."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("print('FOREIGN')\n")
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "export")))
    return subprocess.run(
        [
            *(sys.executable, "-m", "edge_runtime.cli.main", "export"),
            *("--image-size", "17", "--patch-size", "4", "-o", "package"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--image-size", "4096", "--patch-size", "1"],
        [*SIZES, "--width", "16384", "--heads", "64", "--depth", "256"],
        [*TINY, "--image-size", "4096", "--set", "patch_sizes=[4, 8]"],
        [
            "--image-size",
            "64",
            "--patch-size",
            "4",
            "--batch-size",
            "65536",
            "--verify",
            "full",
        ],
    ],
)
def test_more_than_the_memory_is_refused_before_anything_is_made(capsys, tmp_path, words):
    pytest.importorskip("torch", reason="recipes are read on the torch side")
    begin_s = time.monotonic()
    assert main(["export", *words, "-o", str(tmp_path / "package")]) == 4
    assert re.search(
        r"edge-train: the export needs about \d.* of memory, and there are .* for it here\. "
        "Export a smaller model, picture or batch,",
        capsys.readouterr().err,
    )
    assert time.monotonic() - begin_s < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--batch-size", "100000000000"],
        ["--image-size", "1000000"],
        ["--depth", "1000000"],
        ["--width", "1" + 19 * "0"],
        ["--width", 100 * "9"],
        ["--heads", "0"],
        ["--seed", str(2**70)],
        ["--set", f"batch_size={5000 * '9'}"],
        ["--set", f"seed=0x{5000 * 'f'}"],
        ["--set", f"optimizer.lr=1{500 * '0'}"],
        ["--set", "method.temperature=1e-308"],
        ["--set", "augmentation.brightness=1e308"],
        ["--keep-ratios", ",".join(f"{1 - n / 20_000:.6f}" for n in range(10_000))],
        ["--keep-ratios", "nan"],
    ],
    ids=lambda words: f"{words[0]} {words[1][:24]}",
)
def test_extreme_numbers_are_refused_at_once(capsys, tmp_path, words):
    pytest.importorskip("torch", reason="recipes are read on the torch side")
    begin_s = time.monotonic()
    refused(capsys, tmp_path, *SIZES, *words)
    assert time.monotonic() - begin_s < 10
