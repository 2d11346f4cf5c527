"""Graphs in a manifest: existing tensors, and everything that an engine needs."""

import json
import re

import pytest
import tiny_encoder
from spoilt_package import add_file, edit, graph, problems, set_in, spec, with_everything
from training_fakes import write_package

from edge_runtime.package import open_package

STEP, EMBED = "graphs/k100/step.onnx", "graphs/embed.onnx"


@pytest.fixture
def folder(tmp_path):
    """A package to modify."""
    return write_package(tmp_path / "package").path


APPLY, ACCUMULATE = "graphs/apply.onnx", "graphs/k050-m2/accumulate.onnx"


BOTH = "accumulate and apply"


def with_micro_batches(folder):
    """The package with a rung whose micro-batches are half of its batch."""
    for name in (APPLY, ACCUMULATE):
        add_file(folder, name)

    def fill(table):
        graphs = {"accumulate": ACCUMULATE, "apply": APPLY}
        parts = {"id": "k050-m2", "micro_batch": 2, "graphs": graphs}
        table["rungs"].append({**table["rungs"][1], **parts})
        step = table["graphs"][STEP]["outputs"]  # the loss, and all of the state
        inputs, outputs = [spec("grad.w", "sum")], [spec("next.grad.w", "sum")]
        outputs.append(step[0])
        table["graphs"][ACCUMULATE] = graph(inputs, outputs)
        table["graphs"][APPLY] = graph(inputs, step[1:])

    edit(folder, fill)


@pytest.mark.parametrize("name", [APPLY, ACCUMULATE])
def test_graphs_of_micro_batches_are_checked_like_others(folder, name):
    with_micro_batches(folder)
    open_package(folder)
    edit(folder, lambda table: table["graphs"].pop(name))
    assert problems(folder) == [f"graph {name!r} is not described in graphs"]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            set_in("rungs", 2, "graphs", "step", STEP),
            [f"expected graphs {BOTH} with micro-batches, got accumulate, apply, step"],
        ),
        (
            set_in("rungs", 2, "graphs", {"apply": APPLY}),
            [f"expected graphs {BOTH} with micro-batches, got apply"],
        ),
        (
            set_in("rungs", 2, "graphs", {"accumulate": ACCUMULATE}),
            [f"expected graphs {BOTH} with micro-batches, got accumulate"],
        ),
        (
            set_in("rungs", 2, "graphs", {}),
            [f"expected graphs {BOTH} with micro-batches, got none"],
        ),
        (
            set_in("rungs", 2, "graphs", {"step": STEP}),
            [f"expected graphs {BOTH} with micro-batches, got step"],
        ),
        (
            set_in("rungs", 2, "micro_batch", None),
            ["expected graphs step without micro-batches, got accumulate, apply"],
        ),
        (
            set_in("rungs", 2, "micro_batch", 3),
            ["micro_batch 3 does not divide the batch size 4"],
        ),
    ],
)
def test_impossible_micro_batches_are_reported(folder, change, wanted):
    with_micro_batches(folder)
    edit(folder, change)
    assert problems(folder) == [f"rung 'k050-m2': {line}" for line in wanted]


def test_a_gradient_is_of_a_parameter_and_shaped_like_it(folder):
    with_micro_batches(folder)
    edit(folder, set_in("graphs", APPLY, "inputs", [spec("grad.w", "sum", (63,))]))
    assert problems(folder) == [f"{APPLY}: the state has no 'param.w' of float32 (63,)"]
    edit(folder, set_in("graphs", APPLY, "inputs", [spec("grad.v", "sum")]))
    assert problems(folder) == [f"{APPLY}: the state has no 'param.v' of float32 (64,)"]


def test_the_mean_of_a_buffer_is_shaped_like_the_buffer(folder):
    with_micro_batches(folder)
    edit(folder, lambda table: table["state"].append(spec("buffer.centre", "state", (3,))))
    mean = spec("mean.buffer.centre", "sum", (3,))
    for key, border in (
        ("inputs", mean),
        ("outputs", {**mean, "name": f"next.{mean['name']}"}),
    ):
        edit(folder, lambda t, k=key, b=border: t["graphs"][ACCUMULATE][k].append(b))
    open_package(folder)
    edit(folder, set_in("graphs", ACCUMULATE, "inputs", 1, "shape", [4]))
    assert problems(folder) == [
        f"{ACCUMULATE}: the state has no 'buffer.centre' of float32 (4,)"
    ]


IMAGES = spec("images.global", "images", (2, 4, 8, 8, 3), "uint8")
DRAW = spec("draws.tokens", "draw", (2, 4, 2), "int64")


def test_inputs_of_a_graph_may_be_state_hyper_parameters_images_and_draws(folder):
    inputs = [spec("param.w", "state"), spec("lr", "hyper", ()), IMAGES, DRAW]
    edit(folder, set_in("graphs", "graphs/k050/step.onnx", "inputs", inputs))
    open_package(folder)


@pytest.mark.parametrize(
    ("graph", "side", "border", "wanted"),
    [
        (STEP, "outputs", "loss", f"{STEP}: output 'loss' is missing"),
        (ACCUMULATE, "outputs", "loss", f"{ACCUMULATE}: output 'loss' is missing"),
        (
            ACCUMULATE,
            "outputs",
            "next.grad.w",
            f"{ACCUMULATE}: 1 sum(s) are not passed on, first 'next.grad.w'",
        ),
        (EMBED, "inputs", "images", f"{EMBED}: expected one tensor of role 'images', got 0"),
        (
            EMBED,
            "outputs",
            "features",
            f"{EMBED}: expected one tensor of role 'features', got 0",
        ),
    ],
)
def test_a_missing_input_or_output_is_reported(folder, graph, side, border, wanted):
    with_micro_batches(folder)
    tensors = json.loads((folder / "manifest.json").read_text())["graphs"][graph][side]
    left = [tensor for tensor in tensors if tensor["name"] != border]
    assert len(left) == len(tensors) - 1
    edit(folder, set_in("graphs", graph, side, left))
    (problem,) = problems(folder)
    assert problem.startswith(wanted)


