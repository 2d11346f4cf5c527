"""The memory that a run leaves to the decoding of its pictures. Unit: bytes.

A picture that needs more is skipped and reported; without a limit, one large picture among
thousands could end a run in a small container.
"""

from collections.abc import Sequence

from edge_runtime.facts import RungCost

LEAST_BYTES = 8 << 20  # no picture of a megapixel needs more
AMPLE_BYTES = 4 << 30  # no picture within the limit on pixels needs more


def limit_beside(needed_bytes: int, room_bytes: int | None) -> int | None:
    """What one rung leaves; `None`: as much as any picture needs, or unknown.

    Args:
        needed_bytes: by the rung.
        room_bytes: that the run may hold.
    """
    if room_bytes is None or room_bytes - needed_bytes >= AMPLE_BYTES:
        return None
    return max(LEAST_BYTES, room_bytes - needed_bytes)


def limit_that_fits(
    costs: Sequence[RungCost], decoding_bytes: int, code_bytes: int, room_bytes: int | None
) -> int:
    """What the pictures need, at most what the smallest rung leaves with its reserve.

    Args:
        costs: of the rungs, without decoding.
        decoding_bytes: that the pictures need.
        code_bytes: of the decoders, which come on top.
        room_bytes: that the run may hold; `None`: unknown.
    """
    if room_bytes is None:
        return decoding_bytes
    left = [
        room_bytes * cost.likely_peak_bytes / cost.need_bytes
        - (cost.likely_peak_bytes + code_bytes)
        for cost in costs
        if cost.likely_peak_bytes and cost.need_bytes
    ]
    return min(decoding_bytes, max(LEAST_BYTES, int(max(left, default=decoding_bytes))))
