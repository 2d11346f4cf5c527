"""Half precision: what is float16, loss scaling like `torch.amp.GradScaler`'s, skipped steps.

Graphs run here with float32 in place of float16 (`edge_export.package.widened`). There an
infinite weight makes gradients that are not finite; PyTorch's own float16 overflows by itself.
"""

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is PyTorch")

import onnx  # noqa: E402
from combinations import METHODS_AND_POLICIES, keep_ratios  # noqa: E402
from lowered import lowered  # noqa: E402
from paired_objective import paired_method  # noqa: E402
from ranker_file import ranker_for  # noqa: E402
from selections import CHOOSERS  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.analysis.liveness import arena_bytes  # noqa: E402
from edge_export.package import graphs  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.widened import in_float32, widen  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step import precision  # noqa: E402
from edge_export.step.example import example_draws, example_images  # noqa: E402
from edge_export.step.precision import HalfPrecision, all_finite, next_scale  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import ConfigError, PackageError  # noqa: E402
from edge_runtime.package.curves import hyper_parameters  # noqa: E402
from edge_runtime.package.names import EMA, METRIC, PARAM, STATE, SUM  # noqa: E402

SCALE, GOOD = "buffer.loss_scale", "buffer.good_steps"
POISONED = "param.encoder.norm.weight"  # infinite where a step shall have no finite gradients
SMALL = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 3, "width": 48, "heads": 2},
    "batch_size": 8,
    "precision": "fp16",
}


def recipe_of(method="simclr", policy="random", **changes):
    ratios = keep_ratios(method, policy)[-1:]
    parts = {"method": {"name": method}, "tokens": {"name": policy}, "keep_ratios": ratios}
    return make_recipe({**SMALL, **parts, **changes}, where="test")


def export(folder, recipe):
    given = {"init": None, "ranker": ranker_for(recipe, folder), "verify_all": True}
    return export_package(recipe, folder / "package", report=lambda *_: None, **given)


def test_the_defaults_are_those_of_grad_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu")
    assert scaler.get_scale() == precision.INITIAL_SCALE
    assert scaler.get_growth_factor() == precision.GROWTH
    assert scaler.get_backoff_factor() == precision.BACKOFF
    assert scaler.get_growth_interval() == precision.GROWTH_INTERVAL
    initial = {b.name: float(b.initial) for b in HalfPrecision.declaration.buffers}
    assert initial == {"loss_scale": precision.INITIAL_SCALE, "good_steps": 0}


def test_the_scale_changes_as_that_of_grad_scaler(monkeypatch) -> None:
    """PyTorch's own scaler, step by step, with an interval of 3 updates."""
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    state = {SCALE: torch.tensor(2.0**126), GOOD: torch.tensor(0.0)}
    scales = set()
    # Grows up to the largest power of two, not beyond it; falls; grows again
    for good in "111111101101110011100000111":
        scaler.scale(torch.ones(()))  # as before a gradient
        weight.grad = torch.full((2,), 1.0 if good == "1" else float("nan"))
        scaler.step(optimizer)
        scaler.update()
        state = next_scale(torch.tensor(good == "1"), state)
        assert state[SCALE].item() == scaler.get_scale()
        assert state[GOOD].item() == scaler._get_growth_tracker()
        scales.add(state[SCALE].item())
    assert len(scales) > 4


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), None])
def test_one_number_that_is_not_finite_is_found(bad) -> None:
    gradients = [torch.zeros(3), torch.ones(2, 2), torch.full((5,), -1e10)]
    if bad is not None:
        gradients[1][0, 1] = bad
    (lowered_answer,) = run_widened(lowered(lambda *g: all_finite(g), *gradients), *gradients)
    assert bool(all_finite(gradients)) == bool(lowered_answer) == (bad is None)


def run_widened(model, *inputs):
    from lowered import run

    widen(model)
    return run(model, *inputs)


@pytest.fixture(scope="module", params=METHODS_AND_POLICIES, ids="-".join)
def exported(request, tmp_path_factory):
    """Recipe and package of every method and policy; the export has verified it."""
    recipe = recipe_of(*request.param)
    return recipe, export(tmp_path_factory.mktemp("half"), recipe)


