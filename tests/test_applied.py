"""Graphs that skip an update report it in the metric `applied`, as loss scaling does.

Hand-made graphs of one parameter: `param.w` grows by the mean of the images where `lr` > 0.
"""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from training_fakes import BATCH, write_package

from edge_runtime.engines import ENGINES, create_engine
from edge_runtime.errors import EngineError
from edge_runtime.package.manifest import GraphSpec, TensorSpec

onnx = pytest.importorskip("onnx", reason="makes graphs")
helper, FLOAT, UINT8 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8

VIEWS, MICRO_BATCH, SIZE_PX, WIDTH = 2, 2, 8, 3
ROLES = {"images.global": "images", "lr": "hyper", "grad.w": "sum", "next.grad.w": "sum"}
ROLES |= {"param.w": "state", "next.param.w": "state"}  # the others are metrics
APPLY = [("Greater", "lr zero", "is_applied"), ("Cast", "is_applied", "applied")]
GRADIENT = [  # the mean of the images, which is also the loss
    ("Cast", "images.global", "pixels"),
    ("ReduceMean", "pixels", "loss"),
    ("Mul", "loss ones", "g"),
]
GRAPHS = {
    "step": (
        [*GRADIENT, *APPLY, ("Mul", "g applied", "d"), ("Add", "param.w d", "next.param.w")],
        ["images.global", "lr", "param.w"],
        ["loss", "applied", "next.param.w"],
    ),
    # Its own `applied` is that of a part and meaningless: half of the parts have 1.
    "accumulate": (
        [
            *GRADIENT,
            ("Greater", "loss hundred", "is_bright"),
            ("Cast", "is_bright", "applied"),
            ("Add", "grad.w g", "next.grad.w"),
        ],
        ["images.global", "grad.w"],
        ["loss", "applied", "next.grad.w"],
    ),
    "apply": (
        [
            *APPLY,
            ("ReduceMax", "grad.w", "largest_gradient"),
            ("Mul", "grad.w applied", "d"),
            ("Add", "param.w d", "next.param.w"),
        ],
        ["lr", "grad.w", "param.w"],
        ["applied", "largest_gradient", "next.param.w"],
    ),
}  # fmt: skip
CONSTANTS = {"zero": 0.0, "hundred": 100.0, "ones": [1.0] * WIDTH}


def shape_of(name, pictures):
    if name == "images.global":
        return (VIEWS, pictures, SIZE_PX, SIZE_PX, 3)
    return (WIDTH,) if name.endswith(".w") else ()


def make_graph(kind):
    """A file's content, and its description in the manifest."""
    nodes, inputs, outputs = GRAPHS[kind]
    pictures = MICRO_BATCH if kind == "accumulate" else BATCH
    used = {name for _, names, _ in nodes for name in names.split()}

    def value(name):
        element = UINT8 if name == "images.global" else FLOAT
        return helper.make_tensor_value_info(name, element, shape_of(name, pictures))

    def spec(name):
        dtype = "uint8" if name == "images.global" else "float32"
        role = ROLES.get(name, "metric")
        return TensorSpec(name=name, dtype=dtype, shape=shape_of(name, pictures), role=role)

    graph = helper.make_graph(
        [
            helper.make_node(
                op,
                names.split(),
                [output],
                **({"to": FLOAT} if op == "Cast" else {}),
                **({"keepdims": 0} if op.startswith("Reduce") else {}),
            )
            for op, names, output in nodes
        ],
        kind,
        [value(name) for name in inputs],
        [value(name) for name in outputs],
        [
            onnx.numpy_helper.from_array(np.array(constant, np.float32), name)
            for name, constant in CONSTANTS.items()
            if name in used
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    described = GraphSpec(
        inputs=tuple(map(spec, inputs)),
        outputs=tuple(map(spec, outputs)),
        nodes=len(nodes),
        flops=None,
    )
    return model.SerializeToString(), described


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Rungs `whole` and `parts`."""
    base = write_package(tmp_path_factory.mktemp("applied") / "package", width=WIDTH)
    manifest, made = base.manifest, {kind: make_graph(kind) for kind in GRAPHS}
    for kind, (content, _) in made.items():
        base.file(f"graphs/{kind}.onnx").write_bytes(content)
    hashes = {
        f"graphs/{kind}.onnx": hashlib.sha256(content).hexdigest()
        for kind, (content, _) in made.items()
    }
    whole = replace(manifest.rungs[0], id="whole", graphs={"step": "graphs/step.onnx"})
    paths = {kind: f"graphs/{kind}.onnx" for kind in ("accumulate", "apply")}
    parts = replace(whole, id="parts", micro_batch=MICRO_BATCH, graphs=paths)
    graphs = {f"graphs/{kind}.onnx": spec for kind, (_, spec) in made.items()}
    manifest = replace(
        manifest,
        rungs=(whole, parts),
        graphs={**manifest.graphs, **graphs},
        sha256={**manifest.sha256, **hashes},
    )
    return replace(base, manifest=manifest)


@pytest.fixture(params=ENGINES)
def engine(request, package):
    try:
        made = create_engine(request.param, threads=1)
    except EngineError as error:
        pytest.skip(str(error))
    with made:
        if (reason := made.unsupported_reason(package)) is not None:
            pytest.skip(reason)
        made.open(package, package.initial_state())
        yield made


def trained(engine, rung, lr):
    """One step on pictures, half of them dark and half bright."""
    images = np.zeros((VIEWS, BATCH, SIZE_PX, SIZE_PX, 3), np.uint8)
    images[:, BATCH // 2 :] = 200
    return engine.step(rung, {"images.global": images}, {"lr": lr})


@pytest.mark.parametrize("rung", ["whole", "parts"])
def test_only_the_graph_that_updates_says_whether_it_did(engine, package, rung) -> None:
    before = package.initial_state()
    skipped = trained(engine, rung, lr=0.0)
    assert skipped.applied is False
    assert skipped.metrics["loss"] == 100.0
    np.testing.assert_array_equal(engine.snapshot()["param.w"], before["param.w"])
    done = trained(engine, rung, lr=0.5)
    assert done.applied is True
    np.testing.assert_allclose(
        engine.snapshot()["param.w"],
        before["param.w"] + (100.0 if rung == "whole" else 200.0),
        rtol=1e-6,
    )


def test_metrics_of_the_update_are_those_of_the_step(engine) -> None:
    result = trained(engine, "parts", lr=0.5)
    assert result.metrics == {"loss": 100.0, "applied": 1.0, "largest_gradient": 200.0}
