"""The state of a run on a device: allocated once, read and written in place by the runtime."""

import mmap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edge_runtime.engines.runtime import load_onnxruntime
from edge_runtime.state import Array, State

_ALIGNMENT = 64  # bytes; best for vector instructions


class DeviceState:
    """Named tensors, each with a second buffer for its next value.

    A step reads the current values and writes the next ones, so a failed step leaves the state
    unchanged. `advance` makes the written values current; other tensors stay in their buffer,
    and a buffer that is never written takes no memory.
    """

    def __init__(self, state: State) -> None:
        """Allocate memory and copy the state."""
        self._buffer_sets = (MappedTensors(state), MappedTensors(state))
        self._current = dict.fromkeys(state, 0)  # index of the buffer set
        for name, array in self._buffer_sets[0].arrays.items():
            array[...] = state[name]

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Which of the two buffer sets each of these tensors is in."""
        return tuple(self._current[name] for name in names)

    def value(self, name: str) -> Any:
        """The current value of a tensor, as a value of the runtime."""
        return self._buffer_sets[self._current[name]].values[name]

    def next_value(self, name: str) -> Any:
        """The buffer for the next value of a tensor, as a value of the runtime."""
        return self._buffer_sets[1 - self._current[name]].values[name]

    def advance(self, names: Iterable[str]) -> None:
        """Make the next values of these tensors the current ones."""
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
    """The same tensors as arrays and as values of the runtime."""

    def __init__(self, like: Mapping[str, Array]) -> None:
        """Allocate tensors of these dtypes and shapes, all zero."""
        self.arrays = mapped_zeros(like)
        # The runtime borrows an array's memory.
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        self.values: dict[str, Any] = {n: create(array) for n, array in self.arrays.items()}

    def clear(self) -> None:
        """Set everything to zero."""
        for array in self.arrays.values():
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
