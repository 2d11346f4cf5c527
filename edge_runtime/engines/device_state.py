"""The state of a run on a device: allocated once, read and written in place by the runtime."""

import mmap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edge_runtime.engines.runtime import load_onnxruntime
from edge_runtime.state import Array, State

_ALIGNMENT = 64  # bytes; what vector instructions like best


class DeviceState:
    """Named tensors, each with memory for its next value: two sets of buffers.

    A step reads the current values and writes the next ones, so that a step that fails leaves
    the state as it was. What it wrote becomes current by `advance`; tensors that it did not
    write stay where they are, and buffers that are never written take no memory.
    """

    def __init__(self, state: State) -> None:
        """Take memory, and copy the state in."""
        self._buffer_sets = (MappedTensors(state), MappedTensors(state))
        self._current = dict.fromkeys(state, 0)  # in which of the two sets a tensor is
        for name, array in self._buffer_sets[0].arrays.items():
            array[...] = state[name]

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """In which of the two buffer sets each of these tensors is now."""
        return tuple(self._current[name] for name in names)

    def value(self, name: str) -> Any:
        """The current value of a tensor, as the runtime takes it."""
        return self._buffer_sets[self._current[name]].values[name]

    def next_value(self, name: str) -> Any:
        """Where the next value of a tensor goes, as the runtime takes it."""
        return self._buffer_sets[1 - self._current[name]].values[name]

    def advance(self, names: Iterable[str]) -> None:
        """The next values of these tensors are written: they are the current ones now."""
        for name in names:
            self._current[name] = 1 - self._current[name]

    def view(self) -> State:
        """The current values, without a copy: valid until the next step or periodic graph."""
        return {n: self._buffer_sets[i].arrays[n] for n, i in self._current.items()}

    def copy(self) -> State:
        """A copy of the current values."""
        current = self.view()
        copies = mapped_zeros(current)
        for name, array in copies.items():
            array[...] = current[name]
        return copies


class MappedTensors:
    """The same tensors twice: as arrays, and as values of the runtime."""

    def __init__(self, like: Mapping[str, Array]) -> None:
        """Take memory for tensors of these dtypes and shapes, all zero."""
        self.arrays = mapped_zeros(like)
        # The runtime borrows an array's memory.
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        self.values: dict[str, Any] = {n: create(array) for n, array in self.arrays.items()}

    def clear(self) -> None:
        """Set everything to zero."""
        for array in self.arrays.values():
            array.fill(0)


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
