"""What a run leaves to decoding."""

from simulated_board import rung_cost

from edge_runtime.planning.costs import with_decoding
from edge_runtime.planning.decoding_limit import (
    AMPLE_BYTES,
    LEAST_BYTES,
    limit_beside,
    limit_that_fits,
)

MIB = 1 << 20
COSTS = [rung_cost(f"k{n}", n, 0.1, None, peak_bytes=n * MIB) for n in (500, 300)]


def test_one_rung_leaves_the_rest() -> None:
    assert limit_beside(300 * MIB, 450 * MIB) == 150 * MIB
    assert limit_beside(449 * MIB, 450 * MIB) == LEAST_BYTES
    assert limit_beside(300 * MIB, None) is None
    assert limit_beside(0, AMPLE_BYTES) is None


def test_pictures_get_what_they_need_or_what_the_smallest_rung_leaves() -> None:
    assert limit_that_fits(COSTS, 100 * MIB, 0, 450 * MIB) == 100 * MIB
    limit = limit_that_fits(COSTS, 400 * MIB, 0, 450 * MIB)
    assert 0 <= 450 * MIB - 1.05 * (300 * MIB + limit) < MIB
    assert limit_that_fits(COSTS, 400 * MIB, 0, 310 * MIB) == LEAST_BYTES
    assert limit_that_fits(COSTS, 400 * MIB, 0, None) == 400 * MIB
    assert limit_that_fits(COSTS, 2 * MIB, 0, 450 * MIB) == 2 * MIB


def test_a_rung_fits_beside_the_limit_and_the_code_of_the_decoders() -> None:
    room_bytes, code_bytes = 450 * MIB, 30 * MIB
    limit = limit_that_fits(COSTS, 400 * MIB, code_bytes, room_bytes)
    smallest = with_decoding(COSTS, limit + code_bytes)[1]
    assert smallest.need_bytes is not None
    assert 0 <= room_bytes - smallest.need_bytes < MIB
