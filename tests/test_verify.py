"""A package is published only if its graphs are PyTorch's: any difference is detected."""

import dataclasses
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="packages are verified against PyTorch")

from declaring_parts import MASKED, WITHOUT_GRADIENT, declaring_parts, new_mask  # noqa: E402

from edge_export.declaration import PeriodicUpdate  # noqa: E402
from edge_export.package import verify as module  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.verify import artifacts_problem, verify  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_export.step.rung import RungProgram, StepOutputs  # noqa: E402
from edge_runtime.engines import ENGINES, create_engine  # noqa: E402
from edge_runtime.errors import EngineError, PackageError  # noqa: E402
from edge_runtime.package.names import LOSS  # noqa: E402

TINY = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1},
    "method": {"name": "mocov3", "projector_width": 16, "projector_out": 8},
    "batch_size": 4,
    "keep_ratios": [1.0, 0.5],
}
DECLARING = {
    **TINY,
    "model": {**TINY["model"], "depth": 2},
    "method": {"name": "centred"},
    "parametrization": {"name": "masked"},
    "keep_ratios": [0.5],
    "trained": ["all", "last-1"],
}
PARAMETER = "encoder.blocks.0.mlp.fc1.weight"


def export(table, folder):
    recipe = make_recipe(table, where="test")
    return export_package(recipe, folder / "package", init=None, report=lambda *_: None)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return export(TINY, tmp_path_factory.mktemp("verify"))


TRIES = module.TRIES


@pytest.fixture(autouse=True)
def small_effort(monkeypatch):
    """One batch, and engines with one thread: more are slower for products this small."""
    monkeypatch.setattr(module, "TRIES", 1)
    monkeypatch.setattr(module, "create_engine", partial(create_engine, threads=1))


@pytest.fixture
def program(package):
    return Program(make_recipe(package.manifest.recipe, where="manifest"))


def on_ort(package, rungs=1):
    """The package with only its first rungs, and no ort-training artifacts."""
    facts = dataclasses.replace(package.manifest.ort_training, refused="for this test")
    kept = package.manifest.rungs[:rungs]
    manifest = dataclasses.replace(package.manifest, ort_training=facts, rungs=kept)
    return dataclasses.replace(package, manifest=manifest)


def alone(program, rungs=1):
    """The program with only its first rungs."""
    program.settings = program.settings[:rungs]
    return program


def changed(monkeypatch, owner, method, change):
    """Make PyTorch's side compute other results than the graphs."""
    original = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda *given: change(original(*given)))


def scaled(name, factor):
    """Multiply one tensor of a method's results."""

    def change(result):
        if isinstance(result, StepOutputs):
            return StepOutputs(*map(change, result))
        if isinstance(result, tuple):  # gradients, outputs
            return tuple(map(change, result))
        return {k: v * factor if k == name else v for k, v in result.items()}

    return change


def test_every_engine_here_is_tried_on_every_rung(monkeypatch, package, program):
    tried = []
    original = module._difference

    def noted(rung, described, engine, *given, seed):
        tried.append((engine.name, described.id))
        return original(rung, described, engine, *given, seed=seed)

    monkeypatch.setattr(module, "_difference", noted)
    here = [name for name in ENGINES if module._installed(name)]
    if "ort-training" not in here:
        assert package.manifest.ort_training.refused is not None
    verify(package, program)
    assert artifacts_problem(package, program) is None
    here.sort(key=lambda name: name == "ort-training")  # its artifacts come last
    assert tried == [(name, rung) for name in here for rung in ("k100", "k050")]


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        (
            "gradient",
            LOSS,
            r"rung k100 on engine ort \(onnxruntime.*\) differs from PyTorch: loss is .*, exp",
        ),
        (
            "gradient",
            PARAMETER,
            rf"gradient of {PARAMETER} is off by .*, allowed ",
        ),
        ("update", f"param.{PARAMETER}", rf"step of param\.{PARAMETER} is off by"),
        ("update", f"exp_avg_sq.{PARAMETER}", rf"step of exp_avg_sq\.{PARAMETER} is off"),
        ("update", f"ema.{PARAMETER}", rf"step of ema\.{PARAMETER} is off by"),
    ],
)
def test_a_difference_of_one_percent_is_refused(
    monkeypatch, package, program, method, name, message
):
    changed(monkeypatch, RungProgram, method, scaled(name, 1.01))
    with pytest.raises(PackageError, match=message):
        verify(on_ort(package), alone(program))


