"""Packages of token policy `ranked`, from `edge-train rank` on; files that are refused."""

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from ranker_file import write_ranker  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402
from teacher_file import write_teacher  # noqa: E402

from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.cli.main import main  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.evaluation import export_encoder  # noqa: E402
from edge_runtime.package import open_package  # noqa: E402

WIDTH = 16
SMALL = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": WIDTH, "heads": 2},
    "method": {
        "name": "byol",
        "projector_width": 16,
        "projector_out": 8,
        "head_norm": "layer",
    },
    "tokens": {"name": "ranked", "repair": 1},
    "batch_size": 4,
    "keep_ratios": [1.0, 0.5],
}
FLAGS = [
    *("--image-size", "16", "--patch-size", "4", "--depth", "2", "--width", "16"),
    *("--heads", "2", "--tokens", "ranked", "--batch-size", "4"),
]


def export(folder, ranker, **changes):
    return export_package(
        make_recipe({**SMALL, **changes}, where="test"),
        folder / "package",
        init=None,
        ranker=ranker,
        report=lambda *_: None,
        verify_all=True,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """BYOL with a repair token, in whole batches and parts of two; verified when exported."""
    folder = tmp_path_factory.mktemp("ranked")
    ranker = write_ranker(folder / "ranker.safetensors", WIDTH)
    return export(folder, ranker, micro_batches=[2])


def after_a_step(package, rung_id):
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        whole = package.manifest.rungs[0].id
        result = engine.step(rung_id, noise_batch(package, whole, 1), hyper_of(package, 1))
        return result.metrics, engine.snapshot()


def test_the_state_has_the_ranker_of_the_file_and_no_step_changes_it(package):
    weights = load_file(package.path.parent / "ranker.safetensors")
    before = package.initial_state()
    _, after = after_a_step(package, "k050")
    ours = {name for name in before if "ranker" in name}
    assert ours == {f"buffer.{name}" for name in weights}
    for name, value in weights.items():
        np.testing.assert_array_equal(before[f"buffer.{name}"], value)
        np.testing.assert_array_equal(after[f"buffer.{name}"], value)
    assert "official training API has no such state" in package.manifest.ort_training.refused


def test_repair_tokens_are_trained_averaged_and_not_exported(package, tmp_path):
    before, (_, after) = package.initial_state(), after_a_step(package, "k050")
    for prefix in ("param.", "ema.", "exp_avg."):
        name = f"{prefix}encoder.repair_tokens"
        assert before[name].shape == (1, 1, WIDTH)
        assert (after[name] != before[name]).any()
    _, dense = after_a_step(package, "k100")
    assert not dense["exp_avg.encoder.repair_tokens"].any()
    target = tmp_path / "encoder.safetensors"
    export_encoder(package, after, target)
    assert not [name for name in load_file(target) if "repair" in name or "ranker" in name]


def test_micro_batches_are_exact(package):
    metrics, state = after_a_step(package, "k050")
    part_metrics, part_state = after_a_step(package, "k050-m2")
    assert part_metrics == pytest.approx(metrics, rel=1e-5)
    for name in (name for name in state if name.startswith("exp_avg.")):
        error = np.linalg.norm(part_state[name] - state[name])
        assert error <= 1e-5 * np.linalg.norm(state[name]) + 1e-8, name


# From pictures to a package, by commands.


def test_a_ranker_is_trained_and_exported_by_commands(tmp_path, capsys):
    recipe = make_recipe(SMALL, where="test")
    encoder, ranker = tmp_path / "encoder.safetensors", tmp_path / "ranker.safetensors"
    write_teacher(encoder, recipe.facts())
    words = ["rank", *FLAGS, "digits", "--init", str(encoder), "-o", str(ranker)]
    assert main([*words, "--pictures", "40", "--json"]) == 0
    out, error = capsys.readouterr()
    facts = json.loads(out)
    assert (facts["path"], facts["pictures"], facts["held_out"]) == (str(ranker), 64, 13)
    assert facts["overlap"]["random"] == 0.25
    assert "golden rankings of 64 of 64 pictures" in error
    first = ranker.read_bytes()
    assert main([*words, "--pictures", "64"]) == 0  # the same pictures; replaces the file
    out, _ = capsys.readouterr()
    assert "on 13 held-out pictures, it knows" in out
    assert ranker.read_bytes() == first
    target = tmp_path / "package"
    words = ["export", *FLAGS, "--ranker", str(ranker), "-o", str(target)]
    assert main([*words, "--keep-ratios", "0.5"]) == 0
    state = open_package(target).initial_state()
    for name, value in load_file(ranker).items():
        np.testing.assert_array_equal(state[f"buffer.{name}"], value)


def test_rank_replaces_nothing_else(tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    words = ["rank", *FLAGS, "digits", "--init", "x", "-o", str(tmp_path / "notes")]
    assert main(words) == 2
    assert "exists and is not a ranker that could be replaced" in capsys.readouterr().err
    words[-1] = str(tmp_path / "ranker.safetensors")
    assert main([*words, "--tokens", "evit"]) == 2
    assert "'evit' has no ranker" in capsys.readouterr().err
    assert main(words) == 2
    assert "--init x cannot be read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


# Files that cannot work.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"after": 0}, r"ranks tokens after 0 block\(s\), .* after 1. Export with --set tok"),
        ({"after": None}, "is not a ranker: its metadata does not say after how many"),
        ({"after": "1\n"}, "is not a ranker: its metadata does not say after how many"),
        ({"width": 12}, r"is for another model: 'ranker.norm.weight' is \(12,\), not \(16,\)"),
        (
            {"ranker__mix__bias": np.full(64, np.nan, np.float32)},
            "has NaN or infinite values in 'ranker.mix.bias'",
        ),
        (
            {"ranker__mix__bias": np.zeros(64, np.int32)},
            "is not a ranker: it lacks 'ranker.mix.bias' in float32",
        ),
    ],
)
def test_other_rankers_are_refused(tmp_path, changes, message):
    arguments = {"width": WIDTH, **changes}
    path = write_ranker(tmp_path / "ranker.safetensors", **arguments)
    with pytest.raises(ConfigError, match=rf"--ranker .*{message}"):
        export(tmp_path, path)
    assert not (tmp_path / "package").exists()


def test_a_ranker_that_is_missing_superfluous_or_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'ranked' needs a trained ranker. Give --ranker"):
        export(tmp_path, None)
    path = write_ranker(tmp_path / "ranker.safetensors", WIDTH)
    with pytest.raises(ConfigError, match=r"--ranker .*: token policy 'evit' has no ranker"):
        export(tmp_path, path, tokens={"name": "evit"})
    encoder = tmp_path / "encoder.safetensors"
    write_teacher(encoder, make_recipe(SMALL, where="test").facts())
    with pytest.raises(ConfigError, match=r"is not a ranker: it lacks 'ranker.norm.weight'"):
        export(tmp_path, encoder)
    os.mkfifo(tmp_path / "pipe")
    for other in ("pipe", "nothing"):
        with pytest.raises(ConfigError, match=r"--ranker .* cannot be read"):
            export(tmp_path, tmp_path / other)
