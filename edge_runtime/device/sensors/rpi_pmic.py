"""The power management chip of a Raspberry Pi 5, read through its firmware.

`vcgencmd pmic_read_adc` prints the current and the voltage of a dozen rails after the chip's
regulators. Their sum is taken as the board's total: it lacks the losses of the regulators and
what the USB ports and the fan draw from the 5 V input. Each reading starts the program, which
takes a few milliseconds of processor time, so there is one every half second.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.device.sensors.base import PowerSensor, total_rails
from edge_runtime.errors import SensorError

_LINE = re.compile(r"\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*")
_LONGEST_S = 2.0


def open_rpi_pmic(board: Board, root: Path) -> "RpiPmic":
    """Open the chip."""
    return RpiPmic(board)


class RpiPmic(PowerSensor):
    """Watts by rail: those that have both a current and a voltage."""

    name = "rpi-pmic"
    description = "power management chip of the Raspberry Pi 5 (sum of its outputs)"
    is_estimate = False
    counts_energy = False
    period_s = 0.5
    kind = SensorKind(frozen_s=30.0)

    def __init__(
        self, board: Board, *, command: Sequence[str] = ("vcgencmd", "pmic_read_adc")
    ) -> None:
        """Read it once.

        Raises:
            SensorError: there is no such program, or it prints no rails.
        """
        self._command = command
        self.rails: tuple[str, ...] = ()
        self.rails = tuple(self.read())
        self.total = total_rails(board, self.rails, usual=self.rails)

    @override
    def read(self) -> dict[str, float | None]:
        watts: dict[str, float | None] = dict(self._run())
        return {rail: watts.get(rail) for rail in self.rails} if self.rails else watts

    def _run(self) -> dict[str, float]:
        name = " ".join(self._command)
        try:
            done = subprocess.run(
                self._command, capture_output=True, text=True, timeout=_LONGEST_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SensorError(f"{name}: {error}") from error
        watts = parse_adc(done.stdout)
        if not watts:
            output = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise SensorError(f"{name} printed no rails: {output}")
        return watts

    @override
    def close(self) -> None:
        pass


def parse_adc(output: str) -> dict[str, float]:
    """Watts by rail of lines such as `VDD_CORE_A current(7)=1.25A`."""
    values = {
        (match[1], match[2]): float(match[3])
        for line in output.splitlines()
        if (match := _LINE.fullmatch(line))
    }
    return {
        rail: current_a * values[rail, "V"]
        for (rail, unit), current_a in values.items()
        if unit == "A" and (rail, "V") in values
    }
