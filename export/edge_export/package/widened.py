"""A half-precision package as one of float32, to be verified on a processor.

Processors compute float16 by conversions, each version of ONNX Runtime with others, and
1.19.2 with wrong results. So what is verified is everything but the rounding: the package's
own graphs with float32 in place of float16, against PyTorch's step with float32 in place of
float16. Both are exact to float32, and the tolerances are those of every package. Where a
graph has float16 follows from PyTorch's trace, which the lowering compares node by node.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from edge_export.step.precision import HalfPrecision
from edge_export.step.program import Program
from edge_runtime.package import Package
from edge_runtime.package.names import FP16, FP32
from edge_runtime.storage import storage_errors

_FLOAT, _FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@contextmanager
def in_float32(package: Package, program: Program) -> Iterator[tuple[Package, Program]]:
    """Package and program without float16; those of float32 as they are.

    Raises:
        StorageError: the graphs cannot be written beside the package.
    """
    if package.manifest.precision != FP16:
        yield package, program
        return
    beside, manifest = package.path.parent, package.manifest
    files = [manifest.state_file]
    if manifest.frozen_encoder is not None:
        files.append(manifest.frozen_encoder.weights_file)
    with storage_errors("write to", beside):
        temporary = tempfile.TemporaryDirectory(dir=beside, prefix=f"{package.path.name}-")
    with temporary as folder:
        with storage_errors("write to", Path(folder)):
            _write_graphs(package, Path(folder))
            for name in files:
                shutil.copyfile(package.file(name), Path(folder) / name)
        manifest = dataclasses.replace(manifest, precision=FP32)
        wide = dataclasses.replace(package, path=Path(folder), manifest=manifest)
        yield wide, Program(program.recipe, HalfPrecision(torch.float32))


def _write_graphs(package: Package, folder: Path) -> None:
    for name in package.manifest.graphs:
        model = onnx.load(package.file(name))
        widen(model)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / name)


def widen(model: onnx.ModelProto) -> None:
    """Replace float16 by float32, in place. Casts become copies; constants are float32."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == _FLOAT16:
                attribute.i = _FLOAT
