"""Recipes: TOML into a checked recipe."""

import json
import re
from itertools import product

import pytest

pytest.importorskip("torch", reason="recipes are read on the torch side")

from edge_export.objectives import OBJECTIVES
from edge_export.ort_training import artifacts
from edge_export.recipe import ModelTable, make_recipe, read_recipe
from edge_export.step.program import Program
from edge_runtime.errors import ConfigError
from edge_runtime.package.curves import Curve, constant, cosine

SIZES = {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2}


def recipe(**table):
    return make_recipe({"model": SIZES, **table}, where="test")


def test_only_the_models_sizes_must_be_given():
    made = recipe()
    assert made.model.name == "vit_tiny"
    assert (made.method.name, made.tokens.name) == ("simclr", "random")
    assert made.keep_ratios == (1.0, 0.75, 0.5)
    assert (made.batch_size, made.seed) == (64, 0)


def test_a_policy_without_ladder_has_one_rung():
    assert recipe(tokens={"name": "none"}).keep_ratios == (1.0,)


def test_whole_numbers_are_numbers():
    made = recipe(
        keep_ratios=[1], optimizer={"lr": 1, "ema_momentum": 1}, method={"name": "mocov3"}
    )
    assert made.keep_ratios == (1.0,)
    assert made.optimizer_curves(has_teacher=True)["lr"].first == 1.0


@pytest.mark.parametrize("method", OBJECTIVES)
def test_curves_have_the_methods_defaults(method):
    defaults = OBJECTIVES[method].defaults
    weight = float(method == "distillation")
    table = {"method": {"name": method}, "distillation": {"weight": weight}}
    program = Program(recipe(**table, batch_size=64))
    curves = program.hyper_parameters
    expected = {
        **program.objective.declaration.hyper_parameters,
        "lr": Curve(
            shape="cosine",
            first=defaults.lr_at_256 / 2,
            final=0.0,
            warmup_epochs=defaults.warmup_epochs,
        ),
        "weight_decay": cosine(defaults.weight_decay, defaults.weight_decay),
        "beta1": constant(0.9),
        "beta2": constant(0.999),
        "eps": constant(1e-8),
        "step": Curve(shape="count"),
    }
    if defaults.ema_momentum is not None:
        expected["ema_momentum"] = cosine(defaults.ema_momentum, 1.0)
    assert curves == expected


def test_curves_have_what_the_recipe_gives():
    given = {
        "lr": 0.5,
        "final_lr": 0.01,
        "warmup_epochs": 0,
        "weight_decay": 0.0,
        "final_weight_decay": 0.25,
        "beta1": 0.0,
        "beta2": 0.5,
        "eps": 1e-3,
        "ema_momentum": 0.0,
        "final_ema_momentum": 0.5,
    }
    program = Program(recipe(method={"name": "mocov3"}, optimizer=given))
    assert program.hyper_parameters == {
        "lr": Curve(shape="cosine", first=0.5, final=0.01, warmup_epochs=0),
        "weight_decay": cosine(0.0, 0.25),
        "beta1": constant(0.0),
        "beta2": constant(0.5),
        "eps": constant(1e-3),
        "ema_momentum": cosine(0.0, 0.5),
        "step": Curve(shape="count"),
    }


def test_a_policy_adds_its_own_curve():
    curves = Program(recipe(tokens={"name": "simprune"})).hyper_parameters
    assert curves["progress"] == Curve(shape="linear", first=0.0, final=1.0)


@pytest.mark.parametrize(
    ("optimizer", "refusal"),
    [
        ({}, None),
        ({"weight_decay": 0.3}, None),
        ({"final_weight_decay": 0.1}, None),  # simclr's own
        (
            {"final_weight_decay": 0.4},
            r"weight decay changes from 0\.1 to 0\.4: .* is constant",
        ),
        ({"exempt_vectors": True}, r"exempt_vectors: .* decays every parameter"),
    ],
)
def test_what_the_ort_training_optimizer_cannot_do_is_reported(
    monkeypatch, optimizer, refusal
):
    monkeypatch.setattr(artifacts, "is_available", lambda: True)
    reason = artifacts.refusal(Program(recipe(optimizer=optimizer)))
    assert reason is None if refusal is None else re.search(refusal, reason)


def test_other_reasons_against_ort_training_artifacts(monkeypatch):
    monkeypatch.setattr(artifacts, "is_available", lambda: True)
    some = Program(recipe(trained=["all", "last-1"]))
    assert (
        artifacts.refusal(some)
        == "trained: the ort-training optimizer updates every parameter"
    )
    monkeypatch.setattr(artifacts, "is_available", lambda: False)
    assert artifacts.refusal(Program(recipe())) == artifacts.MISSING


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"patch_sizes": [4, 8], "trained": ["last-1", "all"]},
        {"tokens": {"name": "random+simprune", "placement": "after-block"}},
        {"model": {**SIZES, "features": "mean-patches"}},
        {"parametrization": {"name": "none"}},
        {"method": {"name": "mocov3", "temperature": 0.5}, "keep_ratios": [0.25, 1.0]},
        {"tokens": {"name": "simprune", "direction": "most-to-least"}, "seed": 7},
        {"tokens": {"name": "none"}, "optimizer": {"lr": 0.1, "exempt_vectors": True}},
        {"model": {"name": "deit_small_patch16_224"}, "augmentation": {"flip": 0.0}},
    ],
)
def test_a_manifests_recipe_is_the_same_recipe(table):
    made = recipe(**table)
    written = json.loads(json.dumps(made.table()))
    assert make_recipe(written, where="manifest") == made
    assert make_recipe(written, where="manifest").table() == made.table()


def test_a_manifests_recipe_has_the_options_filled_in():
    table = recipe(tokens={"name": "simprune", "direction": "most-to-least"}).table()
    assert table["tokens"] == {
        "name": "simprune",
        "placement": "before-mlp",
        "direction": "most-to-least",
        "paired": True,
    }
    assert table["method"]["temperature"] == 0.2


def test_a_crop_has_to_fit():
    with pytest.raises(
        ConfigError, match=r"min_area 0\.2 is above max_area 0\.1\. Give both\."
    ):
        recipe(augmentation={"max_area": 0.1})


def test_the_ladder_is_the_product_of_its_axes():
    table = {"keep_ratios": [1.0, 0.5], "patch_sizes": [4, 8], "trained": ["all", "last-1"]}
    ladder = recipe(**table, micro_batches=[64]).rungs()
    values = [(r.keep_ratio, r.patch_size_px, r.trained, r.micro_batch) for r in ladder]
    parts = (None, 64)
    assert values == list(product((1.0, 0.5), (4, 8), ("all", "last-1"), parts))
    assert len({rung.id for rung in ladder}) == 16
    assert {rung.patch_size_px for rung in recipe().rungs()} == {4}  # the model's own


def test_a_file_is_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("batch_size = 8\n[model]\nimage_size = 16\npatch_size = 8\n")
    made = make_recipe(read_recipe(path), where=str(path))
    assert (made.batch_size, made.model) == (8, ModelTable(image_size=16, patch_size=8))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(
        ConfigError, match=r"gone\.toml cannot be read \(No such file or directory\)\."
    ):
        read_recipe(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)\."):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"batch_size = ", b"batch_size = 4\nbatch_size = 4", b"\xff\xfe[model]", b"\x00"],
    ids=["cut short", "twice", "no UTF-8", "binary"],
)
def test_invalid_toml_is_reported(tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML: "):
        read_recipe(path)
