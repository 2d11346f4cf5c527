"""One contract for all forward engines, on the smallest encoder."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="every forward engine is compared with it")

from fake_tensorrt import FakeTensorRt
from tiny_encoder import SIZE_PX, WIDTH, features_of, make_package, make_state

from edge_runtime.engines import (
    FORWARD_ENGINES,
    ForwardEngine,
    ForwardOptions,
    create_forward_engine,
    encoder_weights,
)
from edge_runtime.errors import ConfigError, EngineError, NoMemoryError
from edge_runtime.package import Package

OPTIONS = ForwardOptions(threads=1)


def make_engine(name: str) -> ForwardEngine:
    return create_forward_engine(name, OPTIONS)


@pytest.fixture(autouse=True)
def machine(tensorrt: FakeTensorRt) -> None:
    """One with an NVIDIA GPU and TensorRT, which compute by ONNX Runtime."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("forward") / "package")


@pytest.fixture(params=FORWARD_ENGINES)
def engine(request: pytest.FixtureRequest, package: Package) -> Any:
    """Open, with the weights of seed 1."""
    with make_engine(request.param) as made:
        made.open(package, package.manifest.embed, weights_of(package, 1))
        yield made


def weights_of(package: Package, seed: int) -> dict[str, Any]:
    return encoder_weights(package, make_state(seed))


def images_of(count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), np.uint8)


def assert_features(features: Any, weights: dict[str, Any], images: Any) -> None:
    assert (features.dtype, features.shape) == (np.float32, (len(images), WIDTH))
    expected = features_of(weights, images)
    # Sums of 48 products of float32 numbers up to 255, added in another order
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-2)


def test_features_are_their_definition(engine: ForwardEngine, package: Package) -> None:
    for count in (3, 1, 8):  # any number of images
        images = images_of(count)
        assert_features(engine.run(images), weights_of(package, 1), images)


def test_features_never_change_afterwards(engine: ForwardEngine) -> None:
    first = engine.run(images_of(3, seed=0))
    copy = first.copy()
    engine.run(images_of(3, seed=1))
    np.testing.assert_array_equal(first, copy)


def test_images_may_have_any_memory_layout(engine: ForwardEngine) -> None:
    images = images_of(6)
    np.testing.assert_array_equal(engine.run(images[::2]), engine.run(images)[::2])


def test_weights_are_copied(engine: ForwardEngine, package: Package) -> None:
    mine = {name: value.copy() for name, value in weights_of(package, 2).items()}
    with make_engine(engine.name) as other:
        other.open(package, package.manifest.embed, mine)
        for value in mine.values():
            value[...] = np.nan
        assert_features(other.run(images_of(2)), weights_of(package, 2), images_of(2))


def test_weights_can_be_replaced(engine: ForwardEngine, package: Package) -> None:
    """By copies: what was given may change right afterwards."""
    images = images_of(3)
    before = engine.run(images)
    mine = {name: value.copy() for name, value in weights_of(package, 2).items()}
    engine.set_weights(mine)
    for value in mine.values():
        value[...] = np.nan
    assert_features(engine.run(images), weights_of(package, 2), images)
    engine.set_weights(weights_of(package, 1))
    np.testing.assert_array_equal(engine.run(images), before)


def test_weights_may_have_any_memory_layout(engine: ForwardEngine, package: Package) -> None:
    turned = {name: np.asfortranarray(v) for name, v in weights_of(package, 1).items()}
    with make_engine(engine.name) as other:
        other.open(package, package.manifest.embed, turned)
        np.testing.assert_array_equal(other.run(images_of(2)), engine.run(images_of(2)))


def test_images_that_do_not_fit_are_refused(engine: ForwardEngine) -> None:
    with pytest.raises(EngineError, match="cannot embed images"):
        engine.run(images_of(2)[:, :-1])
    engine.run(images_of(2))  # and it continues


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_images_of_another_dtype_are_refused(engine: ForwardEngine, dtype: Any) -> None:
    """A cast would wrap numbers around, and make a picture of 0 to 1 black."""
    with pytest.raises(EngineError, match=r"cannot embed images of .*; expected uint8"):
        engine.run(images_of(2).astype(dtype))
    engine.run(images_of(2))  # and it continues


