"""The programs that export-encoder prints, and docs/encoder.md, which shows them."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_encoder import SIZE_PX, WIDTH, features_of, make_package, make_state

from edge_runtime.evaluation import encoder_metadata, example_of_use, export_encoder
from edge_runtime.package.manifest import ModelFacts

DOCUMENT = (Path(__file__).parents[1] / "docs" / "encoder.md").read_text()
MODEL = ModelFacts(
    name="vit_tiny",
    image_size_px=64,
    patch_size_px=8,
    width=192,
    depth=12,
    heads=3,
    tokens=65,
    features="class-token",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def test_the_document_shows_both_programs():
    shown = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    files = ("encoder.onnx", "encoder.safetensors")
    assert shown == [example_of_use(MODEL, Path(file)) for file in files]


def test_the_document_explains_the_metadata(tmp_path):
    package = make_package(tmp_path / "package")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", DOCUMENT, re.M)
    explained = {name for row in rows for name in re.findall(r"\w+", row)}
    assert encoder_metadata(package).keys() == explained


def test_the_document_states_the_versions_of_the_graph():
    graph = pytest.importorskip("edge_export.lowering.graph", reason="it is lowered by torch")
    stated = (
        f"operator set {graph.OPSET}, IR version {graph.IR_VERSION}: onnxruntime from 1.19.2"
    )
    assert stated in DOCUMENT


def test_the_program_for_onnxruntime_gives_the_features(tmp_path):
    pytest.importorskip("onnxruntime")
    package, state = make_package(tmp_path / "package"), make_state(1)
    export_encoder(package, state, tmp_path / "encoder.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    program = example_of_use(package.manifest.model, Path("encoder.onnx"))
    done = subprocess.run(
        [sys.executable, "-c", program, "picture.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    weights = {name[4:]: value for name, value in state.items() if name.startswith("ema.")}
    expected = features_of(weights, pixels[None])[0]
    np.testing.assert_allclose([float(x) for x in done.stdout.split()], expected, rtol=1e-4)
    assert len(expected) == WIDTH


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, {"img_size": 64, "patch_size": 8, "num_heads": 3, "global_pool": "token"}),
        ({"name": "deit_small_patch8_64"}, {"embed_dim": 192, "depth": 12, "num_classes": 0}),
        ({"features": "mean-patches"}, {"global_pool": "avg", "fc_norm": False}),
    ],
)
def test_the_program_for_timm_gives_all_sizes(changes, shown):
    model = dataclasses.replace(MODEL, **changes)
    tree = ast.parse(example_of_use(model, Path("my encoder's.safetensors")))
    calls = {
        node.func.attr: node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    create = calls["create_model"]
    given = {k.arg: ast.literal_eval(k.value) for k in create.keywords}
    family = "deit_small" if "name" in changes else "vit_tiny"
    assert ast.literal_eval(create.args[0]) == f"{family}_patch16_224"
    assert given["checkpoint_path"] == "my encoder's.safetensors"
    assert {key: given[key] for key in shown} == shown
    transform = {k.arg: ast.literal_eval(k.value) for k in calls["create_transform"].keywords}
    assert (transform["mean"], transform["std"]) == (model.mean, model.std)
