"""The smallest training package that can be evaluated: an encoder of one patch, two matrices.

Its embedding graph is written field by field, so that these tests need no onnx package.
"""

import hashlib
import json

import numpy as np

from edge_runtime.evaluation.onnx_wire import write_field, write_number
from edge_runtime.package import open_package
from edge_runtime.package.curves import constant
from edge_runtime.package.manifest import (
    FORMAT,
    AugmentationSpec,
    EncoderTensor,
    GraphSpec,
    Manifest,
    ModelFacts,
    OrtTraining,
    Rung,
    TensorSpec,
    ViewGroup,
)
from edge_runtime.package.names import FEATURES, IMAGES, METRIC, STATE, WEIGHT
from edge_runtime.schema import unstructure
from edge_runtime.state import encode_state

SIZE_PX = 4
PIXELS = SIZE_PX * SIZE_PX * 3
WIDTH = 5
EMBED, STEP = "graphs/embed.onnx", "graphs/k100/step.onnx"
ENCODER = (
    EncoderTensor(name="patch.weight", timm_name="patch_embed.proj.weight", layout="patch"),
    EncoderTensor(name="patch.bias", timm_name="patch_embed.proj.bias", layout="same"),
    EncoderTensor(name="fc.weight", timm_name="fc.weight", layout="transposed"),
)
SHAPES = {"patch.weight": (PIXELS, WIDTH), "patch.bias": (WIDTH,), "fc.weight": (WIDTH, WIDTH)}


def features_of(weights, images):
    """What the graph computes, in numpy: (B, 4, 4, 3) uint8 -> (B, WIDTH)."""
    pixels = images.reshape(len(images), PIXELS).astype(np.float32)
    hidden = pixels @ weights["patch.weight"] + weights["patch.bias"]
    return hidden @ weights["fc.weight"]


def make_state(seed):
    rng = np.random.default_rng(seed)
    return {
        f"{prefix}{name}": rng.normal(size=shape).astype(np.float32)
        for prefix in ("param.", "ema.")
        for name, shape in SHAPES.items()
    }


def make_package(folder, *, encoder_prefix="ema."):
    folder.mkdir(parents=True)
    files = {
        EMBED: embed_graph(),
        STEP: write_field(2, b"step"),  # its producer
        "state.safetensors": encode_state(make_state(0)),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    table = unstructure(_manifest(encoder_prefix, hashes))
    (folder / "manifest.json").write_text(json.dumps(table))
    return open_package(folder)


def _spec(name, shape, role, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=shape, role=role)


def _manifest(encoder_prefix, hashes):
    state = tuple(
        _spec(f"{prefix}{name}", shape, STATE)
        for prefix in ("param.", "ema.")
        for name, shape in SHAPES.items()
    )
    moved = tuple(_spec(f"next.{spec.name}", spec.shape, STATE) for spec in state)
    weights = tuple(_spec(name, shape, WEIGHT) for name, shape in SHAPES.items())
    images = _spec("images", (None, SIZE_PX, SIZE_PX, 3), IMAGES, "uint8")
    return Manifest(
        format=FORMAT,
        producer={},
        recipe={},
        method="none",
        token_policy="none",
        parametrization="none",
        precision="fp32",
        batch_size=2,
        model=ModelFacts(
            name="tiny",
            image_size_px=SIZE_PX,
            patch_size_px=SIZE_PX,
            width=WIDTH,
            depth=1,
            heads=1,
            tokens=1,
            features="class-token",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        views=(
            ViewGroup(name="global", size_px=SIZE_PX, views=(AugmentationSpec(min_area=1.0),)),
        ),
        hyper_parameters={"lr": constant(0.1)},
        encoder=ENCODER,
        encoder_prefix=encoder_prefix,
        embed=EMBED,
        merge=None,
        state_file="state.safetensors",
        state=state,
        rungs=(_rung(),),
        periodic=(),
        ort_training=OrtTraining(refused="too small", checkpoint=None, update=None),
        graphs={
            EMBED: GraphSpec(
                inputs=(images, *weights),
                outputs=(_spec("features", (None, WIDTH), FEATURES),),
                nodes=1,
                flops=None,
            ),
            STEP: GraphSpec(
                inputs=(), outputs=(_spec("loss", (), METRIC), *moved), nodes=1, flops=1
            ),
        },
        sha256=hashes,
    )


def _rung():
    """Nothing here trains it."""
    return Rung(
        id="k100",
        keep_ratio=1.0,
        patch_size_px=SIZE_PX,
        trained="all",
        micro_batch=None,
        tokens_per_block={},
        flops=1,
        peak_activation_bytes=0,
        draws=(),
        graphs={"step": STEP},
        ort_training=None,
    )


# Field numbers of onnx.proto
FLOAT, UINT8 = 1, 2


def embed_graph():
    """An ONNX file: images and three weights -> features, as `features_of`."""
    nodes = [
        _node("Cast", ["images"], "floats", _int_attribute("to", FLOAT)),
        _node("Reshape", ["floats", "rows"], "pixels"),
        _node("MatMul", ["pixels", "patch.weight"], "projected"),
        _node("Add", ["projected", "patch.bias"], "hidden"),
        _node("MatMul", ["hidden", "fc.weight"], "features"),
    ]
    rows = _int64_tensor("rows", [-1, PIXELS])
    inputs = [_value("images", UINT8, ["batch", SIZE_PX, SIZE_PX, 3])]
    inputs += [_value(name, FLOAT, shape) for name, shape in SHAPES.items()]
    graph = [write_field(1, node) for node in nodes]
    graph += [write_field(2, b"embed"), write_field(5, rows)]
    graph += [write_field(11, value) for value in inputs]
    graph.append(write_field(12, _value("features", FLOAT, ["batch", WIDTH])))
    opset = write_field(1, b"") + write_number(2, 17)
    return write_number(1, 8) + write_field(7, b"".join(graph)) + write_field(8, opset)


def _node(kind, inputs, output, attribute=b""):
    fields = [write_field(1, name.encode()) for name in inputs]
    fields += [write_field(2, output.encode()), write_field(4, kind.encode())]
    return b"".join(fields) + (write_field(5, attribute) if attribute else b"")


def _int_attribute(name, value):
    return write_field(1, name.encode()) + write_number(3, value) + write_number(20, 2)


def _int64_tensor(name, values):
    raw = np.array(values, np.int64).tobytes()
    return (
        write_number(1, len(values))
        + write_number(2, 7)
        + write_field(8, name.encode())
        + write_field(9, raw)
    )


def _value(name, kind, shape):
    dims = [
        write_field(2, size.encode()) if isinstance(size, str) else write_number(1, size)
        for size in shape
    ]
    sizes = b"".join(write_field(1, dim) for dim in dims)
    tensor_type = write_number(1, kind) + write_field(2, sizes)
    return write_field(1, name.encode()) + write_field(2, write_field(1, tensor_type))
