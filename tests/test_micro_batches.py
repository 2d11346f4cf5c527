"""Micro-batches: the same step in parts, where the objective allows it.

A gradient in parts adds the same float32 numbers in another order: 1e-5 of its norm.
"""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from paired_objective import Paired, paired_method  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.declaration import Declaration, LossResult  # noqa: E402
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.objectives.heads import HeadOptions  # noqa: E402
from edge_export.ort_training import artifacts as ort_training  # noqa: E402
from edge_export.package import verify  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.parameters import Buffer  # noqa: E402
from edge_export.policies import POLICIES, TokenPolicy  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import ConfigError, EngineError, PackageError  # noqa: E402
from edge_runtime.package.manifest import OrtTrainingGraphs  # noqa: E402
from edge_runtime.package.names import EXP_AVG, GRAD, PARAM, SUM  # noqa: E402

BATCH = 4
RELATIVE, ABSOLUTE = 1e-5, 1e-8
TINY = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 2},
    "batch_size": BATCH,
}


@pytest.fixture(scope="module", autouse=True)
def small_effort():
    """No ort-training artifacts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort_training, "is_available", lambda: False)
        yield


def export(folder, method, policy, micro_batches, keep_ratios=(0.5,), **options):
    if method == "byol":
        options = {"head_norm": "layer", **options}
    depth = 1 if policy == "random" else 2  # the others shorten between blocks
    table = {
        **TINY,
        "model": {**TINY["model"], "depth": depth},
        "method": {"name": method, "projector_width": 16, "projector_out": 8, **options},
        "tokens": {"name": policy},
        "keep_ratios": list(keep_ratios),
        "micro_batches": micro_batches,
    }
    recipe = make_recipe(table, where="test")
    return export_package(recipe, folder / "package", init=None, report=lambda *_: None)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """Token policy random: the whole batch of four pictures, and parts of two and of one."""
    with paired_method():
        yield export(tmp_path_factory.mktemp("paired"), "paired", "random", [2, 1])


def trained(package, rung_id, state=None, steps=3):
    """Losses of some steps on whole batches, and the state after them."""
    whole = package.manifest.rungs[0].id
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state() if state is None else state)
        losses = [
            engine.step(rung_id, noise_batch(package, whole, step), hyper_of(package, step))
            for step in range(1, steps + 1)
        ]
        return [result.metrics["loss"] for result in losses], engine.snapshot()


@pytest.mark.parametrize(("method", "policy"), [("simclr", "random"), ("mocov3", "simprune")])
def test_one_micro_batch_of_the_whole_batch_is_a_step(tmp_path, method, policy):
    package = export(tmp_path, method, policy, [BATCH])
    whole, parts = package.manifest.rungs
    assert list(whole.graphs) == ["step"]
    assert parts.graphs.keys() == {"accumulate", "apply"}
    losses, state = trained(package, whole.id)
    part_losses, part_state = trained(package, parts.id)
    assert part_losses == losses
    assert_equal(part_state, state)


def assert_equal(actual, wanted):
    for name, value in wanted.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("method", "policy"),
    [("byol", "simprune"), ("simsiam", "random"), ("byol", "evit"), ("byol", "tome")],
)
def test_micro_batches_are_the_step_of_the_whole_batch(tmp_path, method, policy):
    package = export(tmp_path, method, policy, [2, 1])
    whole, *others = package.manifest.rungs
    state = package.initial_state()
    for _ in range(3):
        (loss,), after = trained(package, whole.id, state, steps=1)
        for rung in others:
            (part_loss,), part_after = trained(package, rung.id, state, steps=1)
            assert part_loss == pytest.approx(loss, rel=RELATIVE)
            for name in (name for name in state if name.startswith(EXP_AVG)):
                moved = after[name] - state[name]
                error = np.linalg.norm(part_after[name] - after[name])
                rounding = 1e-6 * np.linalg.norm(state[name])
                assert error <= RELATIVE * np.linalg.norm(moved) + ABSOLUTE + rounding, name
        state = after


def test_a_rung_with_micro_batches_is_described(paired):
    whole, parts, _ = paired.manifest.rungs
    assert (whole.id, parts.id) == ("k050", "k050-m2")
    assert parts.graphs == {
        "accumulate": "graphs/k050-m2/accumulate.onnx",
        "apply": "graphs/apply.onnx",
    }
    assert (parts.flops, parts.tokens_per_block) == (whole.flops, whole.tokens_per_block)
    assert parts.draws == whole.draws
    accumulate = paired.manifest.graphs[parts.graphs["accumulate"]]
    summed = {t.name for t in accumulate.inputs if t.role == SUM}
    parameters = [t.name for t in paired.manifest.state if t.name.startswith(PARAM)]
    assert summed == {name.replace(PARAM, GRAD, 1) for name in parameters}
    apply = paired.manifest.graphs[parts.graphs["apply"]]
    assert summed == {t.name for t in apply.inputs if t.role == SUM}
    assert {f"next.{name}" for name in summed} == {
        t.name for t in accumulate.outputs if t.role == SUM
    }
    assert paired.manifest.changed_state(parts) == paired.manifest.changed_state(whole)
    (images,) = (t for t in accumulate.inputs if t.name == "images.global")
    assert images.shape == (2, 2, 16, 16, 3)


def test_smaller_micro_batches_take_less_memory(paired):
    whole, two, one = paired.manifest.rungs
    gradients = sum(
        tensor.size_bytes
        for tensor in paired.manifest.graphs[two.graphs["accumulate"]].inputs
        if tensor.role == SUM
    )
    assert gradients < one.peak_activation_bytes < two.peak_activation_bytes
    saved = two.peak_activation_bytes - one.peak_activation_bytes
    assert 0.2 < saved / whole.peak_activation_bytes < 0.3  # a quarter of the pictures


def test_a_step_that_fails_half_way_leaves_the_state(paired):
    rung = paired.manifest.rungs[1].id
    batch, hyper = noise_batch(paired, rung, 1), hyper_of(paired, 1)
    spoilt = {name: value.copy() for name, value in batch.items()}
    spoilt["keep.global"][:, -1] = 999  # a patch that does not exist, in the last micro-batch
    with create_engine("ort", threads=1) as engine:
        engine.open(paired, paired.initial_state())
        with pytest.raises(EngineError, match=f"cannot run a step of rung {rung}"):
            engine.step(rung, spoilt, hyper)
        assert_equal(engine.snapshot(), paired.initial_state())
        result = engine.step(rung, batch, hyper)
        state = engine.snapshot()
    (wanted,), wanted_state = trained(paired, rung, steps=1)
    assert result.metrics["loss"] == wanted
    assert_equal(state, wanted_state)


@pytest.mark.parametrize("pictures", [2, 6])
def test_a_batch_of_another_size_is_refused(paired, pictures):
    images = np.zeros((2, pictures, 16, 16, 3), np.uint8)
    with create_engine("ort", threads=1) as engine:
        engine.open(paired, paired.initial_state())
        message = (
            r"cannot run a step of rung k050-m2: 'images.global' has the shape .*; "
            rf"expected \[views, {BATCH}, \.\.\.\]\."
        )
        with pytest.raises(EngineError, match=message):
            engine.step("k050-m2", {"images.global": images}, hyper_of(paired, 1))


@pytest.mark.parametrize(
    ("method", "norm"),
    [("simclr", "layer"), ("vicreg", "layer"), ("barlowtwins", "layer"), ("byol", "batch")],
)
def test_an_objective_that_wrongly_allows_micro_batches_is_refused(
    tmp_path, monkeypatch, method, norm
):
    kind = OBJECTIVES[method]

    class Allowing(kind):
        def __init__(self, model, options):
            super().__init__(model, options)
            self.declaration = dataclasses.replace(self.declaration, micro_batch_refusal=None)

    monkeypatch.setitem(OBJECTIVES, method, Allowing)
    monkeypatch.setattr(verify, "TRIES", 1)
    with pytest.raises(PackageError, match=r"rung k050-m2 .* differs from PyTorch: loss"):
        export(tmp_path, method, "random", [2], head_norm=norm)


def test_the_ort_training_engine_names_alternatives(paired):
    facts = dataclasses.replace(paired.manifest.ort_training, refused=None)
    artifacts = OrtTrainingGraphs(training="t.onnx", eval="e.onnx", optimizer="o.onnx")
    whole, *others = paired.manifest.rungs
    rungs = (dataclasses.replace(whole, ort_training=artifacts), *others)
    manifest = dataclasses.replace(paired.manifest, ort_training=facts, rungs=rungs)
    package = dataclasses.replace(paired, manifest=manifest)
    try:
        engine = create_engine("ort-training")
    except EngineError as error:
        pytest.skip(str(error))
    message = (
        r"cannot train .*package: rung k050-m2 has micro-batches of 2, for which there are no "
        r"ort-training artifacts\. Use engine ort, or rung k050\."
    )
    with engine:
        engine.open(package, package.initial_state())
        with pytest.raises(EngineError, match=message):
            engine.step("k050-m2", {}, hyper_of(package, 1))


def problems(**table):
    with pytest.raises(ConfigError) as caught:
        make_recipe({**TINY, **table}, where="mine.toml")
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def table_of(method, **options):
    """The part of a recipe that names a method."""
    weight = float(method == "distillation")
    return {"method": {"name": method, **options}, "distillation": {"weight": weight}}


def refusal_of(method, **options):
    """Why a method needs the whole batch, with its options."""
    recipe = make_recipe({**TINY, **table_of(method, **options)}, where="test")
    objective = OBJECTIVES[method](recipe.facts(), recipe.method_options())
    return objective.declaration.micro_batch_refusal


# With default options, no picture sees another
EXACT = {"simsiam", "dino", "mae", "distillation"}
WITH_NORM = [
    name for name, kind in OBJECTIVES.items() if issubclass(kind.options, HeadOptions)
]


@pytest.mark.parametrize("method", OBJECTIVES)
def test_methods_need_the_whole_batch_or_not(method):
    refusal = refusal_of(method)
    assert (refusal is None) == (method in EXACT)
    if method not in EXACT:
        assert len(refusal.split()) > 3
        assert problems(**table_of(method), micro_batches=[4, 2]) == [
            f"micro_batches: method {method} needs the whole batch: {refusal}; "
            "docs/recipe.md says which do not"
        ]
    whole = [4, 2] if method in EXACT else [4]
    make_recipe({**TINY, **table_of(method), "micro_batches": whole}, where="test")


def test_byol_allows_micro_batches_without_batch_norm():
    assert refusal_of("byol", head_norm="layer") is None


@pytest.mark.parametrize("method", WITH_NORM)
def test_batch_norm_needs_the_whole_batch(method):
    options = {"name": method, "head_norm": "batch"}
    (problem,) = problems(method=options, micro_batches=[2])
    reason = "batch norm in the heads (method.head_norm) takes statistics of the batch"
    if method in EXACT:
        assert problem == (
            f"micro_batches: method {method} needs the whole batch: {reason}; "
            "docs/recipe.md says which do not"
        )
    make_recipe({**TINY, "method": options, "micro_batches": [4]}, where="test")


def test_any_objective_may_refuse():
    with paired_method("it counts its pictures"):
        assert problems(method={"name": "paired"}, micro_batches=[2]) == [
            "micro_batches: method paired needs the whole batch: it counts its pictures; "
            "docs/recipe.md says which do not"
        ]
    assert Paired.refusal is None


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([3], "micro_batches: 3 does not divide the batch size 4; 2 does"),
        ([0], "micro_batches[0]: expected an integer in [1, 1000000], got 0"),
        ([-2], "micro_batches[0]: expected an integer in [1, 1000000], got -2"),
        ([8], "micro_batches: 8 does not divide the batch size 4; 4 does"),
        ([2, 2], "micro_batches: each at most once"),
        (2, "micro_batches: expected a list, got 2"),
        ([2.0], "micro_batches[0]: expected an integer, got 2.0"),
        ([True], "micro_batches[0]: expected an integer, got True"),
    ],
    ids=str,
)
def test_impossible_sizes_are_reported(sizes, wanted):
    with paired_method():
        assert problems(method={"name": "paired"}, micro_batches=sizes) == [wanted]


def test_text_is_not_a_list():
    with pytest.raises(
        ConfigError, match=r"micro_batches: expected a list such as \[16, 8\], got"
    ):
        make_recipe({**TINY, "micro_batches": "2"}, where="mine.toml")


class Counting(TokenPolicy):
    """Adds to a buffer in every step of the rungs that prune."""

    name = "counting"
    uses_keep_ratio = True

    @property
    def declaration(self):
        return Declaration(buffers=(Buffer(name="pruned", initial=torch.zeros(2)),))

    def loss(self, step):
        if self.setting.keep_ratio == 1:
            return None
        new = {"pruned": step.buffers["pruned"] + 1}
        return LossResult(loss=torch.zeros(()), buffers=new)


@pytest.mark.parametrize("ratios", [[1.0, 0.5], [0.5, 1.0]], ids=str)
def test_rungs_with_other_sums_have_optimizer_graphs_of_their_own(
    tmp_path, monkeypatch, ratios
):
    monkeypatch.setitem(POLICIES, Counting.name, Counting)
    with paired_method():
        package = export(tmp_path, "paired", "counting", [2, 1], ratios)
    rungs = {rung.id: rung for rung in package.manifest.rungs}
    specs = package.manifest.graphs
    paths = {name: rung.graphs["apply"] for name, rung in rungs.items() if "-m" in name}
    first, second = ("k100", "k050") if ratios[0] == 1 else ("k050", "k100")
    assert paths == {
        f"{first}-m2": "graphs/apply.onnx",
        f"{first}-m1": "graphs/apply.onnx",
        f"{second}-m2": f"graphs/{second}-m2/apply.onnx",
        f"{second}-m1": f"graphs/{second}-m2/apply.onnx",
    }
    for name, path in paths.items():
        given = {
            t.name for t in specs[rungs[name].graphs["accumulate"]].inputs if t.role == SUM
        }
        taken = {t.name for t in specs[path].inputs if t.role == SUM}
        assert given == taken
        assert ("mean.buffer.pruned" in taken) == name.startswith("k050")
    state = package.initial_state()
    for name, steps in (("k050-m2", 2), ("k100-m2", 2), ("k050-m1", 4), ("k100", 4)):
        _, state = trained(package, name, state, steps=2)
        np.testing.assert_array_equal(state["buffer.pruned"], [steps, steps])
