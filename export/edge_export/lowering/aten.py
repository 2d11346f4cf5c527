"""ATen operators as ONNX nodes: one small function each.

The graphs come from tracing (`edge_export.lowering.trace`), so every size is known but for
a free batch size of forward graphs. An operator that is not in the table is an error which
names it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from edge_export.lowering.graph import GraphBuilder, Value, broadcast

aten = torch.ops.aten
Lowering = Callable[..., Any]
AnyLowering = TypeVar("AnyLowering", bound=Lowering)
TABLE: dict[Any, Lowering] = {}


def lowers(*operators: Any) -> Callable[[AnyLowering], AnyLowering]:
    """Enter a function into the table for these operators."""

    def enter(function: AnyLowering) -> AnyLowering:
        TABLE.update(dict.fromkeys(operators, function))
        return function

    return enter


def _known_size(x: Value, axis: int) -> int:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise NotImplementedError("a cut along the free batch axis")
    return size


def _scalar(g: GraphBuilder, value: float | Value, like: Value) -> Value:
    return value if isinstance(value, Value) else g.constant(value, like.dtype)


# Shapes. A copy in memory means nothing in ONNX.


@lowers(
    aten.clone.default, aten.detach.default, aten.lift_fresh_copy.default, aten.alias.default
)
def _same(g: GraphBuilder, x: Value, **_: Any) -> Value:
    return x


# Their result's shape is known from the trace.
RESHAPES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}


@lowers(aten.transpose.int)
def _transpose(g: GraphBuilder, x: Value, a: int, b: int) -> Value:
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return g.transpose(x, order)


@lowers(aten.t.default)
def _t(g: GraphBuilder, x: Value) -> Value:
    return g.transpose(x, [1, 0])


@lowers(aten.permute.default)
def _permute(g: GraphBuilder, x: Value, order: Sequence[int]) -> Value:
    return g.transpose(x, [axis % len(order) for axis in order])


@lowers(aten.expand.default)
def _expand(g: GraphBuilder, x: Value, shape: Sequence[int], **_: Any) -> Value:
    padded = (1,) * (len(shape) - len(x.shape)) + x.shape
    sizes = [old if size == -1 else size for size, old in zip(shape, padded, strict=True)]
    if tuple(sizes) == x.shape:
        return x
    return g.add("Expand", [x, g.sizes(sizes)], [(x.dtype, sizes)])[0]


@lowers(aten.cat.default)
def _cat(g: GraphBuilder, parts: Sequence[Value], axis: int = 0) -> Value:
    shape = list(parts[0].shape)
    axis %= len(shape)
    shape[axis] = sum(part.shape[axis] for part in parts)  # type: ignore[misc]
    return g.add("Concat", list(parts), [(parts[0].dtype, shape)], {"axis": axis})[0]


@lowers(aten.split.Tensor)
def _split(g: GraphBuilder, x: Value, size: int, axis: int = 0) -> tuple[Value, ...]:
    axis %= len(x.shape)
    total = _known_size(x, axis)
    sizes = [min(size, total - start) for start in range(0, total, size)]
    shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in sizes]
    wanted = g.constant(sizes, np.int64)
    return g.add("Split", [x, wanted], [(x.dtype, shape) for shape in shapes], {"axis": axis})


@lowers(aten.slice.Tensor)
def _slice(
    g: GraphBuilder, x: Value, axis: int = 0, start: int = 0, end: int = 2**62, step: int = 1
) -> Value:
    axis %= len(x.shape)
    if (start or 0, step) == (0, 1) and end >= 2**62:
        return x
    size = _known_size(x, axis)
    picked = range(size)[start or 0 : end : step]
    if len(picked) == size:
        return x
    if not picked:
        raise NotImplementedError("an empty slice")
    shape = (*x.shape[:axis], len(picked), *x.shape[axis + 1 :])
    stop = picked[-1] + 1
    where = [g.constant([n], np.int64) for n in (picked[0], stop, axis, step)]
    return g.add("Slice", [x, *where], [(x.dtype, shape)])[0]


@lowers(aten.select.int)
def _select(g: GraphBuilder, x: Value, axis: int, index: int) -> Value:
    axis %= len(x.shape)
    index %= _known_size(x, axis)
    row = _slice(g, x, axis, index, index + 1)
    return g.reshape(row, [*x.shape[:axis], *x.shape[axis + 1 :]])


@lowers(aten.slice_backward.default)
def _slice_backward(
    g: GraphBuilder, x: Value, sizes: Sequence[int], axis: int, start: int, end: int, step: int
) -> Value:
    if step != 1:
        raise NotImplementedError("gradient of a slice with a step")
    picked = range(sizes[axis])[start:end]
    return _pad(g, x, axis, picked.start, sizes[axis] - picked.stop)


@lowers(aten.select_backward.default)
def _select_backward(
    g: GraphBuilder, x: Value, sizes: Sequence[int], axis: int, index: int
) -> Value:
    axis, index = axis % len(sizes), index % sizes[axis]
    row = g.reshape(x, [*x.shape[:axis], 1, *x.shape[axis:]])
    return _pad(g, row, axis, index, sizes[axis] - index - 1)


def _pad(g: GraphBuilder, x: Value, axis: int, before: int, after: int) -> Value:
    if not before and not after:
        return x
    pads = np.zeros((2, len(x.shape)), np.int64)
    pads[:, axis] = before, after
    shape = list(x.shape)
    shape[axis] = int(shape[axis]) + before + after
    return g.add("Pad", [x, g.constant(pads.ravel())], [(x.dtype, shape)])[0]


# Element by element


def _binary(op: str) -> Lowering:
    def lower(g: GraphBuilder, a: Any, b: Any, alpha: float = 1) -> Value:
        if alpha != 1:
            raise NotImplementedError(f"{op} with alpha {alpha}")
        like = a if isinstance(a, Value) else b
        return g.op(op, _scalar(g, a, like), _scalar(g, b, like))

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
    aten.bitwise_not.default: "Not",
    aten.logical_not.default: "Not",
}.items():
    TABLE[_operator] = _unary(_name)


@lowers(aten.rsub.Scalar)
def _rsub(g: GraphBuilder, x: Value, other: float) -> Value:
    return g.op("Sub", _scalar(g, other, x), x)


@lowers(aten.clamp_min.default)
def _clamp_min(g: GraphBuilder, x: Value, low: float) -> Value:
    return g.op("Max", x, g.constant(low, x.dtype))


def _comparison(op: str) -> Lowering:
    def lower(g: GraphBuilder, a: Value, b: Any) -> Value:
        b = _scalar(g, b, a)
        shape = broadcast(a.shape, b.shape)
        return g.add(op, [a, b], [(np.bool_, shape)])[0]

    return lower


for _operator, _name in {
    aten.eq.Tensor: "Equal",
    aten.eq.Scalar: "Equal",
    aten.ge.Scalar: "GreaterOrEqual",
    aten.ge.Tensor: "GreaterOrEqual",
    aten.gt.Scalar: "Greater",
    aten.lt.Tensor: "Less",
    aten.le.Scalar: "LessOrEqual",
}.items():
    TABLE[_operator] = _comparison(_name)


@lowers(aten.where.self)
def where(g: GraphBuilder, condition: Value, a: Value, b: Value) -> Value:
    """`a` where the condition holds, else `b`."""
    shape = broadcast(condition.shape, a.shape, b.shape)
    return g.add("Where", [condition, a, b], [(a.dtype, shape)])[0]


# The in-place form stands in PyTorch's gradient of a norm; the trace follows its result.
@lowers(aten.masked_fill.Scalar, aten.masked_fill_.Scalar)
def _masked_fill(g: GraphBuilder, x: Value, mask: Value, value: float) -> Value:
    return where(g, mask, g.constant(value, x.dtype), x)


@lowers(aten.ones_like.default)
def _ones_like(g: GraphBuilder, x: Value, **_: Any) -> torch.Tensor:
    return torch.from_numpy(np.ones(x.shape, x.dtype))


@lowers(aten._to_copy.default)
def _to_copy(g: GraphBuilder, x: Value, dtype: torch.dtype | None = None, **_: Any) -> Value:
    if dtype is None:
        return x
    wanted = np_dtype(dtype)
    if wanted == x.dtype:
        return x
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(wanted)
    return g.add("Cast", [x], [(wanted, x.shape)], {"to": kind})[0]


def np_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's dtype of the same name."""
    return np.dtype(str(dtype).removeprefix("torch."))