def test_other_features_are_refused(monkeypatch, package, program):
    changed(monkeypatch, program, "embed", lambda features: features * 1.01)
    message = r"graphs/embed\.onnx differs .*: output features is off by .*\. No"
    with pytest.raises(PackageError, match=message):
        verify(on_ort(package), alone(program))


@pytest.mark.parametrize("name", [LOSS, PARAMETER])
def test_rounding_is_not_a_difference(monkeypatch, package, program, name):
    changed(monkeypatch, RungProgram, "gradient", scaled(name, 1 + 1e-5))
    verify(on_ort(package), alone(program))


@pytest.mark.parametrize("name", [LOSS, PARAMETER])
def test_nan_is_a_difference(monkeypatch, package, program, name):
    changed(monkeypatch, RungProgram, "gradient", scaled(name, float("nan")))
    with pytest.raises(PackageError, match="differs from PyTorch"):
        verify(on_ort(package), alone(program))


def test_every_rung_is_compared(monkeypatch, package, program):
    original = RungProgram.gradient

    def wrong_for_half(rung, inputs):
        result = original(rung, inputs)
        return scaled(LOSS, 1.01)(result) if rung.settings.keep_ratio == 0.5 else result

    monkeypatch.setattr(RungProgram, "gradient", wrong_for_half)
    with pytest.raises(PackageError, match="rung k050 on engine ort "):
        verify(on_ort(package, rungs=2), program)


def test_the_ort_training_engine_is_compared(monkeypatch, package, program):
    pytest.importorskip("onnxruntime.training.api", reason="the official training API")
    changed(monkeypatch, RungProgram, "gradient", scaled(LOSS, 1.01))
    problem = artifacts_problem(package, program)
    assert problem is not None
    assert "rung k100 on engine ort-training" in problem
    assert "differs from PyTorch: loss is" in problem


def test_a_near_tie_of_one_batch_is_not_a_difference(monkeypatch, package, program):
    original, seeds = module._difference, []

    def near_tie(*given, seed):
        seeds.append(seed)
        return original(*given, seed=seed) if seed == 2 else "a near tie"

    monkeypatch.setattr(module, "TRIES", TRIES)
    monkeypatch.setattr(module, "_difference", near_tie)
    verify(on_ort(package), alone(program))
    assert seeds == [0, 1, 2]


def test_a_difference_on_every_batch_is_refused(monkeypatch, package, program):
    seeds = []

    def different(*_, seed):
        seeds.append(seed)
        return f"batch {seed} differs"

    monkeypatch.setattr(module, "TRIES", TRIES)
    monkeypatch.setattr(module, "_difference", different)
    with pytest.raises(PackageError, match=f"batch {TRIES - 1} differs"):
        verify(on_ort(package), alone(program))
    assert seeds == list(range(TRIES))


def test_without_any_engine_nothing_is_verified(monkeypatch, package, program):
    def missing(name):
        raise EngineError(f"{name} is not installed; install it")

    monkeypatch.setattr(module, "create_engine", missing)
    with pytest.raises(EngineError, match="ort is not installed; install it"):
        verify(package, program)


# Declarations other than parameters


@pytest.fixture(scope="module")
def declaring_package(tmp_path_factory):
    """Two metrics, three buffers, a parameter without gradient, a mask, and a rung in part."""
    with declaring_parts():
        return export(DECLARING, tmp_path_factory.mktemp("declaring"))


