"""FLOPs of a graph, counted from its matrix products. Multiply and add are two.

The oracle is PyTorch's `FlopCounterMode`. A product with a single column is a sum over an axis
(the gradient of LayerNorm has two of them) and is not counted, as PyTorch does not count the
corresponding reduction.
"""

import math
from collections.abc import Mapping

import onnx

from edge_export.analysis.shapes import TensorShape, tensor_shapes


def graph_flops(model: onnx.ModelProto) -> int | None:
    """FLOPs of one run; `None` if a product has a free or an unknown size.

    After operators outside ONNX's standard domain, sizes are unknown.
    """
    if any(node.domain for node in model.graph.node):
        return None
    shapes = tensor_shapes(model)
    counts = [_flops(node, shapes) for node in model.graph.node if node.op_type in _INNER_AXIS]
    if None in counts:
        return None
    return sum(count for count in counts if count is not None)


def _gemm_inner_axis(node: onnx.NodeProto) -> int:
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return 0 if transposed else 1


# Operator -> the axis of the first input that is summed over
_INNER_AXIS = {"MatMul": lambda node: -1, "Gemm": _gemm_inner_axis}


def _flops(node: onnx.NodeProto, shapes: Mapping[str, TensorShape]) -> int | None:
    output = shapes[node.output[0]].sizes
    inner = shapes[node.input[0]].sizes[_INNER_AXIS[node.op_type](node)]
    if not inner or not all(output):
        return None
    return 0 if output[-1] == 1 else 2 * math.prod(output) * inner
