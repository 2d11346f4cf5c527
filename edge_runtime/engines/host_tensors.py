"""Named tensors in the processor's memory, shared by numpy and ONNX Runtime."""

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.engines.runtime import load_onnxruntime
from edge_runtime.state import Array, State

_ALIGNMENT = 64  # bytes; best for vector instructions


class HostTensors:
    """The same tensors as arrays and as values of the runtime; see `devices.Tensors`."""

    def __init__(self, like: Mapping[str, Array]) -> None:
        """Tensors of these dtypes and shapes, all zero."""
        self._arrays = mapped_zeros(like)
        # The runtime borrows an array's memory.
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        self._values: dict[str, Any] = {n: create(array) for n, array in self._arrays.items()}

    def value(self, name: str) -> Any:
        """A tensor as a value of the runtime."""
        return self._values[name]

    def read(self, name: str) -> Array:
        """A tensor's elements, without a copy."""
        return self._arrays[name]

    def write(self, name: str, array: Array) -> None:
        """Set a tensor's elements."""
        self._arrays[name][...] = array

    def clear(self) -> None:
        """Set everything to zero."""
        for array in self._arrays.values():
            array.fill(0)


def mapped_zeros(like: State) -> dict[str, Array]:
    """Arrays of these dtypes and shapes in one memory mapping, all zero.

    A page takes no memory before it is written. All of it is returned to the system with the
    last array, unlike memory of the C library's allocator.
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