@pytest.fixture
def declaring(declaring_package):
    """The package and its program, to modify."""
    with declaring_parts():
        recipe = make_recipe(declaring_package.manifest.recipe, where="manifest")
        yield declaring_package, Program(recipe)


def test_the_package_has_every_kind_of_graph(declaring):
    package, program = declaring
    manifest = package.manifest
    assert [rung.id for rung in manifest.rungs] == ["k050", "k050-last-1"]
    assert manifest.merge == "graphs/merge.onnx"
    (periodic,) = manifest.periodic
    assert (periodic.graph, periodic.every_steps) == ("graphs/periodic/mask.onnx", 3)
    dtypes = {t.name: t.dtype for t in manifest.state if t.name.startswith("buffer.")}
    expected = {"buffer.centre": "float32", "buffer.count": "int32", "buffer.mask": "bool"}
    assert dtypes == expected
    verify(package, program)


@pytest.mark.parametrize(
    ("method", "name", "factor", "message"),
    [
        ("gradient", "spread", 1.01, "spread is .*, expected "),
        ("update", "buffer.centre", 1.01, r"step of buffer\.centre is off by"),
        ("update", "buffer.count", 2, r"buffer\.count has other values"),
        ("update", "updates.all", 1.01, r"step of updates\.all is off by"),
    ],
)
def test_other_metrics_and_buffers_are_refused(
    monkeypatch, declaring, method, name, factor, message
):
    package, program = declaring
    changed(monkeypatch, RungProgram, method, scaled(name, factor))
    with pytest.raises(PackageError, match=f"rung k050 on engine ort .*: {message}"):
        verify(package, program)


@pytest.mark.parametrize(
    "name", [f"param.{MASKED}", f"exp_avg.{MASKED}", "updates.all", "buffer.mask"]
)
def test_changed_state_that_a_rung_does_not_train_is_refused(monkeypatch, declaring, name):
    package, program = declaring
    original = module.create_engine

    def touching(*given):
        engine = original(*given)
        snapshot, steps = engine.snapshot, []
        step = engine.step
        engine.step = lambda rung, *rest: (steps.append(rung), step(rung, *rest))[1]

        def touched():
            state = dict(snapshot())
            if steps == ["k050-last-1"]:
                value = state[name].reshape(-1)
                value[0] = not value[0] if value.dtype == bool else value[0] + 1e-7
            return state

        engine.snapshot = touched
        return engine

    monkeypatch.setattr(module, "create_engine", touching)
    message = f"rung k050-last-1 .*: {name} changed, and the rung does not train it"
    with pytest.raises(PackageError, match=message):
        verify(package, program)


def test_a_gradient_that_is_declared_to_be_zero_is_zero(declaring):
    package, program = declaring
    assert program.parameters[WITHOUT_GRADIENT].zero_gradient
    wrong = dataclasses.replace(program.parameters[MASKED], zero_gradient=True)
    program.parameters[MASKED] = wrong
    message = f"gradient of {MASKED} is .*, but it is declared to have none"
    with pytest.raises(PackageError, match=message):
        verify(package, program)


def test_another_periodic_graph_is_refused(declaring):
    package, program = declaring

    def inverted(state):
        return {"mask": ~new_mask(state)["mask"]}

    update = PeriodicUpdate(name="mask", every_steps=3, update=inverted)
    program.declaration = dataclasses.replace(program.declaration, periodic=(update,))
    message = r"graphs/periodic/mask\.onnx differs from PyTorch: output mask is off by"
    with pytest.raises(PackageError, match=message):
        verify(package, program)


def test_another_merge_graph_is_refused(monkeypatch, declaring):
    package, program = declaring
    changed(monkeypatch, program, "merge", scaled(MASKED, 1.01))
    message = rf"graphs/merge\.onnx differs from PyTorch: output {MASKED} is off by"
    with pytest.raises(PackageError, match=message):
        verify(package, program)
