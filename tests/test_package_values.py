"""Impossible values in a manifest: out of range, repeated, or naming unknown things."""

import pytest
from spoilt_package import edit, problems, set_in
from training_fakes import write_package

EMBED = "graphs/embed.onnx"
LAW = {"group": "global", "power": 3.0}


@pytest.fixture
def folder(tmp_path):
    """A package to modify."""
    return write_package(tmp_path / "package").path


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (set_in("rungs", 1, "id", "k100"), "rung 'k100' appears 2 times"),
        (
            lambda t: t["state"].append(t["state"][0]),
            "state tensor 'param.w' appears 2 times",
        ),
        (lambda t: t["views"].append(t["views"][0]), "view group 'global' appears 2 times"),
        (set_in("batch_size", 0), "batch_size: expected an integer in [1, 1000000], got 0"),
        (set_in("rungs", []), "rungs: expected at least one"),
        (
            set_in("model", "mean", [0.5, 0.5]),
            "model.mean: expected three numbers, for red, green and blue",
        ),
        (
            set_in("model", "std", [0.5, 0.5, 0]),
            "model.std[2]: expected a number in [0.001, 1], got 0",
        ),
        (
            lambda t: t["state"].append(
                {"name": "buffer.loss_scale", "dtype": "float32", "shape": [], "role": "state"}
            ),
            "precision: 'fp32', but the state has buffer.loss_scale",
        ),
        (set_in("model", "features", "all"), "model.features: unknown 'all'"),
        (
            set_in("views", 0, "size_px", 0),
            "views[0].size_px: expected an integer in [1, 16384], got 0",
        ),
        (
            set_in("views", 0, "views", []),
            "view group 'global': expected at least one view",
        ),
        (
            set_in("rungs", 1, "draws", 0, "kept", 5),
            "rung 'k050': cannot draw 5 of 4 for 'draws.tokens'",
        ),
        (
            set_in("rungs", 1, "draws", 0, "kept", 0),
            "rungs[1].draws[0].kept: expected an integer >= 1, got 0",
        ),
        (
            set_in("rungs", 1, "draws", 0, "views", 0),
            "rungs[1].draws[0].views: expected an integer >= 1, got 0",
        ),
        (
            set_in("rungs", 1, "draws", 0, "non_overlap", {**LAW, "group": "local"}),
            "rung 'k050': draw 'draws.tokens': unknown view group 'local'",
        ),
        (
            lambda t: t["rungs"][1]["draws"][0].update(views=1, non_overlap=LAW),
            "rung 'k050': draw 'draws.tokens': overlap is that of two views",
        ),
        (
            lambda t: t["rungs"][1]["draws"][0].update(population=5, non_overlap=LAW),
            "rung 'k050': draw 'draws.tokens': 5 patches are not a square grid",
        ),
        (
            set_in("rungs", 1, "draws", 0, "non_overlap", {**LAW, "power": 10.5}),
            "rungs[1].draws[0].non_overlap.power: expected a number in [0, 10], got 10.5",
        ),
        (
            set_in("rungs", 0, "micro_batch", 0),
            "rungs[0].micro_batch: expected an integer in [1, 1000000], got 0",
        ),
        (
            set_in("rungs", 0, "keep_ratio", 0),
            "rungs[0].keep_ratio: expected a number in (0, 1], got 0",
        ),
        (
            set_in("rungs", 0, "keep_ratio", 1.5),
            "rungs[0].keep_ratio: expected a number in (0, 1], got 1.5",
        ),
        (
            set_in("rungs", 0, "patch_size_px", 0),
            "rungs[0].patch_size_px: expected an integer in [1, 16384], got 0",
        ),
        (
            set_in("rungs", 0, "tokens_per_block", "local", [5, 5]),
            "rung 'k100': tokens_per_block: unknown view group 'local'",
        ),
        (
            lambda t: (
                t.update(views=[]),
                [r.update(tokens_per_block={}) for r in t["rungs"]],
            ),
            "views: expected at least one",
        ),
        (
            set_in("hyper_parameters", "lr", "shape", "wave"),
            "hyper-parameter 'lr': unknown shape 'wave'",
        ),
        (
            set_in("hyper_parameters", "lr", "warmup_epochs", -1),
            "hyper_parameters['lr'].warmup_epochs: expected a number in [0, 1000000], got -1",
        ),
        (
            set_in("periodic", [{"graph": EMBED, "every_steps": 0}]),
            "periodic[0].every_steps: expected an integer >= 1, got 0",
        ),
        (
            lambda table: table["hyper_parameters"].pop("lr"),
            "hyper_parameters: 'lr' is missing",
        ),
        (
            lambda t: t.update(ort_training={**t["ort_training"], "refused": None}),
            [
                "ort_training: there is no checkpoint, and no reason why",
                "ort_training: nothing updates the EMA teacher",
            ],
        ),
    ],
)
def test_impossible_values_are_reported(folder, change, wanted):
    edit(folder, change)
    assert problems(folder) == ([wanted] if isinstance(wanted, str) else wanted)


MANY = 10**19
OUT_OF_RANGE = {  # path of a number -> values that are refused
    ("views", 0, "views", 0, "max_area"): [-1, 1e308],
    ("views", 0, "views", 0, "brightness"): [-1, 1e308],
    ("views", 0, "views", 0, "grayscale"): [-0.1, 1.5],
    ("views", 0, "size_px"): [-8, 2**31, MANY],
    ("rungs", 0, "flops"): [-1, 0, MANY],
    ("rungs", 0, "peak_activation_bytes"): [-1, MANY],
    ("rungs", 0, "tokens_per_block", "global", 0): [-1, 0, MANY],
    ("model", "depth"): [-2, 0, 10**6],
    ("model", "width"): [-2, 0, 10**6],
    ("model", "tokens"): [-2, 0, MANY],
    ("model", "image_size_px"): [-2, 0, 2**31],
    ("batch_size",): [-1, 10**11],
    ("hyper_parameters", "eps", "first"): [-1e-8, 1e308],
    ("hyper_parameters", "lr", "warmup_epochs"): [-1e308, 1e308],
    ("state", 0, "shape", 0): [-1, 0, MANY],
    ("graphs", EMBED, "nodes"): [-1, MANY],
    ("graphs", EMBED, "flops"): [-1, MANY],
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, v) for path, values in OUT_OF_RANGE.items() for v in values]
)
def test_numbers_out_of_range_are_refused_by_name(folder, path, value):
    edit(folder, set_in(*path, value))
    (problem,) = problems(folder)
    assert f"{path[-1]}: expected " in problem or f"[{path[-1]}]: expected " in problem
    assert ", got " in problem


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            set_in("views", 0, "views", 0, "max_area", 0.4),
            "view group 'global': min_area 0.5 is above max_area 0.4",
        ),
        (
            set_in("graphs", EMBED, "outputs", 0, "dtype", "text"),
            "tensor 'features': unknown dtype 'text'",
        ),
        (
            set_in("graphs", EMBED, "outputs", 0, "shape", [2**30, 2**30]),
            "tensor 'features': the shape [1073741824, 1073741824] is too large",
        ),
        (set_in("rungs", 0, "id", "../k100"), "rung '../k100': its id is not a plain name"),
    ],
)
def test_values_that_fit_nothing_are_refused(folder, change, wanted):
    edit(folder, change)
    assert problems(folder) == [wanted]
