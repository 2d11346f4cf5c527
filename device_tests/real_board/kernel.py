"""What the kernel's files of a board say, read without code of edge-train, to judge it by.

Units: watts, degrees Celsius, bytes. `None` is unknown. The files are below EDGE_TRAIN_SYSFS,
if it is set, or /sys, and in /proc.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_runtime.device import Board

_ADC = re.compile(r"(\w+)_([AV])\s+\w+\(\d+\)=([\d.]+)")
_BELIEVED_C = (1.0, 125.0)
_LONGEST_S = 5.0


def sysfs() -> Path:
    """The folder of the kernel's files."""
    return Path(os.environ.get("EDGE_TRAIN_SYSFS") or "/sys")


def has_power_sensor(board: Board) -> bool:
    """Whether every board of this kind is known to have one."""
    return bool(board.power.total) or board.id == "raspberry-pi-5"


def input_power_w(board: Board) -> float | None:
    """The board's input power now: the sum of the rails that its profile names.

    Of a Raspberry Pi 5, the sum of all outputs of its power management chip.
    """
    if not board.power.total:
        rails_w = _pmic_rails_w() if board.id == "raspberry-pi-5" else {}
        return sum(rails_w.values()) if rails_w else None
    rails_w = _monitored_rails_w(board.power.chips)
    if any(rail not in rails_w for rail in board.power.total):
        return None
    return sum(rails_w[rail] for rail in board.power.total)


def _monitored_rails_w(chips: Mapping[str, str]) -> dict[str, float]:
    """Rails of power monitors. If two have one name, that of the chip in `chips` is meant."""
    return {
        label: power_w
        for label, address, power_w in _channels()
        if power_w is not None and chips.get(label, address) == address
    }


def _channels() -> Iterator[tuple[str, str, float | None]]:
    """Label, address of the chip, and power of each channel."""
    for folder in sorted(sysfs().glob("class/hwmon/hwmon*")):
        address = folder.resolve().parents[1].name
        if read_text(folder / "name") == "ina238":
            power_uw = read_int(folder / "power1_input")
            power_w = None if power_uw is None else power_uw / 1e6
            yield read_text(folder / "label") or "VIN", address, power_w
        for file in sorted(folder.glob("in[123]_label")):
            voltage_mv = read_int(folder / f"in{file.name[2]}_input")
            current_ma = read_int(folder / f"curr{file.name[2]}_input")
            if voltage_mv is not None and current_ma is not None:
                yield read_text(file) or "", address, voltage_mv * current_ma / 1e6
    for file in sorted(sysfs().glob("bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")):
        power_mw = read_int(file.with_name(f"in_power{file.name[-1]}_input"))
        power_w = None if power_mw is None else power_mw / 1e3
        yield read_text(file) or "", file.parents[1].name, power_w


def _pmic_rails_w() -> dict[str, float]:
    try:
        done = subprocess.run(
            ["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, timeout=_LONGEST_S
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    read: dict[str, dict[str, float]] = {}
    for rail, unit, number in _ADC.findall(done.stdout):
        read.setdefault(rail, {})[unit] = float(number)
    return {rail: each["A"] * each["V"] for rail, each in read.items() if len(each) == 2}


def temperatures_c() -> dict[str, float]:
    """Temperatures of the zones that show a believable one."""
    zones = {}
    for folder in sorted(sysfs().glob("class/thermal/thermal_zone*")):
        thousandths = read_int(folder / "temp")
        if (
            thousandths is not None
            and _BELIEVED_C[0] < thousandths / 1000 < _BELIEVED_C[1]
            and not (read_text(folder / "type") or "").lower().startswith("pmic")
        ):
            zones[f"{read_text(folder / 'type')} ({folder.name})"] = thousandths / 1000
    return zones


def clock_settings() -> dict[str, str]:
    """What a power mode changes: which cores are on, their governors, and limits of clocks."""
    cpus = "devices/system/cpu/cpu[0-9]*"
    limits = ("cpufreq/scaling_max_freq", "cpufreq/scaling_governor", "online")
    files = [file for limit in limits for file in sorted(sysfs().glob(f"{cpus}/{limit}"))]
    files += sorted(sysfs().glob("class/devfreq/*/max_freq"))  # of the GPU, among others
    return {f"{_owner(file)}/{file.name}": read_text(file) or "" for file in files}


def _owner(file: Path) -> str:
    """The processor or device whose file it is."""
    return (file.parents[1] if file.parent.name == "cpufreq" else file.parent).name


def nvpmodel_answer() -> str | None:
    """What `nvpmodel -q` says; `None`: no Jetson."""
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"],
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def process_tree(pid: int) -> list[int]:
    """A process and its descendants; empty when it has ended."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        status = read_text(folder / "stat")
        if status:  # its second word, the program in brackets, may have any characters
            parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    tree = [pid] if pid in parents else []
    for member in tree:  # grows meanwhile
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def resident_bytes(pids: list[int]) -> int:
    """The sum of what these processes hold now; shared pages count in each."""
    return sum(_status_bytes(pid, "VmRSS") for pid in pids)


def peak_bytes(pid: int) -> int:
    """The most that one process ever held."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, key: str) -> int:
    match = re.search(rf"{key}:\s+(\d+) kB", read_text(Path(f"/proc/{pid}/status")) or "")
    return int(match[1]) * 1024 if match else 0


def open_files(pid: int) -> int | None:
    """The number of files that a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # it has ended
        return None


def read_text(path: Path) -> str | None:
    """The text of a file of the kernel; `None`: it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The number in a file of the kernel; `None`: it has none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None