@pytest.fixture(scope="module")
def mocov3(tmp_path_factory):
    """A package with a teacher, and rungs that train different parameters."""
    recipe = recipe_of("mocov3", "simprune", trained=["all", "last-1"])
    return recipe, export(tmp_path_factory.mktemp("half"), recipe)


def poisoned(state):
    weights = state[POISONED].copy()
    weights[0] = np.inf
    return {**state, POISONED: weights}


def engine_step(package, rung, state, step=1):
    with create_engine("ort", threads=1) as engine:
        engine.open(package, state)
        result = engine.step(rung, noise_batch(package, rung, step), hyper_of(package, step))
        return result, engine.snapshot()


def torch_step(program, package, rung_id, state, step):
    """The same with PyTorch: metrics and the next state."""
    settings = next(each for each in program.settings if each.id == rung_id)
    given = {**state, **noise_batch(package, rung_id, step)}
    inputs = {name: torch.from_numpy(value) for name, value in given.items()}
    inputs |= {k: torch.tensor(v) for k, v in hyper_of(package, step).items()}
    border = program.bind(settings).step(inputs)
    metrics = {k: float(v) for k, v in border.tensors.items() if border.roles[k] == METRIC}
    after = {
        k.removeprefix("next."): v.numpy()
        for k, v in border.tensors.items()
        if border.roles[k] == STATE
    }
    return metrics, {**state, **after}


def test_every_step_is_pytorchs_also_skipped_ones(exported) -> None:
    """From one state to the next, through a skipped step; tolerances of the parity tests."""
    recipe, package = exported
    with in_float32(package, Program(recipe)) as (wide, program):
        (rung,) = (each.id for each in wide.manifest.rungs)
        state, applied = wide.initial_state(), []
        for step in range(1, 6):
            if step == 3:
                good, state = state, poisoned(state)
            result, after = engine_step(wide, rung, state, step)
            metrics, wanted = torch_step(program, wide, rung, state, step)
            loss = pytest.approx(metrics["loss"], rel=1e-4, nan_ok=True)
            assert result.metrics["loss"] == loss
            assert result.metrics["loss_scale"] == metrics["loss_scale"]
            assert result.applied == bool(metrics["applied"])
            applied.append(result.applied)
            # Parameters near zero gradient move by the sign of rounding, as Adam does.
            for name in (n for n in state if not n.startswith((PARAM, EMA))):
                error = np.linalg.norm(after[name] - wanted[name])
                assert error <= 1e-3 * np.linalg.norm(wanted[name]) + 1e-7, (step, name)
            state = {**wanted, POISONED: good[POISONED]} if step == 3 else wanted
        assert applied == [True, True, False, True, True]


def test_a_skipped_step_changes_only_the_scale(mocov3) -> None:
    recipe, package = mocov3
    with in_float32(package, Program(recipe)) as (wide, _):
        for rung in wide.manifest.rungs:
            _, before = engine_step(wide, rung.id, wide.initial_state())
            before = poisoned({**before, GOOD: np.array(7, np.float32)})
            result, after = engine_step(wide, rung.id, before, 2)
            assert result.applied is False
            assert result.metrics["loss_scale"] == 2**16
            changed = {
                name for name in before if after[name].tobytes() != before[name].tobytes()
            }
            assert changed == {SCALE, GOOD}
            assert (after[SCALE], after[GOOD]) == (2**15, 0)


def test_an_overflow_of_float16_is_skipped_although_the_loss_is_finite() -> None:
    program = Program(recipe_of("mocov3", "none"))
    rung = program.bind(program.settings[0])
    curves = hyper_parameters(
        program.hyper_parameters, step=3, steps_per_epoch=4, total_steps=4
    )
    inputs = {**program.initial_state(), **example_images(rung)}
    inputs |= {name: torch.tensor(value) for name, value in curves.items()}
    inputs[SCALE] = torch.tensor(2.0**40)
    outputs = rung.step(inputs).tensors
    assert torch.isfinite(outputs["loss"])
    assert outputs["applied"] == 0
    for name, value in outputs.items():
        if name.startswith("next.") and "buffer" not in name:
            assert torch.equal(value, inputs[name.removeprefix("next.")])
    assert outputs[f"next.{SCALE}"] == 2.0**39


