"""Board profiles for tests."""

from edge_runtime.device import Board, Calibration, PowerFacts


def board(
    *,
    total: tuple[str, ...] = (),
    idle_w: float | None = None,
    full_w: float | None = None,
    calibration: dict[str, Calibration] | None = None,
) -> Board:
    """A board with that total; an estimate is possible if both powers are given."""
    return Board(
        id="shed",
        name="Shed camera",
        power=PowerFacts(rails=total, total=total, idle_w=idle_w, full_w=full_w),
        calibration=calibration or {},
    )
