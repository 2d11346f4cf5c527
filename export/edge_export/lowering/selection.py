"""Gather, scatter, sort and top-k as ONNX nodes.

Only with operators for which all providers have kernels: WebGPU has no GatherElements and no
TopK of integers, CUDA no ArgMax of integers, and neither promises the order of equal values.
Indices are int32.
"""

from math import prod

import numpy as np
import torch

from edge_export.lowering.elementwise import where
from edge_export.lowering.graph import GraphBuilder, Value
from edge_export.lowering.shapes import cut, expand
from edge_export.lowering.table import known_size, lowers

aten = torch.ops.aten

# Elements that are sorted by comparing all pairs: the tokens of an image, not the weights of a
# matrix, which are sorted once in a while by a periodic graph
RANKED = 1024


@lowers(aten.index_select.default)
def _index_select(g: GraphBuilder, x: Value, axis: int, index: Value) -> Value:
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return g.add("Gather", [x, index], [(x.dtype, shape)], {"axis": axis})[0]


@lowers(aten.gather.default)
def _gather(g: GraphBuilder, x: Value, axis: int, index: Value) -> Value:
    """A Gather from the flat tensor."""
    axis %= len(x.shape)
    sizes = [known_size(x, i) for i in range(len(x.shape))]
    strides = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
    places = np.indices([known_size(index, i) for i in range(len(sizes))], np.int32)
    others = sum(places[i] * strides[i] for i in range(len(sizes)) if i != axis)
    steps = g.op("Mul", index, g.constant(strides[axis], index.dtype))
    flat = g.op("Add", steps, g.constant(others, np.int32))
    return _index_select(g, g.reshape(x, [prod(sizes)]), 0, flat)


@lowers(aten.scatter.src)
def _scatter(g: GraphBuilder, x: Value, axis: int, index: Value, source: Value) -> Value:
    axis %= len(x.shape)
    inputs = [x, index, source]
    return g.add("ScatterElements", inputs, [(x.dtype, x.shape)], {"axis": axis})[0]


@lowers(aten.scatter_add.default)
def _scatter_add(g: GraphBuilder, x: Value, axis: int, index: Value, source: Value) -> Value:
    attributes = {"axis": axis % len(x.shape), "reduction": "add"}
    return g.add("ScatterElements", [x, index, source], [(x.dtype, x.shape)], attributes)[0]


@lowers(aten.topk.default)
def _topk(
    g: GraphBuilder,
    x: Value,
    k: int,
    axis: int = -1,
    largest: bool = True,
    ordered: bool = True,
) -> tuple[Value, ...]:
    return tuple(
        cut(g, each, axis % len(x.shape), range(k)) for each in _sorted(g, x, axis, largest)
    )


@lowers(aten.sort.stable)
def _sort_stable(
    g: GraphBuilder, x: Value, stable: bool, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    return _sorted(g, x, dim, descending)


@lowers(aten.sort.default)
def _sort(
    g: GraphBuilder, x: Value, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    return _sorted(g, x, dim, descending)


def _sorted(g: GraphBuilder, x: Value, dim: int, descending: bool) -> tuple[Value, ...]:
    """Values and places; of equal values, the lower place comes first."""
    axis = dim % len(x.shape)
    if known_size(x, axis) > RANKED:
        return _sort_many(g, x, axis, descending)
    rank = _ranks(g, x, axis, descending)
    places = expand(g, g.constant(_along(x, axis)), x.shape)
    # Every element is overwritten, since ranks are a permutation
    return _scatter(g, x, axis, rank, x), _scatter(g, places, axis, rank, places)


def _sort_many(g: GraphBuilder, x: Value, axis: int, descending: bool) -> tuple[Value, ...]:
    """TopK of all: on the CPU, of equal values the lower index comes first."""
    attributes = {"axis": axis, "largest": int(descending), "sorted": 1}
    count = g.constant([known_size(x, axis)], np.int64)
    outputs = [(x.dtype, x.shape), (np.int64, x.shape)]
    values, places = g.add("TopK", [x, count], outputs, attributes)
    return values, g.cast(places, np.int32)


def _ranks(g: GraphBuilder, x: Value, axis: int, descending: bool) -> Value:
    """The place of each element in a stable sort, by comparing all pairs.

    Before element i come the later ones that are smaller, and the earlier ones but those that
    are greater. With M[i, j] = (j > i and x_j < x_i), these are the row's sum of M, and i less
    the column's. Quadratic, and for the tokens of an image small beside one matrix product.
    """
    size = known_size(x, axis)
    one = g.reshape(x, [*x.shape[:axis], size, 1, *x.shape[axis + 1 :]])
    other = g.reshape(x, [*x.shape[:axis], 1, size, *x.shape[axis + 1 :]])
    passes = g.compare("Greater" if descending else "Less", other, one)
    later = np.triu(np.ones((size, size), np.float32), 1)
    later = later.reshape(size, size, *(1 for _ in x.shape[axis + 1 :]))
    passes = g.op("Mul", g.cast(passes, np.float32), g.constant(later))
    moved = g.op(
        "Sub",
        g.reduce("ReduceSum", passes, [axis + 1], False),
        g.reduce("ReduceSum", passes, [axis], False),
    )
    return g.op("Add", g.cast(moved, np.int32), g.constant(_along(x, axis)))


def _along(x: Value, axis: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """0, 1, 2, ... along an axis of x, to be broadcast over the others."""
    shape = [-1 if i == axis else 1 for i in range(len(x.shape))]
    return np.arange(known_size(x, axis), dtype=np.int32).reshape(shape)


@lowers(aten.argmax.default)
def _argmax(g: GraphBuilder, x: Value, axis: int, keep: bool = False) -> Value:
    """The first of equal maxima; the last place where all are NaN, which is an index, too."""
    axis %= len(x.shape)
    largest = g.reduce("ReduceMax", x, [axis], True)
    at = g.compare("Equal", x, largest)
    last = g.constant(known_size(x, axis) - 1, np.int32)
    place = where(g, at, g.constant(_along(x, axis)), last)
    return g.reduce("ReduceMin", place, [axis], keep)
