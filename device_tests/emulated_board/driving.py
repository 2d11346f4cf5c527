"""The power model that drives an emulated board's rails, and its log of the true power.

Power of each rail = factor * (idle + k * utilisation), utilisation being the CPU time of a
process or of the machine since the last update, over the time and the number of CPUs, times
the share of their clock rate that cpufreq allows. The temperature follows the board's power
with a delay. Clock: `time.monotonic`, which all processes of a machine share. Units:
milliwatts, degrees Celsius, seconds.
"""

import csv
import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from device_tests.emulated_board.boards import Board
from device_tests.emulated_board.tree import (
    board_of,
    cpu_share,
    put,
    set_gpu_load,
    set_rails,
    set_temperature,
)

# The kernel has the start time of a process in hundredths of a second, rounded down: a log
# that covers one has to start earlier.
START_S = 0.02
_FACTOR = ".factor"  # in the tree's root; multiplies all power


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatModel:
    """Temperature = ambient + k_per_w * power of the board, approached exponentially."""

    ambient_c: float = 30.0
    k_per_w: float = 2.0
    time_constant_s: float = 30.0
    throttle_at_c: float = 99.0  # the board reports throttling, but is not slowed down

    def after(self, degrees_c: float, power_w: float, passed_s: float) -> float:
        """The temperature after some seconds of constant power."""
        final_c = self.ambient_c + self.k_per_w * power_w
        return final_c + (degrees_c - final_c) * math.exp(-passed_s / self.time_constant_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveOptions:
    """Options of driving a board; the defaults are those of the command line."""

    # Updates per second. The kernel counts CPU time in ticks, often of 4 ms, and reports
    # hundredths of a second: a constant load is constant over 40 ms and alternates over 50 ms.
    hz: float = 25.0
    pid: int | None = None  # follow this process instead of the machine
    with_children: bool = False  # and all its descendants, in steps of 10 ms
    idle_mw: float | None = None  # of the module; None: the board's own. The rails scale.
    k_mw: float | None = None
    lsb_ma: int = 1  # step of the currents; 8 with a 5 mOhm shunt
    heat: HeatModel = HeatModel()


def drive(
    root: Path,
    log: Path,
    options: DriveOptions | None = None,
    *,
    stop: threading.Event | None = None,
    seconds: float = math.inf,
) -> None:
    """Drive the rails until `stop` is set or the time is over.

    Each row of the log holds from its time `t` until the `t` of the next row: the true input
    power of the module, its temperature, and each rail as it can be read.
    """
    options, stop = options or DriveOptions(), stop or threading.Event()
    driven = _DrivenBoard(root, options)
    busy_s = cpu_clock(options.pid, with_children=options.with_children)
    cpus, period_s = os.cpu_count() or 1, 1 / options.hz
    with log.open("w", buffering=1) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["t", "util", "true_mw", "temperature_c", *driven.labels])
        values: list[str] = []
        start_s = due_s = time.monotonic()
        then_s, used_s = start_s - period_s, busy_s()
        while not stop.wait(max(0.0, due_s - time.monotonic())):
            now_s, total_s = time.monotonic(), busy_s()
            if now_s - start_s >= seconds:
                break
            utilisation = (total_s - used_s) / (now_s - then_s) / cpus
            values = driven.update(min(1.0, max(0.0, utilisation)), now_s - then_s)
            rows.writerow([f"{time.monotonic():.6f}", *values])
            then_s, used_s, due_s = now_s, total_s, max(due_s + period_s, now_s)
        if values:
            rows.writerow([f"{time.monotonic():.6f}", *values])  # ends the last step


class _DrivenBoard:
    """A tree whose files follow the models."""

    def __init__(self, root: Path, options: DriveOptions) -> None:
        self._root, self._board, self._options = root, board_of(root), options
        self.labels = [rail.label for rail in self._board.rails]
        self._power_mw = power_model(self._board, options.idle_mw, options.k_mw)
        idle_w = sum(self._power_mw(0.0)[label] for label in self._board.total) / 1000
        self._degrees_c = options.heat.after(0.0, idle_w, math.inf)

    def update(self, utilisation: float, passed_s: float) -> list[str]:
        """Write the files; returns the row of the log without its time."""
        factor, load = factor_of(self._root), utilisation * cpu_share(self._root)
        power_mw = {label: factor * mw for label, mw in self._power_mw(load).items()}
        true_mw = sum(power_mw[label] for label in self._board.total)
        shown_mw = set_rails(self._root, self._board, power_mw, self._options.lsb_ma)
        heat = self._options.heat
        self._degrees_c = heat.after(self._degrees_c, true_mw / 1000, passed_s)
        throttled = self._degrees_c >= heat.throttle_at_c
        set_temperature(self._root, self._board, self._degrees_c, throttled=throttled)
        set_gpu_load(self._root, self._board, utilisation)
        shown = [f"{shown_mw[label]:g}" for label in self.labels]
        return [f"{utilisation:.4f}", f"{true_mw:.3f}", f"{self._degrees_c:.3f}", *shown]


