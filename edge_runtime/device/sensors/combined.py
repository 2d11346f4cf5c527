"""Two sensors read as one: the processors' and the GPUs', whose sum is the machine's power."""

from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.sensors.base import PowerSensor, total_rails
from edge_runtime.device.sensors.nvml import Nvml
from edge_runtime.device.sensors.rapl import open_rapl
from edge_runtime.errors import SensorError


def open_rapl_and_nvml(board: Board, root: Path) -> "CombinedSensor":
    """Open the counters of processors and discrete GPUs."""
    rapl = open_rapl(_without_total(board), root)
    try:
        nvml = Nvml(_without_total(board))
        if not nvml.counts_energy:
            nvml.close()
            raise SensorError("NVML: this GPU reports power only, and RAPL counts energy")
        return CombinedSensor(rapl, nvml, board=board, total=(*rapl.total, *nvml.rails))
    except SensorError:
        rapl.close()
        raise


def _without_total(board: Board) -> Board:
    """The board without its total, which may name rails of both sensors."""
    return replace(board, power=replace(board.power, total=()))


class CombinedSensor(PowerSensor):
    """The rails of two sensors that both count energy; it owns them."""

    is_estimate = False
    counts_energy = True

    def __init__(
        self, first: PowerSensor, second: PowerSensor, *, board: Board, total: tuple[str, ...]
    ) -> None:
        """Combine them.

        Raises:
            SensorError: the board's profile names a rail that neither has.
        """
        self._first, self._second = first, second
        self.name = f"{first.name}+{second.name}"
        self.description = f"{first.description}; {second.description}"
        self.rails = (*first.rails, *second.rails)
        self.total = total_rails(board, self.rails, usual=total)
        self.kind = first.kind
        self.within_s = min(first.within_s, second.within_s)
        self.period_s = max(first.period_s, second.period_s)

    @override
    def read(self) -> dict[str, float | None]:
        return self._first.read() | self._second.read()

    @override
    def why_unknown(self, rail: str) -> str | None:
        owner = self._first if rail in self._first.rails else self._second
        return owner.why_unknown(rail)

    @override
    def close(self) -> None:
        self._first.close()
        self._second.close()
