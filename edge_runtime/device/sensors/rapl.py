"""RAPL: energy counters of x86 processors, in the kernel's powercap folder.

The total is every processor package and its memory: neither the rest of the board nor its
power supply. The counters wrap; `counter.py` says for how long they can be followed. Since
2020 kernels let only root read them.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, read_number, sysfs, text
from edge_runtime.device.sensors.base import total_rails
from edge_runtime.device.sensors.counter import WrappingCounter
from edge_runtime.errors import SensorError

_MOST_W = 1000.0  # no processor package takes more: a 65 kJ counter may rest for a minute


def open_rapl(board: Board, root: Path) -> "Rapl":
    """Open the counters of every processor package; see `Opener`."""
    return Rapl(board, sysfs(root))


class Rapl:
    """Joules by domain: `package-0`, `package-0/core`, `package-0/dram`, `psys`, ..."""

    name = "rapl"
    description = "RAPL counters of the processor packages and their memory"
    is_estimate = False
    counts_energy = True
    period_s = 0.0

    def __init__(
        self, board: Board, sys: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Find the domains.

        Raises:
            SensorError: there are none, or they cannot be read.
        """
        self._domains = {
            name: (
                NumberFile(folder / "energy_uj"),
                WrappingCounter(range_j=range_uj / 1e6, most_w=_MOST_W, clock=clock),
            )
            for name, folder in _domains(sys / "class/powercap")
            if (range_uj := read_number(folder / "max_energy_range_uj"))
        }
        self.rails = tuple(self._domains)
        if not self.rails:
            raise SensorError("no RAPL energy counter was found")
        # "psys" would be the whole machine, where its firmware tells it right.
        self.total = total_rails(board, self.rails, usual=tuple(filter(_is_apart, self.rails)))
        self.read()

    def read(self) -> dict[str, float | None]:
        """Joules of each domain; see `PowerSensor.read`."""
        found = {}
        for name, (file, counter) in self._domains.items():
            energy_uj = file.read()
            found[name] = None if energy_uj is None else counter.joules(energy_uj / 1e6)
        problems = [file.problem for file, _ in self._domains.values()]
        if all(problems):
            raise SensorError(
                f"RAPL: {problems[0]}. Run as root, or let your group read energy_uj."
            )
        return found

    def close(self) -> None:
        """See `PowerSensor.close`."""
        for file, _ in self._domains.values():
            file.close()


def _domains(powercap: Path) -> Iterator[tuple[str, Path]]:
    # "intel-rapl-mmio" shows the same packages again, and is left out by the pattern.
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = text(folder / "name")
        if not name:
            continue
        outer = folder.name.rpartition(":")[0]  # "intel-rapl:0" of "intel-rapl:0:1"
        if ":" in outer:
            name = f"{text(powercap / outer / 'name')}/{name}"
        yield name, folder


def _is_apart(rail: str) -> bool:
    """Whether no other domain of the sum contains it; a package contains its cores."""
    return rail.endswith("/dram") or (rail.startswith("package") and "/" not in rail)
