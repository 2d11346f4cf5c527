"""Memory for many named tensors in one piece, which a runtime may read and write in place."""

import mmap
from typing import Any

import numpy as np

from edge_runtime.engines.runtime import load_onnxruntime
from edge_runtime.state import Array, State

_ALIGNMENT = 64  # bytes; what vector instructions like best


def mapped_zeros(like: State) -> dict[str, Array]:
    """Arrays of these dtypes and shapes in one mapping of their own, all zero.

    A page takes no memory before it is written. All of it goes back to the system when the
    last array does, which the C library's own memory does not.
    """
    starts, size = {}, 0
    for name, value in like.items():
        starts[name] = size
        size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return {
        name: np.ndarray(value.shape, value.dtype, memory, starts[name])
        for name, value in like.items()
    }


class Buffers:
    """The same tensors twice: as arrays, and as values of the runtime."""

    def __init__(self, like: State) -> None:
        """Take memory for tensors of these dtypes and shapes."""
        self.arrays = mapped_zeros(like)
        # The runtime borrows an array's memory.
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        self.values: dict[str, Any] = {n: create(array) for n, array in self.arrays.items()}

    def clear(self) -> None:
        """Set everything to zero."""
        for array in self.arrays.values():
            array.fill(0)
