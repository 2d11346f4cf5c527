"""Two sensors read as one: the processor's and the GPU's, which together are the machine's."""

from dataclasses import replace
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.sensors.base import PowerSensor, total_rails
from edge_runtime.device.sensors.nvml import Nvml
from edge_runtime.device.sensors.rapl import open_rapl
from edge_runtime.errors import SensorError


def open_rapl_and_nvml(board: Board, root: Path) -> "Together":
    """Open the counters of processors and discrete GPUs; see `Opener`."""
    rapl = open_rapl(_without_total(board), root)
    try:
        nvml = Nvml(_without_total(board))
        if not nvml.counts_energy:
            nvml.close()
            raise SensorError("NVML: this GPU tells its power only, and RAPL counts energy")
        return Together(rapl, nvml, board=board, total=(*rapl.total, *nvml.rails))
    except SensorError:
        rapl.close()
        raise


def _without_total(board: Board) -> Board:
    """Its total may name rails of both sensors: neither has them all."""
    return replace(board, power=replace(board.power, total=()))


class Together:
    """The rails of two sensors that both count energy; it owns them."""

    is_estimate = False
    counts_energy = True

    def __init__(
        self, one: PowerSensor, other: PowerSensor, *, board: Board, total: tuple[str, ...]
    ) -> None:
        """Join them.

        Raises:
            SensorError: the board's profile names a rail that neither has.
        """
        self._one, self._other = one, other
        self.name = f"{one.name}+{other.name}"
        self.description = f"{one.description}; {other.description}"
        self.rails = (*one.rails, *other.rails)
        self.total = total_rails(board, self.rails, usual=total)
        self.period_s = max(one.period_s, other.period_s)

    def read(self) -> dict[str, float | None]:
        """See `PowerSensor.read`."""
        return self._one.read() | self._other.read()

    def close(self) -> None:
        """See `PowerSensor.close`."""
        self._one.close()
        self._other.close()
