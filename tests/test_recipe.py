"""Recipes: TOML into a checked recipe, and all problems told."""

import json
import math
import re

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


def problems(table):
    """The lines of the message, without their indentation."""
    with pytest.raises(ConfigError) as caught:
        make_recipe(table, where="mine.toml")
    first, *lines = str(caught.value).splitlines()
    told = [line for line in lines if not line.startswith("    ")]  # without their details
    assert first == f"mine.toml: {len(told)} problem(s)"
    return [line.strip() for line in lines]


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
    curves = Program(recipe(method={"name": method}, batch_size=64)).hyper_parameters
    expected = {
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
        ({"final_weight_decay": 0.4}, r"weight decay goes from 0\.1 to 0\.4: .* is constant"),
        ({"exempt_vectors": True}, r"exempt_vectors: .* decays every parameter"),
    ],
)
def test_what_the_official_optimizer_cannot_do_is_reported(monkeypatch, optimizer, refusal):
    monkeypatch.setattr(artifacts, "is_available", lambda: True)
    found = artifacts.refusal(Program(recipe(optimizer=optimizer)))
    assert found is None if refusal is None else re.search(refusal, found)


def test_other_reasons_against_official_artifacts(monkeypatch):
    monkeypatch.setattr(artifacts, "is_available", lambda: True)
    some = Program(recipe(trained=["all", "last-1"]))
    assert artifacts.refusal(some) == "trained: the official optimizer moves every parameter"
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
    }
    assert table["method"]["temperature"] == 0.2


def test_a_crop_has_to_fit():
    with pytest.raises(
        ConfigError, match=r"min_area 0\.2 is above max_area 0\.1\. Give both\."
    ):
        recipe(augmentation={"max_area": 0.1})


