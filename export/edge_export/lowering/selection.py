"""Gather, scatter, sort and top-k as ONNX nodes."""

import numpy as np
import torch

from edge_export.lowering.graph import GraphBuilder, Value
from edge_export.lowering.table import lowers

aten = torch.ops.aten


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
    axis %= len(x.shape)
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    attributes = {"axis": axis, "largest": int(largest), "sorted": int(ordered)}
    outputs = [(x.dtype, shape), (np.int64, shape)]
    return g.add("TopK", [x, g.constant([k], np.int64)], outputs, attributes)


@lowers(aten.sort.stable)
def _sort(
    g: GraphBuilder, x: Value, stable: bool, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    """TopK of all: of equal values, the lower index comes first, as in a stable sort."""
    return _topk(g, x, int(x.shape[dim]), dim, descending)


@lowers(aten.sort.default)
def _sort_any(
    g: GraphBuilder, x: Value, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    return _sort(g, x, True, dim, descending)


@lowers(aten.argmax.default)
def _argmax(g: GraphBuilder, x: Value, axis: int, keep: bool = False) -> Value:
    axis %= len(x.shape)
    shape = list(x.shape)
    shape[axis : axis + 1] = [1] if keep else []
    attributes = {"axis": axis, "keepdims": int(keep)}
    return g.add("ArgMax", [x], [(np.int64, shape)], attributes)[0]
