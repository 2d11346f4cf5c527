"""Rungs that train a part: what they change, what they cost, and that engines agree."""

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

import onnx  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402
from trained_sets import (  # noqa: E402
    ADAPTED,
    DEPTH,
    FACTORS,
    LAYERS,
    SETS,
    assert_close,
    inputs_of,
    merged_by_hand,
    recipe_of,
    rung_of,
    slow_features,
)

from edge_export.analysis.shapes import tensor_shapes  # noqa: E402
from edge_export.ort_training import artifacts  # noqa: E402
from edge_export.package import verify  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.graphs import step_graph  # noqa: E402
from edge_export.policies.ranked import REPAIR_TOKENS  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import (  # noqa: E402
    ForwardOptions,
    create_engine,
    create_forward_engine,
    encoder_weights,
)
from edge_runtime.package.names import BUFFER, EMA, EXP_AVG, EXP_AVG_SQ, PARAM  # noqa: E402


@pytest.fixture(scope="module")
def program():
    return Program(recipe_of())


def test_every_set_has_its_parameters(program):
    names = set(program.parameters)
    outside = {name for name in names if not name.startswith("encoder.")}
    assert outside
    vectors = {
        name
        for name in names
        if re.search(r"\.bias$|\.norm[12]\.weight$|^encoder\.norm\.weight$", name)
    }
    last = {name for name in names if name.startswith(("encoder.blocks.1.", "encoder.norm."))}
    wanted = {
        "all": names - FACTORS,
        "last-1": outside | (last - FACTORS),
        "biases": outside | vectors,
        "lora-2": outside | FACTORS,
    }
    assert {trained: set(program.trained_names(trained)) for trained in SETS} == wanted


@pytest.mark.parametrize("trained", SETS)
def test_only_rungs_of_all_train_repair_tokens(trained):
    program = Program(recipe_of(tokens={"name": "ranked", "repair": 1}))
    assert (REPAIR_TOKENS in program.trained_names(trained)) == (trained == "all")


def test_a_part_has_the_gradients_of_the_whole(program):
    inputs = inputs_of(program)
    whole, _ = rung_of(program, "all").gradient(inputs)
    for trained in ("biases", "last-1"):
        part, _ = rung_of(program, trained).gradient(inputs)
        assert_close(part, {name: whole[name] for name in program.trained_names(trained)})


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Exported, with artifacts of the official API if they were possible."""
    folder = tmp_path_factory.mktemp("sets") / "package"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "is_available", lambda: True)
        yield export_package(recipe_of(), folder, init=None, report=lambda *_: None)


@pytest.mark.parametrize("trained", SETS)
def test_a_step_on_the_engine_is_pytorchs(package, program, trained):
    """The export compares initial states, in which B is zero and so is the gradient of A."""
    generator, state = np.random.default_rng(3), dict(package.initial_state())
    for name in (name for name in state if name.endswith("lora_b")):
        if name.startswith((PARAM, EMA)):
            state[name] = generator.normal(0, 0.1, state[name].shape).astype(np.float32)
    rung = rung_of(program, trained)
    verify._verify_rung(package, rung, package.rung(rung.settings.id), "ort", state)


def trained_on(package, rungs):
    """The state before the first and after every step, on these rungs."""
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        yield package.initial_state()
        for step, rung in enumerate(rungs, start=1):
            engine.step(rung, noise_batch(package, "k100", step), hyper_of(package, step))
            yield engine.snapshot()


def test_the_official_api_is_refused(package):
    reason = "parametrization 'lora' is not supported by it"
    assert package.manifest.ort_training.refused == reason
    biases = Program(recipe_of(trained=["biases"]))
    assert artifacts.refusal(biases) == (
        "trained: the ort-training optimizer updates every parameter"
    )


def test_a_step_changes_its_set_alone_whatever_was_trained_before(package, program):
    ids = {f"k100-{name}" if name != "all" else "k100": name for name in SETS}
    turns = ["k100", "k100-lora-2", "k100-biases", "k100-last-1", "k100-lora-2", "k100"]
    before, *states = trained_on(package, turns)
    for rung, after in zip(turns, states, strict=True):
        names = set(program.trained_names(ids[rung]))
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        for prefix in (PARAM, EXP_AVG, EXP_AVG_SQ):
            moved = {n.removeprefix(prefix) for n in changed if n.startswith(prefix)}
            # While B is zero, so is the gradient of A: weight decay alone changes it.
            still = {n for n in names if n.endswith("lora_a") and prefix != PARAM}
            still = still if not before[f"{PARAM}{ADAPTED[0]}.lora_b"].any() else set()
            assert moved == names - still, (rung, prefix)
        copied = {n.removeprefix(EMA) for n in changed if n.startswith(EMA)}
        assert copied == names & set(program.teacher_names), rung
        assert not any(name.startswith(BUFFER) for name in changed)
        before = after


def test_the_exported_weights_are_merged(package):
    *_, state = trained_on(package, ["k100-lora-2"] * 3 + ["k100"])
    assert all(state[PARAM + name].any() for name in FACTORS)
    found = encoder_weights(package, state)
    wanted = merged_by_hand({n: torch.from_numpy(v) for n, v in state.items()})
    for name, value in found.items():  # float32: the merge graph's product and PyTorch's
        np.testing.assert_allclose(value, wanted[PARAM + name], rtol=1e-6, atol=1e-7)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with create_forward_engine(options=ForwardOptions(threads=1)) as engine:
        engine.open(package, package.manifest.embed, found)
        features = engine.run(images)
    values = {
        n.removeprefix(PARAM): torch.from_numpy(v).double()
        for n, v in state.items()
        if n.startswith(PARAM)
    }
    expected = slow_features(values, torch.from_numpy(images))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def products(package, rung_id):
    """Sizes of the results of the rung's matrix products."""
    model = onnx.load(package.file(package.rung(rung_id).graphs["step"]))
    shapes = tensor_shapes(model)
    kinds = ("MatMul", "Gemm")
    return [shapes[n.output[0]].sizes for n in model.graph.node if n.op_type in kinds]