def power_model(
    board: Board, idle_mw: float | None = None, k_mw: float | None = None
) -> Callable[[float], dict[str, float]]:
    """Milliwatts of each rail by utilisation, 0 to 1; arguments as in `DriveOptions`."""
    own_idle_mw = sum(rail.idle_mw for rail in board.inputs)
    own_k_mw = sum(rail.k_mw for rail in board.inputs)
    idle = 1.0 if idle_mw is None else idle_mw / own_idle_mw
    k = 1.0 if k_mw is None else k_mw / own_k_mw
    return lambda utilisation: {
        rail.label: idle * rail.idle_mw + k * rail.k_mw * utilisation for rail in board.rails
    }


def set_factor(root: Path, factor: float) -> None:
    """Multiply all power of a board by a factor from its next update on; initially 1."""
    put(root / _FACTOR, factor)


def factor_of(root: Path) -> float:
    """The factor that `set_factor` set."""
    try:
        return float((root / _FACTOR).read_text())
    except FileNotFoundError:
        return 1.0


def cpu_clock(pid: int | None, *, with_children: bool = False) -> Callable[[], float]:
    """Seconds used by a process, all its threads, or by the machine."""

    def process_s() -> float:
        try:  # the clock of clock_getcpuclockid(3): nanoseconds
            return time.clock_gettime(~int(pid or 0) << 3 | 2)
        except OSError:
            return 0.0  # the process is gone

    def machine_s() -> float:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, irq, softirq = map(int, stat.readline().split()[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    if pid is None:
        return machine_s
    return partial(_tree_s, pid) if with_children else process_s


def _tree_s(pid: int) -> float:
    """Seconds used by a process and its descendants, those included that have ended."""
    parents, used_ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:  # the program's name, in brackets, may have any characters
            words = file.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        member = int(file.parent.name)
        parents[member], used_ticks[member] = int(words[1]), sum(map(int, words[11:15]))
    tree = [pid]
    for member in tree:  # grows meanwhile
        tree += [child for child, parent in parents.items() if parent == member]
    return sum(used_ticks.get(member, 0) for member in tree) / os.sysconf("SC_CLK_TCK")


def energy_j(log: Path, start_s: float, end_s: float, column: str = "true_mw") -> float:
    """Energy between two times of `time.monotonic`, exact for the steps in the log.

    Raises:
        ValueError: the log does not cover them.
    """
    return sum(mw * held_s for mw, held_s in held(log, start_s, end_s, column)) / 1000


def highest(log: Path, start_s: float, end_s: float, column: str = "temperature_c") -> float:
    """The largest value of a column between two times.

    Raises:
        ValueError: the log does not cover them.
    """
    return max(value for value, _ in held(log, start_s, end_s, column))


def covers(log: Path, until_s: float) -> bool:
    """Whether the log covers a time."""
    times = [line.partition(",")[0] for line in _complete_lines(log)[1:]]
    return bool(times) and float(times[-1]) >= until_s


def held(log: Path, start_s: float, end_s: float, column: str) -> list[tuple[float, float]]:
    """Each value between two times, with the seconds for which it held.

    Raises:
        ValueError: the log does not cover them.
    """
    table = csv.DictReader(_complete_lines(log))
    rows = [(float(row["t"]), float(row[column])) for row in table]
    if not rows or start_s < rows[0][0] or end_s > rows[-1][0]:
        covered = f"{rows[0][0]}..{rows[-1][0]}" if rows else "nothing"
        raise ValueError(f"{start_s}..{end_s} is not inside {log}, which has {covered}")
    return [
        (value, min(end_s, next_s) - max(start_s, begin_s))
        for (begin_s, value), (next_s, _) in itertools.pairwise(rows)
        if begin_s < end_s and next_s > start_s
    ]


def _complete_lines(log: Path) -> list[str]:
    """All lines but the last one, which may be incomplete."""
    try:
        return log.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
