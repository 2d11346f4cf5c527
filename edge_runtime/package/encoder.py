"""Conversion of encoder weights from and to timm's names and layouts.

In the state, matrices are [in, out] and a patch is one row of pixels; in timm, they are
[out, in] and [width, 3, rows, columns]. Values never change: the graphs normalise pixels.
Pure functions on arrays, no files.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from edge_runtime.package.manifest import EncoderTensor
from edge_runtime.state import Array

# D width, P pixels along a square patch


def to_timm(
    tensors: Iterable[EncoderTensor], weights: Mapping[str, Array]
) -> dict[str, Array]:
    """Weights by `EncoderTensor.name` -> views of them by timm's names, in timm's layouts."""
    return {
        tensor.timm_name: _to_timm_layout(weights[tensor.name], tensor.layout)
        for tensor in tensors
    }


def from_timm(
    tensors: Iterable[EncoderTensor], checkpoint: Mapping[str, Array]
) -> dict[str, Array]:
    """Weights by timm's names -> weights by `EncoderTensor.name`, in the state's layouts.

    Args:
        tensors: names and layouts of the encoder.
        checkpoint: has at least these, each with the axes of its layout.
    """
    return {
        tensor.name: _from_timm_layout(checkpoint[tensor.timm_name], tensor.layout)
        for tensor in tensors
    }


def _to_timm_layout(value: Array, layout: str) -> Array:
    if layout == "transposed":
        value = value.T
    elif layout == "patch":
        side = math.isqrt(len(value) // 3)
        value = value.reshape(side, side, 3, -1)  # (P, P, 3, D)
        value = value.transpose(3, 2, 0, 1)  # (D, 3, P, P)
    return value


def _from_timm_layout(value: Array, layout: str) -> Array:
    if layout == "transposed":
        value = value.T
    elif layout == "patch":
        value = value.transpose(2, 3, 1, 0)  # (P, P, 3, D)
        value = value.reshape(-1, value.shape[-1])  # (P * P * 3, D)
    return np.ascontiguousarray(value)
