"""One NVIDIA GPU by NVML: what it is, the memory in use on it, the energy that it counts.

Everything is None where NVML, its Python package or the reading is missing.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Gpu:
    """The GPU with a number, which nothing else should be using."""

    def __init__(self, index: int = 0) -> None:
        """Connect, and note the memory that is in use already."""
        self._nvml: Any = None
        with suppress(ImportError):
            import pynvml

            with suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
                self._nvml = pynvml
        self._before_bytes = self._in_use()

    def facts(self) -> dict[str, Any]:
        """Name, driver and limits."""
        return {
            "name": self._read("nvmlDeviceGetName"),
            "driver": self._query(lambda: self._nvml.nvmlSystemGetDriverVersion()),
            "compute_capability": self._read("nvmlDeviceGetCudaComputeCapability"),
            "memory_bytes": self._query(
                lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(self._gpu).total)
            ),
            "power_limit_w": self._scaled("nvmlDeviceGetEnforcedPowerLimit"),
            "temperature_c": self._query(
                lambda: int(self._nvml.nvmlDeviceGetTemperature(self._gpu, 0))
            ),
        }

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded."""
        return self._scaled("nvmlDeviceGetTotalEnergyConsumption")

    def used_bytes(self) -> int | None:
        """Memory in use more than at first: what this process has allocated."""
        now = self._in_use()
        return None if now is None or self._before_bytes is None else now - self._before_bytes

    def _in_use(self) -> int | None:
        return self._query(lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(self._gpu).used))

    def _scaled(self, function: str) -> float | None:
        """A reading in thousandths."""
        value = self._read(function)
        return None if value is None else float(value) / 1000

    def _read(self, function: str) -> Any:
        return self._query(lambda: getattr(self._nvml, function)(self._gpu))

    def _query(self, query: Callable[[], Any]) -> Any:
        if self._nvml is None:
            return None
        with suppress(self._nvml.NVMLError):
            return query()
        return None