def test_an_engine_says_how_many_images_it_runs_on(engine: ForwardEngine) -> None:
    assert engine.images_per_run == {"ort": 1, "tensorrt": 32}[engine.name]


@pytest.mark.parametrize("name", FORWARD_ENGINES)
def test_use_outside_open_and_close_is_refused(package: Package, name: str) -> None:
    engine = make_engine(name)
    with pytest.raises(EngineError, match="cannot run: it is not opened yet"):
        engine.run(images_of(1))
    with pytest.raises(EngineError, match="cannot take weights: it is not opened yet"):
        engine.set_weights(weights_of(package, 1))
    engine.open(package, package.manifest.embed, weights_of(package, 1))
    with pytest.raises(EngineError, match="cannot open: it is already open"):
        engine.open(package, package.manifest.embed, weights_of(package, 1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="cannot run: it is already closed"):
        engine.run(images_of(1))


@pytest.mark.parametrize("name", FORWARD_ENGINES)
def test_a_file_without_a_graph_is_refused(
    package: Package, tmp_path: Path, name: str
) -> None:
    broken = make_package(tmp_path / "package")
    broken.file(broken.manifest.embed).write_bytes(b"no graph")
    engine = make_engine(name)
    with pytest.raises(EngineError, match=r"cannot load .*embed\.onnx"):
        engine.open(broken, broken.manifest.embed, weights_of(package, 1))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "other"}, "output .* is unknown"),
        ({"shape": (None, 7)}, r"tensor\(float\) \[.*, 5\], expected .* \[None, 7\]"),
        ({"shape": (5,)}, r"expected tensor\(float\) \[5\]"),
        ({"dtype": "float16"}, r"expected tensor\(float16\)"),
    ],
)
@pytest.mark.parametrize("name", FORWARD_ENGINES)
def test_another_graph_than_that_of_the_manifest_is_refused(
    package: Package, name: str, change: dict[str, object], problem: str
) -> None:
    manifest = package.manifest
    spec = manifest.graphs[manifest.embed]
    changed = replace(spec, outputs=(replace(spec.outputs[0], **change),))
    graphs = {**manifest.graphs, manifest.embed: changed}
    other = replace(package, manifest=replace(manifest, graphs=graphs))
    engine = make_engine(name)
    with pytest.raises(EngineError, match=rf"graph of the manifest: .*{problem}"):
        engine.open(other, manifest.embed, weights_of(package, 1))


@pytest.mark.parametrize("name", FORWARD_ENGINES)
def test_an_engine_reports_its_runtime_and_device(name: str) -> None:
    engine = make_engine(name)
    device, runtime = {"ort": ("cpu", "onnxruntime"), "tensorrt": ("cuda:0", "TensorRT 10.3")}[
        name
    ]
    assert (engine.name, engine.device) == (name, device)
    assert engine.runtime.startswith(runtime)
    with pytest.raises(ConfigError, match="unknown device 'tpu'; known are cpu, webgpu"):
        create_forward_engine(name, ForwardOptions(device="tpu"))


def test_ort_is_the_default_and_others_are_unknown() -> None:
    assert create_forward_engine().name == "ort"
    message = "unknown forward engine 'openvino'; known are ort, tensorrt"
    with pytest.raises(ConfigError, match=message):
        create_forward_engine("openvino")


def test_what_helps_against_missing_memory_is_not_another_rung(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 4294967296")

    with create_forward_engine("ort", OPTIONS) as engine:
        engine.open(package, package.manifest.embed, weights_of(package, 1))
        monkeypatch.setattr(engine, "_session", SimpleNamespace(run_with_iobinding=refuse))
        with pytest.raises(NoMemoryError, match="export with smaller pictures") as caught:
            engine.run(images_of(1))
    assert "rung" not in str(caught.value)
