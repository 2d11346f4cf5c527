"""Refuses work that does not fit into memory before the kernel kills the process for it."""

from collections.abc import Callable

from edge_runtime.device.memory import MemoryNow, memory_now
from edge_runtime.errors import DeviceError
from edge_runtime.units import bytes_text


def require_room(
    action: str,
    more_bytes: int,
    advice: str,
    *,
    read_memory: Callable[[], MemoryNow] = memory_now,
) -> None:
    """Refuse an action that needs more memory than the machine and the container leave.

    Args:
        action: for the message, such as `the evaluation`.
        more_bytes: an upper bound of what it needs beside what this process holds now.
        advice: what to do instead, a sentence.
        read_memory: of this process and the machine.

    Raises:
        DeviceError: it does not fit. Nothing is refused where the room is unknown.
    """
    now = read_memory()
    if not now.has_room_for(more_bytes):
        raise DeviceError(
            f"{action} needs about {bytes_text(now.held_bytes + more_bytes)} of memory, and "
            f"there are {bytes_text(now.room_bytes or 0)} for it here. {advice}"
        )