def test_the_scale_grows_after_its_interval(mocov3) -> None:
    recipe, package = mocov3
    with in_float32(package, Program(recipe)) as (wide, _):
        rung = wide.manifest.rungs[0].id
        for good, expected in ((1998, (2.0**16, 1999)), (1999, (2.0**17, 0))):
            state = {**wide.initial_state(), GOOD: np.array(good, np.float32)}
            result, after = engine_step(wide, rung, state)
            assert result.applied
            assert (after[SCALE], after[GOOD]) == expected


def test_skipped_steps_do_not_count_for_adamw(mocov3) -> None:
    """As with GradScaler, whose optimizer is not called then: its bias correction waits."""
    recipe, package = mocov3
    with in_float32(package, Program(recipe)) as (wide, _):
        rung = wide.manifest.rungs[0].id
        state = wide.initial_state()
        _, after = engine_step(wide, rung, poisoned(state))
        cured = {name: state[name] for name in (POISONED, SCALE)}
        _, late = engine_step(wide, rung, {**after, **cured}, 1)
        _, first = engine_step(wide, rung, state, 1)
        for name, value in first.items():
            np.testing.assert_array_equal(late[name], value, err_msg=name)


def test_a_step_in_micro_batches_is_skipped_as_a_whole(tmp_path) -> None:
    with paired_method():
        model = {**SMALL["model"], "depth": 1}
        recipe = recipe_of("paired", "none", model=model, micro_batches=[4])
        package = export(tmp_path, recipe)
        with in_float32(package, Program(recipe)) as (wide, _):
            rung = wide.manifest.rungs[-1]
            assert rung.micro_batch == 4
            state = wide.initial_state()
            whole, after = engine_step(wide, wide.manifest.rungs[0].id, state)
            result, parts = engine_step(wide, rung.id, state)
            assert result.applied
            assert result.metrics.keys() == {"loss", "applied", "loss_scale"}
            assert result.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)
            weight = "param.encoder.blocks.0.mlp.fc1.weight"
            np.testing.assert_allclose(parts[weight], after[weight], atol=1e-6)
            result, skipped = engine_step(wide, rung.id, poisoned(state))
            assert not result.applied
            np.testing.assert_array_equal(skipped[weight], state[weight])
            assert skipped[SCALE] == 2**15
    sums = package.manifest.graphs[rung.graphs["accumulate"]].outputs
    assert {t.dtype for t in sums if t.role == SUM} == {"float32"}


def step_model(**changes):
    program = Program(recipe_of("mocov3", "simprune", **changes))
    rung = program.bind(program.settings[0])
    return graphs.step_graph(rung, program.initial_state()).model


