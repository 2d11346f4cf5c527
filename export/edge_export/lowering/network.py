"""Layers of networks and their gradients as ONNX nodes.

Gradients are lowered as one unit, with as few passes over memory as standard operators allow:
besides matrix products, these passes dominate the time of a step.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from edge_export.lowering.elementwise import where
from edge_export.lowering.graph import GraphBuilder, Value
from edge_export.lowering.table import lowers

aten = torch.ops.aten


@lowers(aten.native_layer_norm.default)
def _layer_norm(
    g: GraphBuilder, x: Value, over: Sequence[int], weight: Value, bias: Value, eps: float
) -> tuple[Value, ...]:
    axis = len(x.shape) - len(over)
    rows = (*x.shape[:axis], *(1 for _ in over))
    # The ort-training gradient builder and the backward below need all three outputs.
    outputs = [(x.dtype, x.shape), (x.dtype, rows), (x.dtype, rows)]
    attributes = {"axis": axis, "epsilon": eps}
    return g.add("LayerNormalization", [x, weight, bias], outputs, attributes)


@lowers(aten.native_layer_norm_backward.default)
def _layer_norm_backward(
    g: GraphBuilder,
    grad: Value,
    x: Value,
    over: Sequence[int],
    mean: Value,
    deviation: Value,
    weight: Value,
    bias: Value,
    wanted: Sequence[bool],
) -> tuple[Value, Value, Value]:
    """(w g - s(w g) - n s(w g n)) / sigma; n the normalised input, s the mean over the axis.

    Both means are products with w / D, so `grad * n` serves the weight's gradient as well.
    """
    (width,) = over
    rows = list(range(len(x.shape) - 1))
    normal = g.op("Mul", g.op("Sub", x, mean), deviation)
    grad_normal = g.op("Mul", grad, normal)
    column = g.op(
        "Mul", g.reshape(weight, (width, 1)), g.constant(1 / width, x.dtype)
    )  # (D, 1)
    centred = g.op("Sub", g.op("Mul", grad, weight), g.matmul(grad, column))
    slope = g.op("Mul", normal, g.matmul(grad_normal, column))
    grad_x = g.op("Mul", g.op("Sub", centred, slope), deviation)
    grad_weight = g.reduce("ReduceSum", grad_normal, rows, False)
    return grad_x, grad_weight, g.reduce("ReduceSum", grad, rows, False)


@lowers(aten.gelu.default)
def _gelu(g: GraphBuilder, x: Value) -> Value:
    """x/2 (1 + erf(x / sqrt 2)), in the form that onnxruntime fuses into one kernel."""
    erf = g.op("Erf", g.op("Div", x, g.constant(math.sqrt(2), x.dtype)))
    whole = g.op("Mul", x, g.op("Add", erf, g.constant(1, x.dtype)))
    return g.op("Mul", whole, g.constant(0.5, x.dtype))


@lowers(aten.gelu_backward.default)
def _gelu_backward(g: GraphBuilder, grad: Value, x: Value) -> Value:
    """Grad (cdf(x) + x pdf(x)) of the normal distribution.

    Shares no node with the forward: sharing would keep the forward from being fused and hold
    two more tensors until here. HardSigmoid is erf/2 + 1/2 in one pass.
    """
    t = g.op("Mul", x, g.constant(math.sqrt(0.5), x.dtype))
    cdf = g.op("HardSigmoid", g.op("Erf", t), alpha=0.5, beta=0.5)
    bell = g.op("Exp", g.op("Mul", t, g.op("Neg", t)))
    slope = g.op("Mul", g.op("Mul", t, bell), g.constant(1 / math.sqrt(math.pi), x.dtype))
    return g.op("Mul", g.op("Add", cdf, slope), grad)


@lowers(aten._softmax.default)
def _softmax(g: GraphBuilder, x: Value, axis: int, _: bool) -> Value:
    return g.op("Softmax", x, axis=axis)


@lowers(aten._softmax_backward_data.default)
def _softmax_backward(g: GraphBuilder, grad: Value, y: Value, axis: int, _: Any) -> Value:
    inner = g.reduce("ReduceSum", g.op("Mul", grad, y), [axis], True)
    return g.op("Mul", y, g.op("Sub", grad, inner))


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(g: GraphBuilder, grad: Value, y: Value, axis: int, _: Any) -> Value:
    total = g.reduce("ReduceSum", grad, [axis], True)
    return g.op("Sub", grad, g.op("Mul", g.op("Exp", y), total))


@lowers(aten.threshold_backward.default)
def _relu_backward(g: GraphBuilder, grad: Value, y: Value, threshold: float) -> Value:
    zero = g.constant(threshold, y.dtype)
    return where(g, g.compare("Greater", y, zero), grad, g.constant(0, grad.dtype))
