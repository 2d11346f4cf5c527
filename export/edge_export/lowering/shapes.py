"""Operators that move, cut and join tensors, as ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edge_export.lowering.graph import GraphBuilder, Value
from edge_export.lowering.table import known_size, lowers

aten = torch.ops.aten


# A copy in memory means nothing in ONNX.
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
def expand(g: GraphBuilder, x: Value, shape: Sequence[int | str], **_: Any) -> Value:
    """`x` repeated along axes of size 1; -1 keeps an axis."""
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
    total = known_size(x, axis)
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
    return cut(g, x, axis, range(known_size(x, axis))[start or 0 : end : step])


def cut(g: GraphBuilder, x: Value, axis: int, picked: range) -> Value:
    """The picked places of an axis."""
    if len(picked) == known_size(x, axis):
        return x
    if not picked:
        raise NotImplementedError("an empty slice")
    shape = (*x.shape[:axis], len(picked), *x.shape[axis + 1 :])
    if x.dtype.kind != "f":  # WebGPU has a Slice of floating-point numbers only
        index = g.constant(picked, np.int32)
        return g.add("Gather", [x, index], [(x.dtype, shape)], {"axis": axis})[0]
    ends = picked[0], picked[-1] + 1, axis, picked.step
    where = [g.constant([n], np.int64) for n in ends]
    return g.add("Slice", [x, *where], [(x.dtype, shape)])[0]


@lowers(aten.select.int)
def _select(g: GraphBuilder, x: Value, axis: int, index: int) -> Value:
    axis %= len(x.shape)
    index %= known_size(x, axis)
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
