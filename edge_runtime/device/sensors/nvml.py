"""NVML: the power of discrete NVIDIA GPUs, through the optional package nvidia-ml-py.

A GPU that counts its energy is asked for that, older ones for their power. What a GPU takes is
not what its machine takes: the total is unknown unless the board's profile says otherwise, or
`sensors.together` adds the processor. On a Jetson, NVML has no power and is not used.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_runtime.device.board import Board
from edge_runtime.device.sensors.base import total_rails
from edge_runtime.errors import SensorError


def open_nvml(board: Board, root: Path) -> "Nvml":
    """Open every GPU of the machine; see `Opener`. `root` plays no part."""
    return Nvml(board)


class Nvml:
    """Watts or joules by GPU: `gpu0`, `gpu1`, ..."""

    name = "nvml"
    is_estimate = False
    period_s = 0.1  # GPUs renew their readings 10 to 50 times per second

    def __init__(self, board: Board) -> None:
        """Connect to the driver.

        Raises:
            SensorError: no nvidia-ml-py, no driver, no GPU, or none that tells its power.
        """
        try:
            import pynvml
        except ImportError as error:
            raise SensorError(
                "nvidia-ml-py is not installed: pip install nvidia-ml-py"
            ) from error
        self._nvml: Any = pynvml
        self._gpus: list[Any] = []
        self._counted_j: dict[str, float] = {}
        self.counts_energy = True
        self._connect()
        self.rails = tuple(f"gpu{index}" for index in range(len(self._gpus)))
        self.total = total_rails(board, self.rails)
        try:
            self.read()
        except SensorError:  # not every GPU counts its energy
            self.counts_energy = False
            self.read()

    @property
    def description(self) -> str:
        """See `PowerSensor.description`."""
        return f"NVML {'energy counter' if self.counts_energy else 'power'} of the GPUs"

    def read(self) -> dict[str, float | None]:
        """Joules or watts of each GPU; see `PowerSensor.read`."""
        if not self._gpus:
            self._connect()
        ask = (
            self._nvml.nvmlDeviceGetTotalEnergyConsumption  # millijoules
            if self.counts_energy
            else self._nvml.nvmlDeviceGetPowerUsage  # milliwatts
        )
        try:
            found = {
                rail: ask(gpu) / 1e3 for rail, gpu in zip(self.rails, self._gpus, strict=True)
            }
        except (self._nvml.NVMLError, ValueError) as error:  # or another number of GPUs
            self.close()
            raise SensorError(f"NVML: {error}") from error
        return self._since_reset(found) if self.counts_energy else dict(found)

    def _since_reset(self, found_j: dict[str, float]) -> dict[str, float | None]:
        """A count that went back was begun anew by a driver that was loaded anew."""
        before_j, self._counted_j = self._counted_j, found_j
        return {
            rail: None if value < before_j.get(rail, value) else value
            for rail, value in found_j.items()
        }

    def _connect(self) -> None:
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._gpus = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except self._nvml.NVMLError as error:
            raise SensorError(f"NVML: {error}") from error
        if not self._gpus:
            self._nvml.nvmlShutdown()
            raise SensorError("NVML: this machine has no NVIDIA GPU")

    def close(self) -> None:
        """See `PowerSensor.close`."""
        if self._gpus:
            self._gpus = []
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
