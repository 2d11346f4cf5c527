"""The protocol of power sensors, and how the rails of the total are found.

Units: watts, joules, monotonic seconds. A rail that cannot be read is `None`, never 0.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from edge_runtime.device.board import Board
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.errors import SensorError


class PowerSensor(Protocol):
    """Reads the power rails of a board. One reader at a time, from any thread."""

    name: str  # its kind, such as `ina3221`
    description: str  # what it is, for people, with every correction that it applies
    is_estimate: bool  # derived, not a power reading
    rails: tuple[str, ...]  # that `read` returns
    total: tuple[str, ...]  # the rails whose sum is the board's input; empty: unknown
    counts_energy: bool  # whether `read` returns joules that add up, not the current watts
    period_s: float  # reading more often returns nothing new; 0: every reading is new
    within_s: float = math.inf  # a reading that comes later than this is unknown
    kind: SensorKind = SensorKind()  # what its total can be

    def read(self) -> dict[str, float | None]:
        """Watts of each rail, or its joules since any start; `None`: not readable now.

        Joules of two readings may be compared unless a `None` lies between them: the counter
        may have restarted there.

        Raises:
            SensorError: the sensor is gone. A later reading tries to reach it again.
        """

    def why_unknown(self, rail: str) -> str | None:
        """Why the last reading of a rail was `None`, with the file; `None`: not known."""
        return None

    def untrue_s(self) -> float:
        """For how long before the last reading the total could be read, and was not true."""
        return 0.0

    def close(self) -> None:
        """Close files and connections. Calling it twice is fine."""


class Opener(Protocol):
    """Opens one kind of sensor."""

    def __call__(self, board: Board, root: Path) -> PowerSensor:
        """Open it.

        Args:
            board: its profile says which rails are the total.
            root: where /sys and /proc are; sensors that read neither ignore it.

        Raises:
            SensorError: it is missing, cannot be read, or lacks rails of the total.
        """


def total_rails(
    board: Board, rails: Sequence[str], usual: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The rails that form the board's total.

    Args:
        board: its profile may name them.
        rails: of the sensor.
        usual: the total if the profile names none.

    Raises:
        SensorError: the profile names a rail that the sensor does not have, or has twice.
    """
    missing = [rail for rail in board.power.total or usual if rail not in rails]
    for rail in missing:
        if candidates := [name for name in rails if name.startswith(f"{rail}@")]:
            raise SensorError(
                f"board {board.id}: its total is unknown: rail {rail} occurs "
                f"{len(candidates)} times, as {', '.join(candidates)}. Name its chip under "
                "power.chips in a board file of your own."
            )
    if missing:
        raise SensorError(
            f"board {board.id}: its total needs rail {', '.join(missing)}, but the sensor has "
            f"{', '.join(rails) or 'none'}. Correct power.total in a board file of your own."
        )
    return board.power.total or usual


def rail_names(
    found: Sequence[tuple[str, str]], chips: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """A name for each rail, by which no two are confused.

    A label that occurs once is the name. If several chips have it, the rail of the chip that
    the board's profile names keeps the label, and all others are called `LABEL@CHIP`: which
    of them is meant by the label is not guessed.

    Args:
        found: label and chip of each rail.
        chips: of labels, by the board's profile.
    """
    counts = Counter(label for label, _ in found)
    names = [
        label if counts[label] == 1 or chips.get(label) == chip else f"{label}@{chip}"
        for label, chip in found
    ]
    # One chip may give a label to two of its channels.
    again = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{found[i][0]}@{found[i][1]}#{names[: i + 1].count(name)}" if name in again else name
        for i, name in enumerate(names)
    ]
