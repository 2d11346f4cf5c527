"""What every power sensor is: the protocol, and how the total's rails are found.

Units: watts, joules, monotonic seconds. A rail that cannot be read is `None`, never 0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edge_runtime.device.board import Board
from edge_runtime.errors import SensorError


class PowerSensor(Protocol):
    """Reads the power rails of a board. One reader at a time, from any thread."""

    @property
    def name(self) -> str:
        """Its kind, such as `ina3221`."""

    @property
    def description(self) -> str:
        """What it is, for people, with every correction that it applies."""

    @property
    def is_estimate(self) -> bool:
        """Whether it computes what it says from something that is no power."""

    @property
    def rails(self) -> tuple[str, ...]:
        """The rails that `read` gives."""

    @property
    def total(self) -> tuple[str, ...]:
        """The rails whose sum is the board's input; empty where that is unknown."""

    @property
    def counts_energy(self) -> bool:
        """Whether `read` gives joules that add up, and not the watts of the moment."""

    @property
    def period_s(self) -> float:
        """There is nothing new to read more often than this; 0 where every reading is."""

    def read(self) -> dict[str, float | None]:
        """Watts of each rail, or its joules since any start; `None` is not readable now.

        Joules of two readings may be compared unless a `None` lies between them: then the
        count may have begun anew.

        Raises:
            SensorError: the sensor is gone. A later reading tries to reach it again.
        """

    def close(self) -> None:
        """Let go of files and connections. Calling it twice is fine."""


class Opener(Protocol):
    """Opens one kind of sensor."""

    def __call__(self, board: Board, root: Path) -> PowerSensor:
        """Open it.

        Raises:
            SensorError: it is not there, cannot be read, or lacks the total's rails.
        """


def total_rails(
    board: Board, rails: Sequence[str], usual: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The rails that form the board's total.

    Args:
        board: its profile names them, or nothing.
        rails: those that the sensor has.
        usual: what to take where the profile names none.

    Raises:
        SensorError: the profile names a rail that the sensor does not have.
    """
    missing = [rail for rail in board.power.total if rail not in rails]
    if missing:
        raise SensorError(
            f"board {board.id}: its total needs rail {', '.join(missing)}, but the sensor has "
            f"{', '.join(rails) or 'none'}. Correct power.total in a board file of your own."
        )
    return board.power.total or usual
