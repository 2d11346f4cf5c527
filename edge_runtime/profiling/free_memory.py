"""Whether the rungs of a run fit into the free memory, and what they leave to decoding.

Unit: bytes.
"""

from collections.abc import Callable, Sequence

from edge_runtime.data import FrameSource, PictureSource
from edge_runtime.device import memory_now
from edge_runtime.engines.runtime import baseline_bytes
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.package import Package
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.planning.decoding_limit import limit_beside, limit_that_fits
from edge_runtime.records import Settings
from edge_runtime.units import bytes_text

_NOTABLE_BYTES = 16 << 20


def is_memory_tight(
    package: Package,
    rungs: Sequence[str] | None,
    trained: str | None,
    recorded: Settings | None,
    decoding: int,
) -> bool:
    """Whether the rung that would be trained may not fit into the memory that is free.

    Rungs are then chosen by their costs, without a limit as well. A run that is continued
    keeps its way.

    Args:
        package: the package to train.
        rungs: that the caller names.
        trained: the set of parameters that the caller names.
        recorded: settings of the run that is continued, if any.
        decoding: bytes that decoding the pictures takes.
    """
    if recorded is not None:
        return recorded.rungs is None
    rung = package.rung(rungs[0]) if rungs else package.largest_rungs(trained)[0]
    now = memory_now()
    needed = predicted_peak_bytes(package.manifest, rung, baseline_bytes()) + decoding
    return now.room_bytes is not None and needed > now.room_bytes


def limit_beside_rungs(package: Package, rungs: Sequence[str]) -> int | None:
    """The limit on decoding for a run on these rungs, beside the largest of them."""
    manifest, baseline = package.manifest, baseline_bytes()
    peaks = [predicted_peak_bytes(manifest, package.rung(rung), baseline) for rung in rungs]
    return limit_beside(max(peaks), memory_now().room_bytes)


def limit_beside_costs(
    source: PictureSource | FrameSource,
    costs: CostProfile,
    budget: Budget,
    decoding: int,
    code: int,
    report: Callable[[str], None],
) -> int:
    """The limit on decoding for a run whose rungs are chosen by their costs.

    Pictures for which even the smallest rung leaves too little memory are skipped; a stream
    of frames cannot be read without its decoder.
    """
    limits = (budget.memory_bytes, memory_now().room_bytes)
    room = min((limit for limit in limits if limit is not None), default=None)
    limit = decoding
    if isinstance(source, PictureSource):
        limit = limit_that_fits(costs.rungs, decoding, code, room)
    if decoding >= _NOTABLE_BYTES:
        size = bytes_text(decoding)
        skipped = (
            f"; there is memory for {bytes_text(limit)}: pictures that need more are skipped"
        )
        more = skipped if limit < decoding else ""
        report(f"decoding these pictures takes up to {size} beside a rung{more}")
    return limit
