"""Element-wise operators as ONNX nodes."""

from typing import Any

import numpy as np
import torch

from edge_export.lowering.graph import GraphBuilder, Value, broadcast
from edge_export.lowering.table import TABLE, Lowering, as_tensor, lowers, np_dtype

aten = torch.ops.aten


def _binary(op: str) -> Lowering:
    def lower(g: GraphBuilder, a: Any, b: Any, alpha: float = 1) -> Value:
        if alpha != 1:
            raise NotImplementedError(f"{op} with alpha {alpha}")
        like = a if isinstance(a, Value) else b
        return g.op(op, as_tensor(g, a, like), as_tensor(g, b, like))

    return lower


def _unary(op: str) -> Lowering:
    def lower(g: GraphBuilder, x: Value) -> Value:
        return g.op(op, x)

    return lower


for _operator, _name in {
    aten.add.Tensor: "Add",
    aten.sub.Tensor: "Sub",
    aten.mul.Tensor: "Mul",
    aten.mul.Scalar: "Mul",
    aten.div.Tensor: "Div",
    aten.div.Scalar: "Div",
    aten.pow.Tensor_Tensor: "Pow",
    aten.pow.Scalar: "Pow",
    aten.maximum.default: "Max",
    aten.minimum.default: "Min",
    aten.bitwise_and.Tensor: "And",
    aten.logical_and.default: "And",
}.items():
    TABLE[_operator] = _binary(_name)

for _operator, _name in {
    aten.neg.default: "Neg",
    aten.sqrt.default: "Sqrt",
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.relu.default: "Relu",
    aten.reciprocal.default: "Reciprocal",
    aten.round.default: "Round",
    aten.abs.default: "Abs",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.floor.default: "Floor",
    aten.ceil.default: "Ceil",
    aten.sigmoid.default: "Sigmoid",
    aten.tanh.default: "Tanh",
    aten.erf.default: "Erf",
    aten.bitwise_not.default: "Not",
    aten.logical_not.default: "Not",
}.items():
    TABLE[_operator] = _unary(_name)


# Or, and Sign below: without a WebGPU kernel
@lowers(aten.bitwise_or.Tensor, aten.logical_or.default)
def _or(g: GraphBuilder, a: Value, b: Value) -> Value:
    return g.op("Not", g.op("And", g.op("Not", a), g.op("Not", b)))


@lowers(aten.sign.default)
def _sign(g: GraphBuilder, x: Value) -> Value:
    zero = g.constant(0, x.dtype)
    above, below = (g.cast(g.compare(op, x, zero), x.dtype) for op in ("Greater", "Less"))
    return g.op("Sub", above, below)


@lowers(aten.rsub.Scalar)
def _rsub(g: GraphBuilder, x: Value, other: float) -> Value:
    return g.op("Sub", as_tensor(g, other, x), x)


@lowers(aten.pow.Tensor_Scalar)
def _pow(g: GraphBuilder, x: Value, exponent: float) -> Value:
    if exponent == 1:
        return x
    if exponent == 2:
        return g.op("Mul", x, x)
    if exponent == 0.5:
        return g.op("Sqrt", x)
    return g.op("Pow", x, g.constant(exponent, x.dtype))


@lowers(aten.rsqrt.default)
def _rsqrt(g: GraphBuilder, x: Value) -> Value:
    return g.op("Reciprocal", g.op("Sqrt", x))


@lowers(aten.clamp_min.default)
def _clamp_min(g: GraphBuilder, x: Value, low: float) -> Value:
    return g.op("Max", x, g.constant(low, x.dtype))


@lowers(aten.clamp.default)
def _clamp(
    g: GraphBuilder, x: Value, low: float | None = None, high: float | None = None
) -> Value:
    if low is not None:
        x = g.op("Max", x, g.constant(low, x.dtype))
    return x if high is None else g.op("Min", x, g.constant(high, x.dtype))


def _comparison(op: str) -> Lowering:
    def lower(g: GraphBuilder, a: Value, b: Any) -> Value:
        return g.compare(op, a, as_tensor(g, b, a))

    return lower


for _operator, _name in {
    aten.eq.Tensor: "Equal",
    aten.eq.Scalar: "Equal",
    aten.ge.Scalar: "GreaterOrEqual",
    aten.ge.Tensor: "GreaterOrEqual",
    aten.gt.Scalar: "Greater",
    aten.gt.Tensor: "Greater",
    aten.lt.Scalar: "Less",
    aten.lt.Tensor: "Less",
    aten.le.Scalar: "LessOrEqual",
    aten.le.Tensor: "LessOrEqual",
}.items():
    TABLE[_operator] = _comparison(_name)


@lowers(aten.ne.Scalar, aten.ne.Tensor)
def _not_equal(g: GraphBuilder, a: Value, b: Any) -> Value:
    return g.op("Not", TABLE[aten.eq.Tensor](g, a, b))


@lowers(aten.where.self)
def where(g: GraphBuilder, condition: Value, a: Value, b: Value) -> Value:
    """`a` where the condition holds, `b` elsewhere."""
    shape = broadcast(condition.shape, a.shape, b.shape)
    return g.add("Where", [condition, a, b], [(a.dtype, shape)])[0]


# PyTorch's gradient of a norm has the in-place form; the trace uses only its result.
@lowers(aten.masked_fill.Scalar, aten.masked_fill_.Scalar)
def _masked_fill(g: GraphBuilder, x: Value, mask: Value, value: float) -> Value:
    return where(g, mask, g.constant(value, x.dtype), x)


@lowers(aten.ones_like.default)
def _ones_like(g: GraphBuilder, x: Value, **_: Any) -> torch.Tensor:
    return torch.from_numpy(np.ones(x.shape, x.dtype))


@lowers(aten.zeros_like.default)
def _zeros_like(g: GraphBuilder, x: Value, **_: Any) -> torch.Tensor:
    return torch.from_numpy(np.zeros(x.shape, x.dtype))


@lowers(aten.full_like.default)
def _full_like(g: GraphBuilder, x: Value, fill: float, **_: Any) -> torch.Tensor:
    return torch.from_numpy(np.full(x.shape, fill, x.dtype))


@lowers(aten._to_copy.default)
def _to_copy(g: GraphBuilder, x: Value, dtype: torch.dtype | None = None, **_: Any) -> Value:
    if dtype is None:
        return x
    return g.cast(x, np_dtype(dtype))
