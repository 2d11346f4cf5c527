"""Which ATen operator is lowered by which function.

The graphs come from tracing (`edge_export.lowering.trace`), so every size is known but for a
free batch size of forward graphs. An operator that is in no table is decomposed by PyTorch's
own decompositions; if that leads to none that is, the error names it. A new lowering is one
small function in the file of its kind.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from edge_export.lowering.graph import GraphBuilder, Value

Lowering = Callable[..., Any]
AnyLowering = TypeVar("AnyLowering", bound=Lowering)
TABLE: dict[Any, Lowering] = {}


def lowers(*operators: Any) -> Callable[[AnyLowering], AnyLowering]:
    """Enter a function into the table for these operators."""

    def enter(function: AnyLowering) -> AnyLowering:
        TABLE.update(dict.fromkeys(operators, function))
        return function

    return enter


def known_size(x: Value, axis: int) -> int:
    """The size of an axis that is not the free one."""
    size = x.shape[axis]
    if not isinstance(size, int):
        raise NotImplementedError("a cut along the free batch axis")
    return size


def as_tensor(g: GraphBuilder, value: float | Value, like: Value) -> Value:
    """A number as a constant of the dtype of `like`; a tensor as it is."""
    return value if isinstance(value, Value) else g.constant(value, like.dtype)


def np_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype in a graph: NumPy's of the same name, but int32 for int64.

    PyTorch's indices are int64. They fit into int32, for which GPU providers have kernels.
    """
    return np.dtype("int32" if dtype == torch.int64 else str(dtype).removeprefix("torch."))
