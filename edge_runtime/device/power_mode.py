"""The power modes of a board: how fast its processors may run, and how much it may draw.

A Jetson has the modes of its program nvpmodel. Elsewhere a mode is a setting of the kernel's
cpufreq: the governor and the highest clock rate of the processor cores.
"""

from pathlib import Path
from typing import Protocol

from edge_runtime.device.cpufreq import Cpufreq
from edge_runtime.device.nvpmodel import Nvpmodel, nvpmodel_mode


class PowerModes(Protocol):
    """Reads and sets the modes of one board."""

    kind: str  # "nvpmodel" or "cpufreq"

    def names(self) -> tuple[str, ...]:
        """The modes to compare, the present one included."""

    def resolve(self, name: str) -> str:
        """The name under which a mode is recorded.

        Raises:
            ConfigError: there is no such mode.
        """

    def current(self) -> str | None:
        """The mode that is set; `None`: unknown."""

    def set(self, name: str) -> None:
        """Set a mode, and read it back.

        Raises:
            ModeError: it is not set, and why; a part of it may be.
        """

    def is_within(self, name: str) -> bool:
        """Whether this mode is set, but for lower clock limits, as heat makes them."""

    def state(self) -> dict[str, str]:
        """All that `set` changes, as it is now.

        Raises:
            ModeError: it cannot be read, and so could not be put back.
        """

    def put_back(self, state: dict[str, str]) -> str | None:
        """Set what `state` returned, and read it back.

        Returns:
            What heat still keeps from having an effect; `None`: nothing.

        Raises:
            ModeError: it is not set; the message has the commands that do it.
        """


def power_modes(root: Path = Path("/")) -> PowerModes | None:
    """The modes of this board; `None`: it has none that can be listed.

    Args:
        root: where /sys and /etc are.
    """
    jetson = Nvpmodel(root)
    if jetson.names():
        return jetson
    kernel = Cpufreq(root)
    return kernel if kernel.names() else None


def power_mode(root: Path = Path("/")) -> str | None:
    """The mode that is set, such as `15W`, `MAXN` or `schedutil-1500MHz`; `None`: unknown.

    Args:
        root: where /sys, /etc and /var are.
    """
    return nvpmodel_mode(root) or Cpufreq(root).current()
