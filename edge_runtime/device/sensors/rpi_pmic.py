"""The power management chip of a Raspberry Pi 5, asked through its firmware.

`vcgencmd pmic_read_adc` gives the current and the voltage of a dozen rails behind the chip's
regulators. Their sum is taken for the board's total: what the regulators lose, and what the
USB ports and the fan take from the 5 V input, is not in it. The program is started anew for
each reading, at a few milliseconds of processor time, so there is one every half second.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.sensors.base import total_rails
from edge_runtime.errors import SensorError

_LINE = re.compile(r"\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*")
_LONGEST_S = 2.0


def open_rpi_pmic(board: Board, root: Path) -> "RpiPmic":
    """Open the chip; see `Opener`. `root` plays no part."""
    return RpiPmic(board)


class RpiPmic:
    """Watts by rail: those that have both a current and a voltage."""

    name = "rpi-pmic"
    description = "power management chip of the Raspberry Pi 5 (sum of its outputs)"
    is_estimate = False
    counts_energy = False
    period_s = 0.5

    def __init__(
        self, board: Board, *, command: Sequence[str] = ("vcgencmd", "pmic_read_adc")
    ) -> None:
        """Ask once.

        Raises:
            SensorError: no such program, or it does not answer with rails.
        """
        self._command = command
        self.rails: tuple[str, ...] = ()
        self.rails = tuple(self.read())
        self.total = total_rails(board, self.rails, usual=self.rails)

    def read(self) -> dict[str, float | None]:
        """Watts of each rail; see `PowerSensor.read`."""
        found: dict[str, float | None] = dict(self._ask())
        return {rail: found.get(rail) for rail in self.rails} if self.rails else found

    def _ask(self) -> dict[str, float]:
        name = " ".join(self._command)
        try:
            done = subprocess.run(
                self._command, capture_output=True, text=True, timeout=_LONGEST_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SensorError(f"{name}: {error}") from error
        watts = parse_adc(done.stdout)
        if not watts:
            said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise SensorError(f"{name} shows no rails: {said}")
        return watts

    def close(self) -> None:
        """See `PowerSensor.close`."""


def parse_adc(said: str) -> dict[str, float]:
    """Watts by rail of lines such as `VDD_CORE_A current(7)=1.25A`."""
    values = {
        (found[1], found[2]): float(found[3])
        for line in said.splitlines()
        if (found := _LINE.fullmatch(line))
    }
    return {
        rail: current_a * values[rail, "V"]
        for (rail, unit), current_a in values.items()
        if unit == "A" and (rail, "V") in values
    }
