"""The state of a run on a device: allocated once, read and written in place by the runtime."""

from collections.abc import Iterable
from typing import Any

from edge_runtime.engines.devices import Device
from edge_runtime.engines.host_tensors import mapped_zeros
from edge_runtime.state import State


class DeviceState:
    """Named tensors, each with a second buffer for its next value.

    A step reads the current values and writes the next ones, so a failed step leaves the state
    unchanged. `advance` makes the written values current; other tensors stay in their buffer,
    and a buffer that is never written takes no memory.
    """

    def __init__(self, state: State, device: Device) -> None:
        """Allocate memory and copy the state."""
        self._buffer_sets = (device.tensors(state), device.tensors(state))
        self._current = dict.fromkeys(state, 0)  # index of the buffer set
        for name, array in state.items():
            self._buffer_sets[0].write(name, array)

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Which of the two buffer sets each of these tensors is in."""
        return tuple(self._current[name] for name in names)

    def value(self, name: str) -> Any:
        """The current value of a tensor, as a value of the runtime."""
        return self._buffer_sets[self._current[name]].value(name)

    def next_value(self, name: str) -> Any:
        """The buffer for the next value of a tensor, as a value of the runtime."""
        return self._buffer_sets[1 - self._current[name]].value(name)

    def advance(self, names: Iterable[str]) -> None:
        """Make the next values of these tensors the current ones."""
        for name in names:
            self._current[name] = 1 - self._current[name]

    def view(self, names: Iterable[str] | None = None) -> State:
        """The current values: valid until the next step or periodic graph.

        On the CPU without a copy.

        Args:
            names: of the tensors to read; `None`: all of them.
        """
        chosen = self._current if names is None else names
        return {name: self._buffer_sets[self._current[name]].read(name) for name in chosen}

    def write(self, values: State) -> None:
        """Set the current values of these tensors."""
        for name, array in values.items():
            self._buffer_sets[self._current[name]].write(name, array)

    def copy(self) -> State:
        """A copy of the current values."""
        current = self.view()
        copies = mapped_zeros(current)
        for name, array in copies.items():
            array[...] = current[name]
        return copies
