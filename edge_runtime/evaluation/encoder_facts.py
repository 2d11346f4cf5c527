"""What the users of an encoder file need to know: its metadata, and an example of its use.

The ONNX file normalises pixels itself; the safetensors file has weights only, so pixels are
normalised before they reach the model. docs/encoder.md explains both.
"""

import json
from pathlib import Path

from edge_runtime.package import Package
from edge_runtime.package.manifest import ModelFacts
from edge_runtime.version import __version__

# Arguments of timm's models; without `fc_norm` it normalises before the mean, as we do.
_POOLING = {
    "class-token": 'global_pool="token"',
    "mean-patches": 'global_pool="avg", fc_norm=False',
}


def encoder_metadata(package: Package) -> dict[str, str]:
    """Facts of the encoder by name, the same in both files; lists are JSON.

    There are no names of classes among them: training uses no labels.
    """
    manifest = package.manifest
    model = manifest.model
    return {
        "producer": f"edge-train {__version__}",
        "package": package.digest,
        "method": manifest.method,
        "model": model.name,
        "image_size": str(model.image_size_px),
        "patch_size": str(model.patch_size_px),
        "width": str(model.width),
        "depth": str(model.depth),
        "heads": str(model.heads),
        "features": model.features,
        "mean": json.dumps(model.mean),
        "std": json.dumps(model.std),
    }


def example_of_use(model: ModelFacts, file: Path) -> str:
    """A Python program that prints the features of a picture, by an encoder file.

    Args:
        model: of the encoder.
        file: `.onnx` for onnxruntime, `.safetensors` for timm.
    """
    return (
        _with_onnxruntime(model, file) if file.suffix == ".onnx" else _with_timm(model, file)
    )


def _with_onnxruntime(model: ModelFacts, file: Path) -> str:
    size = model.image_size_px
    return f"""\
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({str(file)!r}, providers=["CPUExecutionProvider"])
picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
picture = ImageOps.fit(picture, ({size}, {size}), Image.Resampling.BILINEAR)
(features,) = session.run(None, {{"images": np.asarray(picture)[None]}})  # [1, {model.width}]
print(*features[0].tolist())
"""


def _with_timm(model: ModelFacts, file: Path) -> str:
    size, name = model.image_size_px, f"{model.name.partition('_patch')[0]}_patch16_224"
    return f"""\
import sys

import timm
import timm.data
from PIL import Image, ImageOps

model = timm.create_model(
    {name!r}, checkpoint_path={str(file)!r}, num_classes=0,
    img_size={size}, patch_size={model.patch_size_px}, embed_dim={model.width},
    depth={model.depth}, num_heads={model.heads}, {_POOLING[model.features]},
).eval()
transform = timm.data.create_transform(
    (3, {size}, {size}), mean={model.mean}, std={model.std}, crop_pct=1.0
)
picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
picture = ImageOps.fit(picture, ({size}, {size}), Image.Resampling.BILINEAR)
features = model(transform(picture)[None])  # [1, {model.width}]
print(*features[0].tolist())
"""
