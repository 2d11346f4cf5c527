"""Shapes and element sizes of every tensor of a graph."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import onnx
from onnx import helper, shape_inference


class TensorShape(NamedTuple):
    """One tensor. A size of 0 is free."""

    sizes: tuple[int, ...]
    element_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of all elements."""
        return math.prod(self.sizes) * self.element_bytes


def tensor_shapes(model: onnx.ModelProto) -> dict[str, TensorShape]:
    """Inputs, outputs, initializers and intermediate tensors, by name."""
    graph = shape_inference.infer_shapes(model).graph
    shapes = {value.name: _shape(value.data_type, value.dims) for value in graph.initializer}
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.tensor_type
        shapes[info.name] = _shape(kind.elem_type, [d.dim_value for d in kind.shape.dim])
    return shapes


def _shape(elem_type: int, sizes: Sequence[int]) -> TensorShape:
    return TensorShape(tuple(sizes), helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
