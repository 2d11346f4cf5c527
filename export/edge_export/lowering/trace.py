"""Trace a torch function and lower it into one ONNX graph."""

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from edge_export.lowering import (  # noqa: F401 - each adds its operators to the table
    elementwise,
    network,
    reductions,
    selection,
    shapes,
)
from edge_export.lowering.graph import GraphBuilder, Value
from edge_export.lowering.shapes import RESHAPES
from edge_export.lowering.table import TABLE, np_dtype

Tensors = Mapping[str, Tensor]
BATCH = "batch"  # the free size of a graph, as its users see it
# Computed when a graph is built. PyTorch would make them with `arange` of 16 bits, from 256
# rows on, which its processor build does not have.
COMPUTED = (torch.ops.aten.eye.default, torch.ops.aten.eye.m)


def lower(
    function: Callable[[Tensors], Tensors],
    example: Tensors,
    *,
    name: str,
    parameters: Tensors | None = None,
    free_batch: Collection[str] = (),
) -> onnx.ModelProto:
    """One ONNX graph of `function`.

    Args:
        function: takes and returns tensors by name; may use `torch.func`. Tensors that it
            creates become constants.
        example: inputs with the shapes and dtypes of the graph; values are ignored.
        name: the graph's name.
        parameters: inputs that become initializers with these values.
        free_batch: inputs whose first axis is free. All other sizes are fixed: kernels and
            memory planning see constants.

    Raises:
        NotImplementedError: an operator is missing in the table.
    """
    module, results = _trace(function, example, free_batch)
    builder = GraphBuilder(name, differentiated=parameters is not None)
    values: dict[fx.Node, Any] = {}
    free: set[int | str] = set()
    holders = (node for node in module.graph.nodes if node.op == "placeholder")
    for node, key in zip(holders, example, strict=True):
        if parameters is not None and key in parameters:
            values[node] = builder.parameter(key, parameters[key].numpy())
        else:
            kind, sizes = np_dtype(example[key].dtype), _sizes(node.meta["val"].shape)
            values[node] = builder.input(key, kind, sizes)
            if key in free_batch:
                free.add(sizes[0])
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(module, str(node.target))
        elif node.op == "call_function":
            values[node] = _call(builder, node, values)
        elif node.op == "output":
            for key, result in zip(results, node.args[0], strict=True):
                builder.output(key, _as_value(builder, values[result]))
    model = builder.model()
    _name_batch(model, free)
    return model


def _trace(
    function: Callable[[Tensors], Tensors], example: Tensors, free_batch: Collection[str]
) -> tuple[fx.GraphModule, list[str]]:
    """The traced function with its inputs in order, and the names of its results."""
    results: list[str] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        made = function(dict(zip(example, tensors, strict=True)))
        results[:] = made
        return list(made.values())

    fake = FakeTensorMode(shape_env=ShapeEnv())  # shapes only: nothing is computed
    inputs = [
        fake.from_tensor(tensor, symbolic_context=_free_first_axis(tensor))
        if key in free_batch
        else fake.from_tensor(tensor, static_shapes=True)
        for key, tensor in example.items()
    ]
    with fake:
        module = make_fx(flat, decomposition_table=_decompositions(), tracing_mode="real")(
            *inputs
        )
    for key, tensor in zip(example, inputs, strict=True):
        size: Any = tensor.shape[0] if key in free_batch else None
        if size is not None and (fixed := size.node.maybe_as_int()) is not None:
            raise NotImplementedError(f"{key!r}: the function fixes its free size to {fixed}")
    return module, results


@cache
def _decompositions() -> dict[Any, Any]:
    """PyTorch's decompositions of operators that have no lowering here."""
    known = core_aten_decompositions()
    kept = {*TABLE, *RESHAPES, *COMPUTED}
    return {op: known[op] for op in known if op not in kept}


def _free_first_axis(tensor: Tensor) -> StatelessSymbolicContext[Any, Any]:
    rest = [DimDynamic.STATIC] * (tensor.dim() - 1)
    return StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, *rest])


def _name_batch(model: onnx.ModelProto, free: Collection[int | str]) -> None:
    """Call the free size `batch` at the border of the graph, instead of by its symbol."""
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in free:
                size.dim_param = BATCH


def _sizes(shape: Iterable[Any]) -> tuple[int | str, ...]:
    """Sizes as numbers, free ones as their expression."""
    return tuple(size if isinstance(size, int) else str(size) for size in shape)


def _call(builder: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """A node's value: computed now if all inputs are known, otherwise lowered."""
    result = node.meta.get("val")
    if isinstance(result, (int, torch.SymInt)):
        return _sizes([result])[0]
    arguments: Any = fx.map_arg(node.args, values.__getitem__)
    options: Any = fx.map_arg(node.kwargs, values.__getitem__)
    if node.target is operator.getitem:
        return arguments[0][arguments[1]]
    if not _has_value([*arguments, *options.values()]):
        return node.target(*arguments, **options)  # type: ignore[operator]
    if node.target in RESHAPES:
        return builder.reshape(arguments[0], _sizes(node.meta["val"].shape))
    if node.target not in TABLE:
        raise NotImplementedError(
            f"no ONNX lowering for {node.target}; add one in edge_export/lowering"
        )
    made = TABLE[node.target](builder, *_lifted(builder, arguments), **options)
    _check(node, made, result)
    return made


def _check(node: fx.Node, made: Any, wanted: Any) -> None:
    """Refuse a result without PyTorch's dtype and shape: an unsupported use of an operator."""
    if isinstance(made, tuple):
        for part, tensor in zip(made, wanted, strict=True):
            _check(node, part, tensor)
    elif isinstance(wanted, Tensor):
        dtype = np_dtype(made.dtype) if isinstance(made, Tensor) else made.dtype
        actual, expected = (
            (dtype, tuple(made.shape)),
            (np_dtype(wanted.dtype), _sizes(wanted.shape)),
        )
        if actual != expected:
            raise NotImplementedError(f"{node.target} gives {expected}, lowered to {actual}")


def _has_value(tree: Any) -> bool:
    if isinstance(tree, (list, tuple)):
        return any(map(_has_value, tree))
    return isinstance(tree, Value)


def _lifted(builder: GraphBuilder, tree: Any) -> Any:
    """The arguments, with known tensors as constants of the graph."""
    if isinstance(tree, (list, tuple)):
        return [_lifted(builder, leaf) for leaf in tree]
    return _as_value(builder, tree) if isinstance(tree, Tensor) else tree


def _as_value(builder: GraphBuilder, result: Value | Tensor) -> Value:
    if not isinstance(result, Tensor):
        return result
    known, dtype = result.numpy(), np_dtype(result.dtype)
    if known.dtype != dtype and not np.array_equal(known, known.astype(dtype)):
        raise NotImplementedError(
            f"an index of {np.abs(known).max()}, which int32 cannot hold"
        )
    return builder.constant(known, dtype)
