"""Sums, norms, softmax in logarithms and matrix products as ONNX nodes."""

from collections.abc import Sequence

import numpy as np
import torch

from edge_export.lowering.graph import GraphBuilder, Value
from edge_export.lowering.shapes import cut
from edge_export.lowering.table import known_size, lowers

aten = torch.ops.aten

LONGEST_HALF_SUM = 512  # rows


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


@lowers(aten.amin.default)
def _amin(g: GraphBuilder, x: Value, axes: Sequence[int] = (), keep: bool = False) -> Value:
    return g.reduce("ReduceMin", x, axes, keep)


@lowers(aten.cumsum.default)
def _cumsum(g: GraphBuilder, x: Value, axis: int) -> Value:
    where = g.constant(axis % len(x.shape), np.int64)
    return g.add("CumSum", [x, where], [(x.dtype, x.shape)])[0]


@lowers(aten.linalg_vector_norm.default)
def _norm(
    g: GraphBuilder, x: Value, order: float = 2, axes: Sequence[int] = (), keep: bool = False
) -> Value:
    if order != 2:
        raise NotImplementedError(f"vector norm of order {order}")
    return g.op("Sqrt", g.reduce("ReduceSum", g.op("Mul", x, x), axes, keep))


@lowers(aten.logsumexp.default)
def _logsumexp(g: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """WebGPU's ReduceLogSumExp overflows where exp(x) does; ReduceMax has no gradient."""
    if g.differentiated:
        return g.reduce("ReduceLogSumExp", x, axes, keep)
    largest, _, total = _exponents(g, x, axes)
    result = g.op("Add", g.op("Log", total), largest)
    gone = {axis % len(x.shape) for axis in axes} or set(range(len(x.shape)))
    kept = [size for i, size in enumerate(x.shape) if i not in gone]
    return result if keep else g.reshape(result, kept)


@lowers(aten._log_softmax.default)
def _log_softmax(g: GraphBuilder, x: Value, axis: int, _: bool) -> Value:
    """WebGPU has no LogSoftmax; ReduceMax has no gradient."""
    if g.differentiated:
        return g.op("LogSoftmax", x, axis=axis)
    shifted, total = _exponents(g, x, [axis])[1:]
    return g.op("Sub", shifted, g.op("Log", total))


def _exponents(g: GraphBuilder, x: Value, axes: Sequence[int]) -> tuple[Value, Value, Value]:
    """The largest element m, x - m, and the sum of exp(x - m), which cannot overflow."""
    largest = g.reduce("ReduceMax", x, axes, True)
    shifted = g.op("Sub", x, largest)
    return largest, shifted, g.reduce("ReduceSum", g.op("Exp", shifted), axes, True)


@lowers(aten.bmm.default)
def _bmm(g: GraphBuilder, a: Value, b: Value) -> Value:
    return g.matmul(a, b)


@lowers(aten.mm.default)
def _mm(g: GraphBuilder, a: Value, b: Value) -> Value:
    is_gradient = b.dtype == np.float16 and g.is_transposed(a)  # of a weight: a sum over rows
    if is_gradient and known_size(b, 0) > LONGEST_HALF_SUM:
        return _mm_in_parts(g, g.transpose(a, [1, 0]), b)
    return g.matmul(a, b)


def _mm_in_parts(g: GraphBuilder, a: Value, b: Value) -> Value:
    """a^T b in float16: parts of equal size and the rows that are left, added in float32.

    WebGPU adds up products of float16 in float16: long sums lose bits, or stop growing.
    """
    count = known_size(b, 0)
    least = -(-count // LONGEST_HALF_SUM)
    # Without rows that are left, nothing has to be cut off, which would copy all others.
    parts = next((n for n in range(least, 2 * least) if count % n == 0), least)
    size, left = divmod(count, parts)
    a_parts, b_parts = (
        g.reshape(cut(g, rows, 0, range(parts * size)), [parts, size, rows.shape[1]])
        for rows in (a, b)
    )
    products = g.cast(g.matmul(g.transpose(a_parts, [0, 2, 1]), b_parts), np.float32)
    total = g.reduce("ReduceSum", products, [0], False)
    if left:
        a_rest, b_rest = (cut(g, rows, 0, range(parts * size, count)) for rows in (a, b))
        rest = g.matmul(g.transpose(a_rest, [1, 0]), b_rest)
        total = g.op("Add", total, g.cast(rest, np.float32))
    return g.cast(total, b.dtype)


@lowers(aten.addmm.default)
def _addmm(g: GraphBuilder, bias: Value, x: Value, weight: Value) -> Value:
    shape = (x.shape[0], weight.shape[1])
    return g.add("Gemm", [x, weight, bias], [(x.dtype, shape)])[0]