@pytest.mark.parametrize("name", [STEP, APPLY])
def test_a_graph_that_changes_nothing_is_reported(folder, name):
    """A graph may leave state tensors unchanged, but not all of them."""
    with_micro_batches(folder)
    text = (folder / "manifest.json").read_text()
    outputs = json.loads(text)["graphs"][name]["outputs"]
    edit(
        folder,
        set_in("graphs", name, "outputs", [t for t in outputs if "ema" not in t["name"]]),
    )
    open_package(folder)
    edit(folder, set_in("graphs", name, "outputs", outputs[: name == STEP]))
    assert problems(folder) == [f"{name}: it does not change the state"]


def test_a_weight_that_the_merge_graph_does_not_return_is_reported(folder):
    with_everything(folder)
    weight = spec("w", "weight")
    edit(folder, lambda table: table["graphs"][EMBED]["inputs"].append(weight))
    assert problems(folder) == ["more/merge: 1 weight(s) are missing, first 'w'"]
    edit(folder, set_in("graphs", "more/merge", "outputs", [weight]))
    open_package(folder)


def test_a_hyper_parameter_without_a_curve_is_reported(folder):
    inputs = [spec("lr", "hyper", ()), spec("ema_momentum", "hyper", ())]
    edit(folder, set_in("graphs", STEP, "inputs", inputs))
    open_package(folder)
    edit(folder, lambda table: table["hyper_parameters"].pop("ema_momentum"))
    assert problems(folder) == [f"{STEP}: unknown hyper-parameter 'ema_momentum'"]
    edit(folder, set_in("graphs", STEP, "inputs", [spec("momentum", "hyper", ())]))
    assert problems(folder) == [f"{STEP}: unknown hyper-parameter 'momentum'"]


@pytest.mark.parametrize(
    ("graph", "side", "border", "wanted"),
    [
        (STEP, "inputs", spec("param.v", "state"), "has no 'param.v' of float32 (64,)"),
        (STEP, "inputs", spec("param.w", "state", (63,)), "has no 'param.w' of float32 (63,)"),
        (
            STEP,
            "inputs",
            spec("param.w", "state", (64,), "float16"),
            "'param.w' of float16 (64,)",
        ),
        (STEP, "outputs", spec("next.param.v", "state"), "has no 'param.v' of float32 (64,)"),
        (
            "graphs/embed.onnx",
            "inputs",
            spec("v", "weight"),
            "has no 'param.v' of float32 (64,)",
        ),
        (STEP, "inputs", {**IMAGES, "name": "images.local"}, "draw feeds 'images.local'"),
        (STEP, "inputs", DRAW, "no view group or draw feeds 'draws.tokens'"),  # k050's
    ],
)
def test_an_input_that_nothing_feeds_is_reported(folder, graph, side, border, wanted):
    edit(folder, lambda table: table["graphs"][graph][side].append(border))
    (problem,) = problems(folder)
    assert problem.startswith(f"{graph}: ")
    assert wanted in problem


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        ({"name": "v", "timm_name": "v", "layout": "same"}, "tensor 'param.v' is not in the"),
        ({"name": "w", "timm_name": "w", "layout": "turned"}, "'w': unknown layout 'turned'"),
    ],
)
def test_an_encoder_that_is_not_in_the_state_is_reported(folder, tensor, wanted):
    edit(folder, lambda table: table["encoder"].append(tensor))
    (problem,) = problems(folder)
    assert wanted in problem


def test_weights_have_the_prefix_of_the_encoder(tmp_path):
    package = tiny_encoder.make_package(tmp_path / "package", encoder_prefix="ema.")
    edit(package.path, set_in("encoder_prefix", "moved."))
    lines = problems(package.path)
    assert len(lines) == 1 + 2 * len(tiny_encoder.ENCODER), lines
    assert "encoder_prefix: expected 'param.' or 'ema.', got 'moved.'" in lines
    assert "encoder tensor 'moved.patch.weight' is not in the state" in lines
    assert any("the state has no 'moved.fc.weight'" in problem for problem in lines)


@pytest.mark.parametrize(
    ("side", "key", "value", "found"),
    [
        (
            "inputs",
            "dtype",
            "float32",
            r"'images' is float32 \[None, 8, 8, 3\], expected uint8",
        ),
        ("inputs", "shape", [None, 8, 8], r"'images' is uint8 \[None, 8, 8\]"),
        ("inputs", "shape", [None, None, 8, 3], r"expected uint8 \[images, size, size, 3\]"),
        ("outputs", "dtype", "float16", r"'features' is float16 \[None, 4\]"),
        ("outputs", "shape", [None], r"'features' is float32 \[None\]"),
        ("outputs", "shape", [None, None], r"expected float32 \[images, width\]"),
    ],
)
def test_images_and_features_of_a_forward_graph_have_known_sizes(
    folder, side, key, value, found
):
    tensors = json.loads((folder / "manifest.json").read_text())["graphs"][EMBED][side]
    (number,) = (i for i, each in enumerate(tensors) if each["name"] in ("images", "features"))
    edit(folder, set_in("graphs", EMBED, side, number, key, value))
    (problem,) = problems(folder)
    assert re.search(found, problem), problem