def test_frozen_matrices_cost_no_gradient(package):
    """No product of a set's graph has the size of a weight that it leaves out.

    But for the merge, which multiplies factors of rank R: one product per adapted matrix and
    branch that is merged.
    """
    sizes = {tuple(sorted(shape)) for shape in LAYERS.values()}
    count = {
        rung: sum(tuple(sorted(size)) in sizes for size in products(package, rung))
        for rung in ("k100", "k100-last-1", "k100-biases", "k100-lora-2")
    }
    student, teacher, gradients = len(ADAPTED), len(ADAPTED), len(ADAPTED)
    assert count == {
        "k100": student + teacher + gradients,
        "k100-last-1": student + teacher + gradients // DEPTH,
        "k100-biases": student + teacher,
        "k100-lora-2": teacher,
    }


def test_a_smaller_set_needs_fewer_flops_and_less_memory(package):
    rungs = {rung.id: rung for rung in package.manifest.rungs}
    whole = rungs["k100"]
    for name in ("last-1", "biases", "lora-2"):
        assert rungs[f"k100-{name}"].flops < whole.flops, name
    for name in ("last-1", "biases"):  # factors need the inputs of their layers, as weights do
        smaller = rungs[f"k100-{name}"].peak_activation_bytes
        assert smaller < whole.peak_activation_bytes, name


def test_half_precision_with_micro_batches_is_exported(tmp_path):
    """Verified in float32 with the same graphs; the factors are float16 in their products."""
    recipe = recipe_of(trained=["lora-2"], precision="fp16", micro_batches=[2])
    package = export_package(recipe, tmp_path / "package", init=None, report=lambda *_: None)
    _, parts = package.manifest.rungs
    model = onnx.load(package.file(parts.graphs["accumulate"]))
    cast = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    assert {PARAM + name for name in FACTORS if name.endswith("lora_a")} <= cast


def test_an_update_of_the_factors_is_counted_apart(program):
    groups = program.update_groups
    assert groups["encoder.blocks.0.mlp.fc1.lora_a"] == "lora-2"
    assert groups["encoder.blocks.0.mlp.fc1.weight"] == "all"
    assert groups["encoder.blocks.0.mlp.fc1.bias"] == "all+biases"
    assert groups["projector.0.weight"] == "all+last-1+biases+lora-2"


def test_the_document_says_what_each_set_saves():
    """Of FLOPs, for some of them: each takes seconds."""
    text = (Path(__file__).parents[1] / "docs/methods.md").read_text()
    section = text.partition("\n## Trained parameters\n")[2]
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) % \|", section, re.M)
    model = {"name": "vit_tiny", "image_size": 32, "patch_size": 4}
    flops = {}
    for trained in ("all", "last-2", "lora-8"):
        table = {"model": model, "tokens": {"name": "none"}, "trained": [trained]}
        program = Program(make_recipe(table, where="test"))
        (settings,) = program.settings
        graph = step_graph(program.bind(settings), program.initial_state())
        flops[trained] = graph.spec.flops
    saved = {(name, f"{100 * (1 - n / flops['all']):.0f}") for name, n in flops.items()}
    assert saved < set(rows)
    assert len(rows) == 5
