"""Problems of a recipe: each is reported with its key and the expected value."""

import math

import pytest

pytest.importorskip("torch", reason="recipes are read on the torch side")

from edge_export.recipe import make_recipe
from edge_runtime.errors import ConfigError

SIZES = {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2}


def problems(table):
    """The lines of the message, without their indentation."""
    with pytest.raises(ConfigError) as caught:
        make_recipe(table, where="mine.toml")
    first, *lines = str(caught.value).splitlines()
    reported = [line for line in lines if not line.startswith("    ")]  # without details
    assert first == f"mine.toml: {len(reported)} problem(s)"
    return [line.strip() for line in lines]


WRONG = [  # what is wrong in the table, the one problem that is reported
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
    ({"method": {"name": "moco"}}, "unknown method 'moco'; known are simclr, mocov3, "),
    (
        {"tokens": {"name": "tomes"}},
        "unknown token policy 'tomes'; known are none, random, ",
    ),
    (
        {"model": {**SIZES, "name": "vit_giant"}},
        "unknown model 'vit_giant'; known are vit_tiny,",
    ),
    # sizes
    (
        {"model": {"patch_size": 4}},
        "model 'vit_tiny' is a family: give both --image-size and --patch-size, or neither",
    ),
    (
        {"model": {"name": "vit_small", "image_size": 32}},
        "for those of vit_small_patch16_224.",
    ),
    ({"model": {**SIZES, "image_size": 18}}, "18 px is not a multiple of patch size 4 px."),
    ({"model": {**SIZES, "patch_size": 32}}, "16 px is not a multiple of patch size 32 px."),
    ({"model": {**SIZES, "heads": 3}}, "width 16 is not a multiple of 3 heads."),
    ({"model": {**SIZES, "depth": 0}}, "model.depth: expected an integer in [1, 1000], got 0"),
    ({"model": {**SIZES, "width": -16}}, "width: expected an integer in [1, 65536], got -16"),
    ({"model": {**SIZES, "heads": 0}}, "heads: expected an integer in [1, 65536], got 0"),
    (
        {"model": {**SIZES, "depth": 10**6}},
        "depth: expected an integer in [1, 1000], got 1000",
    ),
    (
        {"model": {**SIZES, "image_size": 0}},
        "image_size: expected an integer in [1, 16384], got 0",
    ),
    (
        {"model": {"name": "vit_tiny_patch0_16"}},
        "patch_size: expected an integer in [1, 16384], got 0.",
    ),
    (
        {"model": {"name": "vit_tiny_patch16_99999"}},
        "image_size: expected an integer in [1, 1",
    ),
    ({"model": {"name": "vit_tiny_patch16_" + "9" * 5000}}, "unknown model"),
    ({"model": {**SIZES, "width": 10**99}}, "expected an integer of 64 bits, got 1000"),
    ({"model": {**SIZES, "mean": [0.5]}}, "model.mean: expected three numbers, for red, gr"),
    ({"model": {**SIZES, "mean": []}}, "model.mean: expected three numbers, for red, green"),
    ({"model": {**SIZES, "mean": 0.5}}, "model.mean: expected a list, got 0.5"),
    (
        {"model": {**SIZES, "mean": [0.5, 0.5, 127.5]}},
        "model.mean[2]: expected a number in [0, 1], got 127.5",
    ),
    (
        {"model": {**SIZES, "std": [0.5, 0, 0.5]}},
        "model.std[1]: expected a number in [0.001, 1], got 0",
    ),
    ({"batch_size": 1}, "batch_size: expected an integer in [2, 1000000], got 1"),
    ({"batch_size": -4}, "batch_size: expected an integer in [2, 1000000], got -4"),
    ({"batch_size": 10**11}, "batch_size: expected an integer in [2, 1000000], got 1000"),
    ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
    ({"seed": 2**63}, f"seed: expected an integer of 64 bits, got {2**63}"),
    # the ladder
    ({"keep_ratios": []}, "keep_ratios: expected at least one"),
    ({"keep_ratios": [0.0]}, "keep_ratios[0]: expected a number in (0, 1], got 0.0"),
    ({"keep_ratios": [1.01]}, "keep_ratios[0]: expected a number in (0, 1], got 1.01"),
    ({"keep_ratios": [-0.5]}, "keep_ratios[0]: expected a number in (0, 1], got -0.5"),
    ({"keep_ratios": [75]}, "keep_ratios[0]: expected a number in (0, 1], got 75"),
    ({"keep_ratios": [math.nan]}, "keep_ratios[0]: expected a finite number, got nan"),
    ({"keep_ratios": [1.0, 0.5, 0.5]}, "keep_ratios: each at most once"),
    ({"keep_ratios": [0.75, 0.7500000001]}, "at most once, and different in six digits"),
    (
        {"tokens": {"name": "none"}, "keep_ratios": [1.0, 0.5]},
        "keep_ratios: token policy 'none' keeps all tokens; give 1.0 alone",
    ),
    ({"keep_ratios": [1.0], "patch_sizes": [4, 4]}, "patch_sizes: each at most once"),
    ({"patch_sizes": [0]}, "patch_sizes[0]: expected an integer in [1, 16384], got 0"),
    ({"patch_sizes": [4, 5]}, "patch_sizes: 5 px does not divide the 16 px of view group 'gl"),
    ({"patch_sizes": 8}, "patch_sizes: expected a list, got 8"),
    ({"trained": []}, "trained: expected at least one"),
    ({"trained": ["all", "all"]}, "trained: each at most once"),
    (
        {"model": SIZES, "trained": ["last-3"]},
        "trained: expected 'all', 'last-1' to 'last-2' for the last blocks, 'biases', or "
        "'lora-1' to 'lora-16' for low-rank factors, got 'last-3'",
    ),
    ({"model": SIZES, "trained": ["first-1"]}, "for low-rank factors, got 'first-1'"),
    ({"model": SIZES, "trained": ["last-0"]}, "for low-rank factors, got 'last-0'"),
    ({"model": SIZES, "trained": ["lora-0"]}, "for low-rank factors, got 'lora-0'"),
    ({"model": SIZES, "trained": ["lora-17"]}, "for low-rank factors, got 'lora-17'"),
    (
        {"model": SIZES, "trained": ["lora-4", "all", "lora-8"]},
        "trained: a package has low-rank factors of one rank, and its rungs train those of 4 "
        "and 8; choose one of them",
    ),
    (
        {"model": SIZES, "trained": ["lora-4"], "parametrization": {"name": "none"}},
        "parametrization.name: 'none' does not combine with 'lora-4' in trained, which needs "
        "'lora', its default there",
    ),
    (
        {"model": SIZES, "trained": ["lora-4"], "parametrization": {"name": "lora"}},
        "parametrization.rank: no rung trains factors of rank 8; add 'lora-8' to trained",
    ),
    (
        {"model": SIZES, "parametrization": {"name": "lora", "rank": 2}},
        "parametrization.rank: no rung trains factors of rank 2; add 'lora-2' to trained",
    ),
    (
        {"keep_ratios": [n / 1000 for n in range(1, 300)]},
        "ladder has 299 rungs; expected at m",
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
        {"augmentation": {"max_area": 1e308}},
        "augmentation.max_area: expected a number in (0, 1], got 1e+308",
    ),
    (
        {"augmentation": {"grayscale": -1}},
        "augmentation.grayscale: expected a number in [0, 1], got -1",
    ),
    (
        {"augmentation": {"hue": 0.6}},
        "augmentation.hue: expected a number in [0, 0.5], got 0.6",
    ),
    (
        {"augmentation": {"contrast": -1}},
        "augmentation.contrast: expected a number in [0, 10], got -1",
    ),
    ({"augmentation": {"rotate": 1}}, "augmentation: unknown key rotate; known are min_area,"),
    # the optimizer
    ({"optimizer": {"lr": math.nan}}, "optimizer.lr: expected a finite number, got nan"),
    ({"optimizer": {"lr": math.inf}}, "optimizer.lr: expected a finite number, got inf"),
    (
        {"optimizer": {"lr": -1e-3}},
        "optimizer.lr: expected a number in [0, 10000], got -0.001",
    ),
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
        "optimizer.beta2: expected a finite number, got nan",
    ),
    ({"optimizer": {"eps": 0}}, "optimizer.eps: expected a number in [1e-30, 1], got 0"),
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
def test_a_wrong_value_is_reported(table, wanted):
    (problem,) = problems({"model": SIZES, **table})
    assert wanted in problem


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"method": {"temperature": "warm"}}, "temperature: expected a number, got 'warm'"),
        (
            {"method": {"temperature": 0}},
            "temperature: expected a number in [0.001, 1000], got 0",
        ),
        (
            {"method": {"temperature": math.nan}},
            "temperature: expected a finite number, got nan",
        ),
        (
            {"method": {"projector_width": -1}},
            "projector_width: expected an integer in [1, 65536], got -1",
        ),
        (
            {"method": {"name": "mocov3", "projector_out": 0}},
            "projector_out: expected an integer in [1, 65536], got 0",
        ),
        (
            {"method": {"queue": 1}},
            "unknown key queue; known are projector_width, projector_out, head_norm,",
        ),
        (
            {"method": {"head_norm": "group"}},
            "method.head_norm: unknown 'group'; known are layer, batch.",
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


@pytest.mark.parametrize(
    ("key", "example"),
    [("patch_sizes", r"\[16, 24\]"), ("trained", r'\["all", "last-2"\]')],
)
def test_other_axes_as_text_are_reported_in_one_line(key, example):
    message = f"mine.toml: {key}: expected a list such as {example}, got 'all'"
    with pytest.raises(ConfigError, match=message):
        make_recipe({"model": SIZES, key: "all"}, where="mine.toml")


def test_all_problems_of_types_and_names_are_reported_at_once():
    wrong = {
        "batch_size": "many",
        "steps": 10,
        "keep_ratios": ["all", 0.5, None],
        "optimizer": {"lr": "fast", "momentum": 0.9},
        "method": {"name": 3},
    }
    lines = problems(wrong)
    assert len(lines) == 7
    for part in (
        "batch_size",
        "steps",
        "keep_ratios[0]",
        "keep_ratios[2]",
        "momentum",
        "method",
    ):
        assert sum(part in problem.partition("; known")[0] for problem in lines) == 1


def test_all_numbers_out_of_range_are_reported_at_once():
    wrong = {
        "optimizer": {"eps": -1.0, "ema_momentum": 2.0},
        "augmentation": {"hue": 0.6},
        "keep_ratios": [2.0, 0.5, 2.0],
        "batch_size": 1,
        "seed": -1,
    }
    assert sorted(problems(wrong)) == [
        "augmentation.hue: expected a number in [0, 0.5], got 0.6",
        "batch_size: expected an integer in [2, 1000000], got 1",
        "keep_ratios[0]: expected a number in (0, 1], got 2.0",
        "keep_ratios[2]: expected a number in (0, 1], got 2.0",
        "optimizer.ema_momentum: expected a number in [0, 1], got 2.0",
        "optimizer.eps: expected a number in [1e-30, 1], got -1.0",
        "seed: expected an integer >= 0, got -1",
    ]


def test_all_other_problems_are_reported_at_once():
    wrong = {
        "model": {**SIZES, "patch_size": 5},
        "method": {"temperature": -1.0},
        "tokens": {"name": "evits"},
        "parametrization": {"name": "loras"},
        "keep_ratios": [0.5, 0.5],
        "micro_batches": [3],
        "trained": [],
    }
    text = "\n".join(problems(wrong))
    for part in (
        "not a multiple of patch size 5",
        "temperature: expected a number in [0.001, 1000]",
        "unknown token policy 'evits'",
        "unknown parametrization 'loras'; known are none, lora.",
        "each at most once",
        "3 does not divide the batch size 64",
        "trained: expected at least one",
    ):
        assert part in text


def test_all_problems_with_the_methods_declaration_are_reported_at_once():
    """They need a model and options that are valid."""
    found = problems(
        {
            "model": SIZES,
            "optimizer": {"ema_momentum": 0.5},
            "keep_ratios": [0.5, 0.5],
            "micro_batches": [2],
            "batch_size": 4,
            "patch_sizes": [5],
            "trained": ["last-9"],
        }
    )
    for part in (
        "keep_ratios: each at most once",
        "micro_batches: method simclr needs the whole batch: the other pictures of the batch",
        "patch_sizes: 5 px does not divide the 16 px of view group 'global'",
        "optimizer.ema_momentum: method simclr has no EMA teacher",
        "for low-rank factors, got 'last-9'",
    ):
        assert sum(part in problem for problem in found) == 1, part
    assert len(found) == 5