def kinds_of(model) -> dict[str, int]:
    """The element type of every tensor of a graph."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.data_type for value in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        kinds[value.name] = value.type.tensor_type.elem_type
    return kinds


def test_products_are_half_and_norms_softmax_and_losses_are_not() -> None:
    model = step_model()
    kinds = kinds_of(model)
    half = Counter(n.op_type for n in model.graph.node if kinds[n.output[0]] == 10)
    full = Counter(n.op_type for n in model.graph.node if kinds[n.output[0]] == 1)
    # Of two branches patch embedding, qkv, proj, fc1 and fc2 of three blocks, and projector
    assert half["Gemm"] == 2 * (1 + 3 * 4 + 3) + 2  # and the predictor
    assert full["Gemm"] == 0
    for op in ("LayerNormalization", "Softmax", "Log", "Sqrt", "Less", "Where"):
        assert half[op] == 0
        assert full[op] + (op == "Less") > 0
    # Nothing at the border: state and metrics are float32
    border = {v.name for v in (*model.graph.input, *model.graph.output)}
    assert 10 not in {kinds[name] for name in border}


def test_every_weight_is_cast_once() -> None:
    model = step_model()
    casts = Counter(n.input[0] for n in model.graph.node if n.op_type == "Cast")
    weights = {n: count for n, count in casts.items() if n.startswith((PARAM, "ema."))}
    assert set(weights.values()) == {1}
    assert f"{PARAM}encoder.blocks.0.mlp.fc1.weight" in weights
    assert not any("norm" in name or "pos_embed" in name for name in weights)


def test_gradients_are_near_those_of_float32() -> None:
    """Float16 rounds by 2**-11 at most, 5e-4. Some thirty roundings follow each other in
    forward and backward of this model; at random they add up to sqrt(30) times that, 3e-3.
    """
    for method, policy in METHODS_AND_POLICIES:
        if policy in CHOOSERS:
            continue  # a choice of tokens may tip over
        half, full = (
            Program(recipe_of(method, policy, precision=name)) for name in ("fp16", "fp32")
        )
        rungs = [program.bind(program.settings[0]) for program in (half, full)]
        inputs = {**example_images(rungs[0]), **example_draws(rungs[0])}
        curves = hyper_parameters(
            half.hyper_parameters, step=3, steps_per_epoch=4, total_steps=4
        )
        inputs |= half.initial_state()
        inputs[SCALE] = torch.tensor(2.0**4)  # the loss of Barlow Twins begins near 800
        inputs |= {name: torch.tensor(value) for name, value in curves.items()}
        (found, outputs), (wanted, exact) = (rung.gradient(inputs) for rung in rungs)
        assert float(outputs.metrics["loss"]) == pytest.approx(
            float(exact.metrics["loss"]),
            rel=1e-3,
            abs=1e-3,  # a cosine may be near zero
        )
        largest = max(float(value.norm()) for value in wanted.values())
        for name, value in wanted.items():
            assert found[name].dtype == torch.float32
            error = float((found[name] - value).norm())
            assert error <= 1e-2 * float(value.norm()) + 1e-4 * largest, name


def test_without_a_scale_small_gradients_would_be_lost() -> None:
    """What the scale is for: here it makes the loss smaller."""
    program = Program(recipe_of("simclr", "none"))
    rung = program.bind(program.settings[0])
    inputs = {**program.initial_state(), **example_images(rung)}
    weight = "encoder.blocks.0.mlp.fc1.weight"
    gradients = {}
    for scale in (2.0**-20, 2.0**10):
        given = {**inputs, SCALE: torch.tensor(scale)}
        gradients[scale] = rung.gradient(given)[0][weight]
    small, usual = gradients.values()
    assert (usual != 0).float().mean() > 0.99
    assert (small != 0).float().mean() < 0.5


def test_the_embedding_graph_is_float32(mocov3) -> None:
    _, package = mocov3
    model = onnx.load(package.file(package.manifest.embed))
    assert 10 not in kinds_of(model).values()


def test_constants_are_exact_where_a_graph_is_widened() -> None:
    third = 1 / 3
    x = torch.ones(2, dtype=torch.float16)
    model = lowered(lambda x: (x * third).float(), x)
    assert kinds_of(model)["y0"] == 1
    (cast,) = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0] == "c0"]
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]) == np.float32(third)
    widen(model)
    assert {a.i for a in cast.attribute} == {onnx.TensorProto.FLOAT}


def test_a_wrong_half_graph_is_not_published(tmp_path, monkeypatch) -> None:
    wrong = HalfPrecision.unscaled

    def unscaled(self, gradients, inputs):
        right = wrong(self, gradients, inputs)
        return {name: value * 1.001 for name, value in right.items()}

    recipe = recipe_of(model={**SMALL["model"], "depth": 1})
    original = Program.bind
    monkeypatch.setattr(HalfPrecision, "unscaled", unscaled)

    def bind(self, settings):  # the oracle of the verification is right
        if self.precision._matrices is torch.float32:
            monkeypatch.setattr(HalfPrecision, "unscaled", wrong)
        return original(self, settings)

    monkeypatch.setattr(Program, "bind", bind)
    with pytest.raises(PackageError, match=r"gradient of .* is off by"):
        export(tmp_path, recipe)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_names_the_precision(mocov3) -> None:
    _, package = mocov3
    manifest = package.manifest
    assert (manifest.precision, manifest.recipe["precision"]) == ("fp16", "fp16")
    assert manifest.ort_training.refused == (
        "precision fp16: the official training API scales no losses"
    )
    assert {spec.dtype for spec in manifest.state} == {"float32"}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision: unknown 'bf16'; known are fp32, fp16"):
        recipe_of(precision="bf16")


def test_a_step_needs_less_memory() -> None:
    """Where activations are more than gradients, which half precision keeps all at once."""
    peaks = {}
    for name in ("fp32", "fp16"):
        program = Program(recipe_of("simclr", "none", precision=name, batch_size=256))
        graph = graphs.step_graph(program.bind(program.settings[0]), program.initial_state())
        peaks[name] = arena_bytes(graph.model)
    assert 0.5 < peaks["fp16"] / peaks["fp32"] < 0.75
