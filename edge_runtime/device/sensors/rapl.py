"""RAPL: energy counters of x86 processors, in the kernel's powercap folder.

The total is every processor package and its memory: neither the rest of the board nor its
power supply. Since 2020 kernels let only root read them. Clock: monotonic seconds.

The counters wrap. A counter that wrapped once looks like one that wrapped twice: the
difference is right only if less than a full range can have passed at the highest possible
power. After a longer silence the energy is unknown, not guessed. The same power tells a
counter that was reset from one that wrapped.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.files import NumberFile, not_mounted, sysfs, text
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.device.sensors.base import PowerSensor, rail_names, total_rails
from edge_runtime.errors import SensorError

_MAX_W = 1000.0  # of a processor package: a 65 kJ counter must be read once a minute
_SLACK_S = 0.1  # the hardware updates its counters at its own times


class WrappingCounter:
    """Joules of a counter since its first reading."""

    def __init__(
        self,
        *,
        range_j: float,
        max_w: float,
        clock: Callable[[], float],
        frozen_s: float | None = None,
    ) -> None:
        """Start.

        Args:
            range_j: the counter wraps from this value to 0.
            max_w: the highest possible power: energy is known if two readings are at most
                `range_j / max_w` seconds apart.
            clock: monotonic seconds.
            frozen_s: what counts always changes in less time; `None`: it may stand still.
        """
        self._frozen_s, self._changed_s = frozen_s, clock()
        self._range_j, self._max_w, self._clock = range_j, max_w, clock
        self._last: tuple[float, float] | None = None  # time and counter
        self._sum_j = 0.0
        self.problem: str | None = None  # of the last reading

    def joules(self, counter_j: float) -> float | None:
        """Add a reading; `None` if it cannot be compared with the previous one."""
        now_s, last = self._clock(), self._last
        self._last, self.problem = (now_s, counter_j), None
        if last is None or counter_j != last[1]:
            self._changed_s = now_s
        if last is None:
            return self._sum_j
        same_s = now_s - self._changed_s
        if self._frozen_s is not None and same_s > self._frozen_s:
            self.problem = f"has counted nothing for {same_s:.0f} s"
            return None
        passed_s, used_j = now_s - last[0], (counter_j - last[1]) % self._range_j
        max_j = passed_s * self._max_w
        if max_j >= self._range_j or used_j > max_j + _SLACK_S * self._max_w:
            self.problem = f"the counter may have wrapped or restarted in {passed_s:.1f} s"
            return None
        self._sum_j += used_j
        return self._sum_j


def open_rapl(board: Board, root: Path) -> "Rapl":
    """Open the counters of every processor package."""
    return Rapl(board, sysfs(root))


class Rapl(PowerSensor):
    """Joules by domain: `package-0`, `package-0/core`, `package-0/dram`, `psys`, ..."""

    name = "rapl"
    description = "RAPL counters of the processor packages and their memory"
    is_estimate = False
    counts_energy = True
    period_s = 0.0
    kind = SensorKind(frozen_s=3.0)  # updated every millisecond

    def __init__(
        self, board: Board, sys: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Find the domains.

        Raises:
            SensorError: there are none, or they cannot be read.
        """
        found = list(_with_range(_domains(sys / "class/powercap")))
        names = rail_names(
            [(name, folder.name) for name, folder, _ in found], board.power.chips
        )
        self._domains = {
            name: (
                NumberFile(folder / "energy_uj"),
                WrappingCounter(
                    range_j=range_j,
                    max_w=_MAX_W,
                    clock=clock,
                    # Beside others that count, one of two packages would not be missed.
                    frozen_s=self.kind.frozen_s if _is_package(domain) else None,
                ),
            )
            for name, (domain, folder, range_j) in zip(names, found, strict=True)
        }
        self.rails = tuple(self._domains)
        if not self.rails:
            raise SensorError("no RAPL energy counter was found")
        # Read less often, nothing would be known: see `WrappingCounter`.
        self.within_s = min(range_j for _, _, range_j in found) / _MAX_W
        # "psys" would be the whole machine, but not every firmware reports it correctly.
        usual = tuple(dict.fromkeys(name for name, *_ in found if _is_in_no_other(name)))
        self.total = total_rails(board, self.rails, usual=usual)
        self.read()

    @override
    def read(self) -> dict[str, float | None]:
        joules: dict[str, float | None] = {}
        for name, (file, counter) in self._domains.items():
            energy_uj = file.read()
            joules[name] = None if energy_uj is None else counter.joules(energy_uj / 1e6)
        problems = [file.problem for file, _ in self._domains.values()]
        if all(problems):
            raise SensorError(
                f"RAPL: {problems[0]}. Run as root, or let your group read energy_uj."
            )
        return joules

    @override
    def why_unknown(self, rail: str) -> str | None:
        file, counter = self._domains[rail]
        return file.problem or counter.problem

    @override
    def close(self) -> None:
        for file, _ in self._domains.values():
            file.close()


def _domains(powercap: Path) -> Iterator[tuple[str, Path]]:
    # The pattern excludes "intel-rapl-mmio", which has the same packages again.
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = text(folder / "name")
        if not name:
            if missing := not_mounted([folder]):
                raise SensorError(f"RAPL: {missing}")
            continue
        outer = folder.name.rpartition(":")[0]  # "intel-rapl:0" of "intel-rapl:0:1"
        if ":" in outer:
            name = f"{text(powercap / outer / 'name')}/{name}"
        yield name, folder


def _with_range(domains: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path, float]]:
    """Domains with the joules at which they wrap.

    Raises:
        SensorError: that of a part of the total is unknown.
    """
    for name, folder in domains:
        file = NumberFile(folder / "max_energy_range_uj")
        range_uj = file.read()
        file.close()
        if range_uj is not None and range_uj > 0:
            yield name, folder, range_uj / 1e6
        elif _is_in_no_other(name):
            why = file.problem or f"{file.path} holds {range_uj}"
            raise SensorError(f"RAPL: the range of counter {name} is unknown: {why}")


def _is_in_no_other(rail: str) -> bool:
    """Whether no other domain contains it; a package contains its cores."""
    return rail.endswith("/dram") or _is_package(rail)


def _is_package(rail: str) -> bool:
    return rail.startswith("package") and "/" not in rail
