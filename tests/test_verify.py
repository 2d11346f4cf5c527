"""A package is published only if its graphs are PyTorch's: any difference is found."""

import dataclasses
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="packages are verified against PyTorch")

from edge_export.package import verify as module  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.verify import verify  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import EngineError, PackageError  # noqa: E402
from edge_runtime.package.names import LOSS, NEXT  # noqa: E402

TINY = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1},
    "method": {"name": "mocov3", "projector_width": 16, "projector_out": 8},
    "batch_size": 4,
    "keep_ratios": [1.0, 0.5],
}
PARAMETER = "encoder.blocks.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    recipe = make_recipe(TINY, where="test")
    folder = tmp_path_factory.mktemp("verify") / "package"
    return export_package(recipe, folder, init=None, report=lambda *_: None)


TRIES = module.TRIES


@pytest.fixture(autouse=True)
def small_effort(monkeypatch):
    """One batch, on one thread: more are slower for products this small."""
    monkeypatch.setattr(module, "TRIES", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "create_engine", partial(create_engine, threads=1))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def program(package):
    return Program(make_recipe(package.manifest.recipe, where="manifest"))


def on_ort(package, rungs=1):
    """The package with its first rungs alone, and no official artifacts."""
    official = dataclasses.replace(package.manifest.official, refused="a test wants it so")
    kept = package.manifest.rungs[:rungs]
    manifest = dataclasses.replace(package.manifest, official=official, rungs=kept)
    return dataclasses.replace(package, manifest=manifest)


def changed(monkeypatch, program, method, change):
    """Let PyTorch's side compute something else than the graphs."""
    original = getattr(program, method)
    monkeypatch.setattr(program, method, lambda *given: change(original(*given)))


def scaled(name, factor):
    """Multiply one tensor of a method's results."""

    def change(result):
        if isinstance(result, tuple):  # gradients, metrics
            return tuple(change(part) for part in result)
        return {k: v * factor if k == name else v for k, v in result.items()}

    return change


def test_every_engine_here_is_named(package, program):
    official = []
    try:
        official = [f"ort-training on {create_engine('ort-training').runtime}"]
    except EngineError:
        assert package.manifest.official.refused is not None
    assert verify(package, program) == [f"ort on {create_engine('ort').runtime}", *official]


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        (
            "gradient",
            LOSS,
            r"rung k100 on engine ort \(onnxruntime.*\) differs .*: loss .*, want",
        ),
        (
            "gradient",
            PARAMETER,
            rf"gradient of {PARAMETER} is off by .*, allowed .*\. No package",
        ),
        ("apply", f"{NEXT}param.{PARAMETER}", rf"step of param\.{PARAMETER} is off by"),
        ("apply", f"{NEXT}exp_avg_sq.{PARAMETER}", rf"step of exp_avg_sq\.{PARAMETER} is off"),
        ("apply", f"{NEXT}ema.{PARAMETER}", rf"step of ema\.{PARAMETER} is off by"),
        (
            "embed",
            "features",
            r"graphs/embed\.onnx differs .*: output features is off by .*\. No",
        ),
    ],
)
def test_a_difference_of_one_percent_is_refused(
    monkeypatch, package, program, method, name, message
):
    changed(monkeypatch, program, method, scaled(name, 1.01))
    with pytest.raises(PackageError, match=message):
        verify(on_ort(package), program)


@pytest.mark.parametrize("name", [LOSS, PARAMETER])
def test_rounding_is_no_difference(monkeypatch, package, program, name):
    changed(monkeypatch, program, "gradient", scaled(name, 1 + 1e-5))
    verify(on_ort(package), program)


@pytest.mark.parametrize("name", [LOSS, PARAMETER])
def test_nan_is_a_difference(monkeypatch, package, program, name):
    changed(monkeypatch, program, "gradient", scaled(name, float("nan")))
    with pytest.raises(PackageError, match="differs from PyTorch"):
        verify(on_ort(package), program)


def test_every_rung_is_compared(monkeypatch, package, program):
    def wrong_for_half(result):
        gradients, metrics = result
        shift = 0.01 if kept.pop(0) == 0.5 else 0.0
        return gradients, {**metrics, LOSS: metrics[LOSS] + shift}

    kept = [1.0, 0.5]
    changed(monkeypatch, program, "gradient", wrong_for_half)
    with pytest.raises(PackageError, match="rung k050 on engine ort "):
        verify(on_ort(package, rungs=2), program)


def test_the_teachers_graph_is_compared(monkeypatch, package, program):
    calls = iter([1.0, 1.01])  # the embedding, then the first rung's teacher
    changed(
        monkeypatch, program, "embed", lambda found: scaled("features", next(calls))(found)
    )
    with pytest.raises(PackageError, match=r"graphs/k100/teacher\.onnx differs from PyTorch"):
        verify(on_ort(package), program)


def test_the_official_engine_is_compared(monkeypatch, package, program):
    pytest.importorskip("onnxruntime.training.api", reason="the official training API")
    rungs = len(package.manifest.rungs)
    factors = iter([1.0] * rungs + [1.01])  # right for engine ort
    changed(monkeypatch, program, "gradient", lambda found: scaled(LOSS, next(factors))(found))
    with pytest.raises(PackageError, match="rung k100 on engine ort-training"):
        verify(package, program)


def test_a_near_tie_of_one_batch_is_no_difference(monkeypatch, package, program):
    original = module._difference
    monkeypatch.setattr(module, "TRIES", TRIES)
    monkeypatch.setattr(
        module,
        "_difference",
        lambda *given, seed: original(*given, seed=seed) if seed == 2 else "a near tie",
    )
    assert verify(on_ort(package), program)


def test_what_differs_on_every_batch_is_refused(monkeypatch, package, program):
    seeds = []

    def different(*_, seed):
        seeds.append(seed)
        return f"batch {seed} differs"

    monkeypatch.setattr(module, "TRIES", TRIES)
    monkeypatch.setattr(module, "_difference", different)
    with pytest.raises(PackageError, match=f"batch {TRIES - 1} differs"):
        verify(on_ort(package), program)
    assert seeds == list(range(TRIES))


def test_without_any_engine_nothing_is_verified(monkeypatch, package, program):
    def missing(name):
        raise EngineError(f"{name} is not installed; install it")

    monkeypatch.setattr(module, "create_engine", missing)
    with pytest.raises(EngineError, match="ort is not installed; install it"):
        verify(package, program)
