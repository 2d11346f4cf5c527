"""An encoder as one file: ONNX, or safetensors with timm's names."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from edge_runtime.engines import encoder_weights
from edge_runtime.errors import ConfigError, PackageError
from edge_runtime.evaluation.encoder_facts import encoder_metadata
from edge_runtime.evaluation.onnx_wire import with_stored_weights
from edge_runtime.package import Package
from edge_runtime.package.encoder import to_timm
from edge_runtime.package.graph_check import MAX_GRAPH_BYTES
from edge_runtime.reading import open_regular, read_file
from edge_runtime.state import Array, State, state_chunks
from edge_runtime.storage import StrPath, require_replaceable, write_chunks

Weights: TypeAlias = Mapping[str, Array]  # by input name of the embedding graph

# Protobuf's limit is 2 GiB per message; the difference is for the names of the weights.
MAX_ONNX_BYTES = (1 << 31) - (1 << 20)
ENCODER = "an encoder of edge-train"
_END_BYTES = 1 << 16
_PRODUCER = re.compile(rb"producer.{1,4}edge-train ", re.DOTALL)  # as JSON or as protobuf


def export_encoder(package: Package, state: State, target: StrPath) -> int:
    """Write the encoder of `state` and return the size of the file in bytes.

    The suffix of `target` is the format. `.onnx`: uint8 pictures [batch, height, width, 3] ->
    float32 features [batch, width], for any ONNX runtime. `.safetensors`: timm's parameter
    names and layouts. Both have the metadata of `encoder_metadata`.

    Raises:
        ConfigError: another suffix, `target` exists and is no encoder of ours, or the ONNX
            file would be over 2 GiB.
        StorageError: it cannot be written.
    """
    target = Path(target)
    encoders = {".onnx": onnx_chunks, ".safetensors": timm_chunks}
    if target.suffix not in encoders:
        raise ConfigError(
            f"{target}: the suffix of an encoder file is {' or '.join(encoders)}, got "
            f"{target.suffix or 'none'}."
        )
    require_replaceable(target, ENCODER, is_encoder)
    weights = encoder_weights(package, state)
    return write_chunks(target, encoders[target.suffix](package, weights))


def is_encoder(path: Path) -> bool:
    """Whether `export_encoder` wrote a file, by the metadata at one of its ends."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            starts = (0, max(0, size - _END_BYTES))
            ends = [os.pread(file.fileno(), _END_BYTES, start) for start in starts]
    except OSError:
        return False
    return any(_PRODUCER.search(end) for end in ends)


def timm_chunks(package: Package, weights: Weights) -> Iterator[bytes | memoryview]:
    """A safetensors file that timm loads, piece by piece."""
    tensors = to_timm(package.manifest.encoder, weights)
    return state_chunks(tensors, encoder_metadata(package))


def onnx_chunks(package: Package, weights: Weights) -> Iterator[bytes | memoryview]:
    """The embedding graph with its weights inside, piece by piece.

    Raises:
        ConfigError: over 2 GiB.
        PackageError: the graph cannot be read, or lacks a weight.
    """
    file = package.file(package.manifest.embed)
    try:
        model = read_file(file, MAX_GRAPH_BYTES)
    except OSError as error:
        raise PackageError(f"{file} cannot be read ({error.strerror}).") from error
    size_bytes = len(model) + sum(value.nbytes for value in weights.values())
    if size_bytes > MAX_ONNX_BYTES:
        raise ConfigError(
            f"the encoder of {package.path} has {size_bytes / 2**30:.1f} GiB, and an ONNX "
            "file holds less than 2 GiB. Export it as .safetensors."
        )
    try:
        return with_stored_weights(model, weights, encoder_metadata(package))
    except ValueError as error:
        raise PackageError(
            f"{file} is not the embedding graph of this package: {error}. Export the package "
            "again."
        ) from error