# Sums and products


@lowers(aten.sum.dim_IntList)
def _sum(g: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    return g.reduce("ReduceSum", x, axes, keep)


@lowers(aten.sum.default)
def _sum_all(g: GraphBuilder, x: Value) -> Value:
    return g.reduce("ReduceSum", x, range(len(x.shape)), False)


@lowers(aten.mean.default)
def _mean_all(g: GraphBuilder, x: Value) -> Value:
    return g.reduce("ReduceMean", x, range(len(x.shape)), False)


@lowers(aten.mean.dim)
def _mean(g: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    return g.reduce("ReduceMean", x, axes, keep)


@lowers(aten.amax.default)
def _amax(g: GraphBuilder, x: Value, axes: Sequence[int] = (), keep: bool = False) -> Value:
    return g.reduce("ReduceMax", x, axes, keep)


@lowers(aten.linalg_vector_norm.default)
def _norm(
    g: GraphBuilder, x: Value, order: float = 2, axes: Sequence[int] = (), keep: bool = False
) -> Value:
    if order != 2:
        raise NotImplementedError(f"vector norm of order {order}")
    return g.op("Sqrt", g.reduce("ReduceSum", g.op("Mul", x, x), axes, keep))


@lowers(aten.logsumexp.default)
def _logsumexp(g: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    return g.reduce("ReduceLogSumExp", x, axes, keep)


@lowers(aten.mm.default, aten.bmm.default)
def _matmul(g: GraphBuilder, a: Value, b: Value) -> Value:
    return g.matmul(a, b)


@lowers(aten.addmm.default)
def _addmm(g: GraphBuilder, bias: Value, x: Value, weight: Value) -> Value:
    shape = (x.shape[0], weight.shape[1])
    return g.add("Gemm", [x, weight, bias], [(x.dtype, shape)])[0]


# Choosing rows


@lowers(aten.index_select.default)
def _index_select(g: GraphBuilder, x: Value, axis: int, index: Value) -> Value:
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return g.add("Gather", [x, index], [(x.dtype, shape)], {"axis": axis})[0]


@lowers(aten.gather.default)
def _gather(g: GraphBuilder, x: Value, axis: int, index: Value) -> Value:
    axis %= len(x.shape)
    return g.add("GatherElements", [x, index], [(x.dtype, index.shape)], {"axis": axis})[0]


@lowers(aten.scatter.src)
def _scatter(g: GraphBuilder, x: Value, axis: int, index: Value, source: Value) -> Value:
    axis %= len(x.shape)
    inputs = [x, index, source]
    return g.add("ScatterElements", inputs, [(x.dtype, x.shape)], {"axis": axis})[0]


@lowers(aten.topk.default)
def _topk(
    g: GraphBuilder,
    x: Value,
    k: int,
    axis: int = -1,
    largest: bool = True,
    ordered: bool = True,
) -> tuple[Value, ...]:
    axis %= len(x.shape)
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    attributes = {"axis": axis, "largest": int(largest), "sorted": int(ordered)}
    outputs = [(x.dtype, shape), (np.int64, shape)]
    return g.add("TopK", [x, g.constant([k], np.int64)], outputs, attributes)


@lowers(aten.sort.stable)
def _sort(
    g: GraphBuilder, x: Value, stable: bool, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    """TopK of all: it puts the lower index first among equals, as a stable sort does."""
    return _topk(g, x, int(x.shape[dim]), dim, descending)


@lowers(aten.argmax.default)
def _argmax(g: GraphBuilder, x: Value, axis: int, keep: bool = False) -> Value:
    axis %= len(x.shape)
    shape = list(x.shape)
    shape[axis : axis + 1] = [1] if keep else []
    attributes = {"axis": axis, "keepdims": int(keep)}
    return g.add("ArgMax", [x], [(np.int64, shape)], attributes)[0]