WRONG = [  # what is wrong in the table, the one problem that is told
    # types
    ({"optimizer": {"lr": "abc"}}, "optimizer.lr: expected a number, got 'abc'"),
    ({"optimizer": {"lr": True}}, "optimizer.lr: expected a number, got True"),
    ({"optimizer": {"exempt_vectors": 1}}, "exempt_vectors: expected true or false, got 1"),
    ({"optimizer": [1]}, "optimizer: expected a table, got [1]"),
    ({"batch_size": True}, "batch_size: expected an integer, got True"),
    ({"batch_size": 4.0}, "batch_size: expected an integer, got 4.0"),
    ({"batch_size": "4"}, "batch_size: expected an integer, got '4'"),
    ({"model": {**SIZES, "depth": 2.5}}, "model.depth: expected an integer, got 2.5"),
    ({"model": {**SIZES, "name": 5}}, "model.name: expected a string, got 5"),
    ({"model": "vit_tiny"}, "model: expected a table, got 'vit_tiny'"),
    ({"method": "simclr"}, "method: expected a table, got 'simclr'"),
    ({"method": {"name": None}}, "method.name: expected a string, got None"),
    ({"tokens": 5}, "tokens: expected a table, got 5"),
    ({"keep_ratios": 1.0}, "keep_ratios: expected a list, got 1.0"),
    ({"keep_ratios": ["1.0"]}, "keep_ratios[0]: expected a number, got '1.0'"),
    # names
    (
        {"batchsize": 4},
        "unknown key batchsize; known are model, method, tokens, parametrization",
    ),
    ({"optimizer": {"LR": 1}}, "optimizer: unknown key LR; known are lr, final_lr, warmup"),
    ({"method": {"name": "moco"}}, "unknown method 'moco'; known are simclr, mocov3."),
    ({"tokens": {"name": "tome"}}, "unknown token policy 'tome'; known are none, random, sim"),
    (
        {"model": {**SIZES, "name": "vit_giant"}},
        "unknown model 'vit_giant'; known are vit_tiny,",
    ),
    # sizes
    ({"model": {}}, "model 'vit_tiny' is a family: give --image-size and --patch-size, or a"),
    ({"model": {"name": "vit_small", "image_size": 32}}, "such as vit_small_patch16_224."),
    ({"model": {**SIZES, "image_size": 18}}, "18 px is not a multiple of patch size 4 px."),
    ({"model": {**SIZES, "patch_size": 32}}, "16 px is not a multiple of patch size 32 px."),
    ({"model": {**SIZES, "heads": 3}}, "width 16 is not a multiple of 3 heads."),
    ({"model": {**SIZES, "depth": 0}}, "model 'vit_tiny': expected at least 1, got depth 0."),
    ({"model": {**SIZES, "width": -16, "heads": 0}}, "at least 1, got width -16, heads 0."),
    ({"model": {**SIZES, "image_size": 0}}, "expected at least 1, got image_size 0."),
    ({"model": {"name": "vit_tiny_patch0_16"}}, "expected at least 1, got patch_size 0."),
    ({"batch_size": 1}, "batch_size: expected an integer >= 2, got 1"),
    ({"batch_size": -4}, "batch_size: expected an integer >= 2, got -4"),
    ({"seed": -1}, "seed: expected an integer in [0, 9223372036854775808), got -1"),
    ({"seed": 2**63}, "seed: expected an integer in [0, 9223372036854775808), got 92233720"),
    # the ladder
    ({"keep_ratios": []}, "keep_ratios: expected at least one"),
    ({"keep_ratios": [0.0]}, "keep_ratios[0]: expected a number in (0, 1], got 0"),
    ({"keep_ratios": [1.01]}, "keep_ratios[0]: expected a number in (0, 1], got 1.01"),
    ({"keep_ratios": [-0.5]}, "keep_ratios[0]: expected a number in (0, 1], got -0.5"),
    ({"keep_ratios": [75]}, "keep_ratios[0]: expected a number in (0, 1], got 75"),
    ({"keep_ratios": [math.nan]}, "keep_ratios[0]: expected a number in (0, 1], got nan"),
    ({"keep_ratios": [1.0, 0.5, 0.5]}, "keep_ratios: each at most once"),
    ({"keep_ratios": [0.75, 0.7500000001]}, "at most once, and different in six digits"),
    (
        {"tokens": {"name": "none"}, "keep_ratios": [1.0, 0.5]},
        "keep_ratios: token policy 'none' keeps all tokens; give 1.0 alone",
    ),
    # views
    (
        {"augmentation": {"flip": 1.5}},
        "augmentation.flip: expected a number in [0, 1], got 1.5",
    ),
    (
        {"augmentation": {"min_area": 0}},
        "augmentation.min_area: expected a number in (0, 1], got 0",
    ),
    (
        {"augmentation": {"hue": 0.6}},
        "augmentation.hue: expected a number in [0, 0.5], got 0.6",
    ),
    (
        {"augmentation": {"contrast": -1}},
        "augmentation.contrast: expected a number >= 0, got -1",
    ),
    ({"augmentation": {"rotate": 1}}, "augmentation: unknown key rotate; known are min_area,"),
    # the optimizer
    ({"optimizer": {"lr": math.nan}}, "optimizer.lr: expected a number >= 0, got nan"),
    ({"optimizer": {"lr": math.inf}}, "optimizer.lr: expected a number >= 0, got inf"),
    ({"optimizer": {"lr": -1e-3}}, "optimizer.lr: expected a number >= 0, got -0.001"),
    (
        {"optimizer": {"warmup_epochs": -1}},
        "optimizer.warmup_epochs: expected a number in [0, 1000000]",
    ),
    (
        {"optimizer": {"warmup_epochs": 1e308}},
        "optimizer.warmup_epochs: expected a number in [0, 1000000]",
    ),
    ({"optimizer": {"beta1": 1.0}}, "optimizer.beta1: expected a number in [0, 1), got 1"),
    (
        {"optimizer": {"beta2": math.nan}},
        "optimizer.beta2: expected a number in [0, 1), got nan",
    ),
    ({"optimizer": {"eps": 0}}, "optimizer.eps: expected a number > 0, got 0"),
    (
        {"method": {"name": "mocov3"}, "optimizer": {"final_ema_momentum": 1.5}},
        "optimizer.final_ema_momentum: expected a number in [0, 1], got 1.5",
    ),
    (
        {"optimizer": {"ema_momentum": 0.99}},
        "optimizer.ema_momentum: method simclr has no EMA teacher",
    ),
    (
        {"optimizer": {"final_ema_momentum": 1.0}},
        "optimizer.final_ema_momentum: method simclr has no EMA teacher",
    ),
]


