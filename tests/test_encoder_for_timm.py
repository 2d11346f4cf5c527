"""Both encoder files give a timm model's features with the normalisation that they state."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")
ort = pytest.importorskip("onnxruntime")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from timm_reference import HALF, slow_features  # noqa: E402

from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.evaluation import encoder_metadata, export_encoder  # noqa: E402

SIZES = {"image_size": 16, "patch_size": 4, "depth": 2, "width": 24, "heads": 2}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize(
    ("model", "mean", "std"),
    [
        ({"name": "vit_tiny"}, HALF, HALF),
        ({"name": "deit_tiny"}, *IMAGENET),
        ({"name": "deit_tiny", "mean": OWN[0], "std": OWN[1]}, *OWN),
    ],
    ids=["vit", "deit", "own"],
)
def test_features_are_timms_with_the_stated_normalisation(tmp_path, model, mean, std):
    table = {"model": {**SIZES, **model}, "tokens": {"name": "none"}, "batch_size": 2}
    recipe = make_recipe(table, where="test")
    package = export_package(recipe, tmp_path / "package", init=None, report=lambda *_: None)
    rng = np.random.default_rng(0)
    state = {
        name: value + rng.normal(scale=0.2, size=value.shape).astype(np.float32)
        for name, value in package.initial_state().items()
    }
    weights_file, graph_file = tmp_path / "encoder.safetensors", tmp_path / "encoder.onnx"
    for file in (weights_file, graph_file):
        export_encoder(package, state, file)

    with safe_open(weights_file, "numpy") as opened:
        facts = opened.metadata()
    session = ort.InferenceSession(str(graph_file), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == facts == encoder_metadata(package)
    assert (facts["model"], facts["heads"], facts["image_size"]) == (model["name"], "2", "16")
    assert [json.loads(facts[key]) for key in ("mean", "std")] == [list(mean), list(std)]

    pictures = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = slow_features(
        load_file(weights_file),
        torch.from_numpy(pictures),
        heads=int(facts["heads"]),
        **{key: json.loads(facts[key]) for key in ("mean", "std")},
    )
    (features,) = session.run(None, {"images": pictures})
    assert cosine(features, expected).min() > 0.999_999
    # and another normalisation is noticed
    other = slow_features(
        load_file(weights_file), torch.from_numpy(pictures), heads=2, mean=(0, 0, 0)
    )
    assert cosine(features, other).max() < 0.999


def test_the_graph_names_what_its_users_see(small_package, tmp_path):
    export_encoder(
        small_package("mocov3", "random"),
        small_package("mocov3", "random").initial_state(),
        tmp_path / "encoder.onnx",
    )
    session = ort.InferenceSession(
        str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == (
        "images",
        ["batch", 16, 16, 3],
        "tensor(uint8)",
    )
    assert (made.name, made.shape) == ("features", ["batch", 48])
