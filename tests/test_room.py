"""Work that does not fit into memory is refused beforehand, with numbers."""

from dataclasses import replace

import pytest

from edge_runtime.device import memory_now, require_room
from edge_runtime.errors import DeviceError

MIB = 1 << 20


def memory(**changes):
    """A process that holds 100 MiB where 200 MiB are left, in a container of 250 MiB."""
    now = replace(
        memory_now(),
        rss_bytes=100 * MIB,
        gpu_bytes=None,
        card_bytes=None,
        available_bytes=200 * MIB,
        limit_bytes=250 * MIB,
    )
    return lambda: replace(now, **changes)


def test_what_fits_exactly_is_allowed():
    require_room("it", 150 * MIB, "Wait.", read_memory=memory())


def test_the_limit_of_the_container_is_kept():
    with pytest.raises(DeviceError) as caught:
        require_room("the work", 150 * MIB + 1, "Do less.", read_memory=memory())
    assert str(caught.value) == (
        "the work needs about 250.0 MiB of memory, and there are 250.0 MiB for it here. "
        "Do less."
    )
    assert caught.value.exit_code == 4


def test_what_other_programs_hold_is_not_there():
    read = memory(available_bytes=20 * MIB)
    require_room("it", 20 * MIB, "Wait.", read_memory=read)
    with pytest.raises(DeviceError, match=r"needs about 121\.0 MiB.*are 120\.0 MiB for it"):
        require_room("it", 21 * MIB, "Wait.", read_memory=read)


def test_memory_of_the_gpu_counts_as_held():
    read = memory(gpu_bytes=60 * MIB)
    require_room("it", 90 * MIB, "Wait.", read_memory=read)
    with pytest.raises(DeviceError, match=r"needs about 251\.0 MiB"):
        require_room("it", 91 * MIB, "Wait.", read_memory=read)


def test_nothing_is_refused_where_the_room_is_unknown():
    read = memory(available_bytes=None, limit_bytes=None)
    require_room("it", 1 << 60, "Wait.", read_memory=read)