@pytest.mark.parametrize(("table", "wanted"), WRONG, ids=[wanted for _, wanted in WRONG])
def test_what_is_wrong_is_reported(table, wanted):
    (problem,) = problems({"model": SIZES, **table})
    assert wanted in problem


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"method": {"temperature": "warm"}}, "temperature: expected a number, got 'warm'"),
        ({"method": {"temperature": 0}}, "temperature: expected a number > 0, got 0"),
        ({"method": {"temperature": math.nan}}, "temperature: expected a number > 0, got nan"),
        (
            {"method": {"projector_width": -1}},
            "projector_width: expected an integer >= 1, got -1",
        ),
        (
            {"method": {"name": "mocov3", "projector_out": 0}},
            "projector_out: expected an integer >= 1, got 0",
        ),
        (
            {"method": {"queue": 1}},
            "unknown key queue; known are temperature, projector_width, projector_out",
        ),
        ({"tokens": {"placement": "before-mlp"}}, "unknown key placement: it takes none"),
        (
            {"tokens": {"name": "simprune", "placement": "first"}},
            "unknown 'first'; known are before-mlp, before-block, after-block.",
        ),
        (
            {"tokens": {"name": "simprune", "direction": "up"}},
            "unknown 'up'; known are least-to-most, most-to-least.",
        ),
    ],
)
def test_a_wrong_option_is_reported_with_its_table(table, wanted):
    (name,) = table
    heading, problem = problems({"model": SIZES, **table})
    assert heading == f"[{name}]: 1 problem(s)"
    assert wanted in problem


def test_keep_ratios_as_text_are_reported_in_one_line():
    with pytest.raises(
        ConfigError, match=r"expected a list such as \[1\.0, 0\.5\], got '1\.0,0\.5'"
    ):
        make_recipe({"model": SIZES, "keep_ratios": "1.0,0.5"}, where="mine.toml")


def test_all_problems_of_types_and_names_are_reported_at_once():
    wrong = {
        "batch_size": "many",
        "steps": 10,
        "keep_ratios": ["all", 0.5, None],
        "optimizer": {"lr": "fast", "momentum": 0.9},
        "method": {"name": 3},
    }
    found = problems(wrong)
    assert len(found) == 7
    for part in (
        "batch_size",
        "steps",
        "keep_ratios[0]",
        "keep_ratios[2]",
        "momentum",
        "method",
    ):
        assert sum(part in problem.partition("; known")[0] for problem in found) == 1


def test_all_numbers_out_of_range_are_reported_at_once():
    wrong = {
        "optimizer": {"eps": -1.0, "ema_momentum": 2.0},
        "keep_ratios": [2.0, 2.0],
        "batch_size": 1,
        "seed": -1,
    }
    assert sorted(problems(wrong)) == [
        "batch_size: expected an integer >= 2, got 1",
        "keep_ratios[0]: expected a number in (0, 1], got 2.0",
        "keep_ratios[1]: expected a number in (0, 1], got 2.0",
        "optimizer.ema_momentum: expected a number in [0, 1], got 2.0",
        "optimizer.eps: expected a number > 0, got -1.0",
        "seed: expected an integer in [0, 9223372036854775808), got -1",
    ]


def test_all_problems_of_values_are_reported_at_once():
    wrong = {
        "model": {**SIZES, "patch_size": 5},
        "method": {"temperature": -1.0},
        "tokens": {"name": "evit"},
        "optimizer": {"ema_momentum": 0.5},
        "keep_ratios": [0.5, 0.5],
    }
    text = "\n".join(problems(wrong))
    for part in (
        "not a multiple of patch size 5",
        "temperature: expected a number > 0",
        "unknown token policy 'evit'",
        "method simclr has no EMA teacher",
        "each at most once",
    ):
        assert part in text


def test_a_file_is_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("batch_size = 8\n[model]\nimage_size = 16\npatch_size = 8\n")
    made = make_recipe(read_recipe(path), where=str(path))
    assert (made.batch_size, made.model) == (8, ModelTable(image_size=16, patch_size=8))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read \(No such file"):
        read_recipe(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"batch_size = ", b"batch_size = 4\nbatch_size = 4", b"\xff\xfe[model]", b"\x00"],
    ids=["cut short", "twice", "no UTF-8", "binary"],
)
def test_what_is_no_toml_is_reported(tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML: "):
        read_recipe(path)
