"""NVML: the power of discrete NVIDIA GPUs, through the optional package nvidia-ml-py.

GPUs that count their energy are read by that counter, older ones by their power. A GPU's power
is not that of its machine: the total is unknown unless the board's profile names it, or
`sensors.combined` adds the processors. On a Jetson, NVML reports no power and is not used.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.device.sensors.base import PowerSensor, total_rails
from edge_runtime.errors import SensorError


def open_nvml(board: Board, root: Path) -> "Nvml":
    """Open every GPU of the machine."""
    return Nvml(board)


class Nvml(PowerSensor):
    """Watts or joules by GPU: `gpu0`, `gpu1`, ..."""

    name = "nvml"
    is_estimate = False
    kind = SensorKind(frozen_s=10.0)
    period_s = 0.1  # GPUs update their readings 10 to 50 times per second

    def __init__(self, board: Board) -> None:
        """Connect to the driver.

        Raises:
            SensorError: no nvidia-ml-py, no driver, no GPU, or none that reports its power.
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
            self.kind = SensorKind(frozen_s=60.0)  # whole watts, on some
            self.read()
        kind = "energy counter" if self.counts_energy else "power"
        self.description = f"NVML {kind} of the GPUs"

    @override
    def read(self) -> dict[str, float | None]:
        if not self._gpus:
            self._connect()
        query = (
            self._nvml.nvmlDeviceGetTotalEnergyConsumption  # millijoules
            if self.counts_energy
            else self._nvml.nvmlDeviceGetPowerUsage  # milliwatts
        )
        try:
            values = {
                rail: query(gpu) / 1e3
                for rail, gpu in zip(self.rails, self._gpus, strict=True)
            }
        except (self._nvml.NVMLError, ValueError) as error:  # or another number of GPUs
            self.close()
            raise SensorError(f"NVML: {error}") from error
        return self._without_resets(values) if self.counts_energy else dict(values)

    def _without_resets(self, counted_j: dict[str, float]) -> dict[str, float | None]:
        """`None` for a counter that went back, because the driver was loaded again."""
        before_j, self._counted_j = self._counted_j, counted_j
        return {
            rail: None if value < before_j.get(rail, value) else value
            for rail, value in counted_j.items()
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

    @override
    def close(self) -> None:
        if self._gpus:
            self._gpus = []
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
