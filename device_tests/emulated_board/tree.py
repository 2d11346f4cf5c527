"""The sysfs tree of an emulated board, whose values are changed while others read them.

The paths are those that a real board has under /sys, and those that jetson-stats reads under
/fake_sys in its test mode (most are the same). Units: millivolts, milliamperes, milliwatts,
thousandths of a degree, as in the kernel's files. Needs no root.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from device_tests.emulated_board.boards import BOARDS, Board, Jetson, Rail

_I2C = "devices/platform/bus@0/c240000.i2c"
_DEVICE_TREE = "firmware/devicetree/base"
_NAME = ".board"  # the name of the board
PMIC = ".pmic"  # a file for each rail, as `vcgencmd pmic_read_adc` prints it
_NO_LIMIT_MA = 32760
_INA238 = "devices/platform/bus@0/c250000.i2c/2-0044/hwmon/hwmon9"
_FIRST_MONITOR = 3  # hwmon0 to hwmon2 are a fan's and its tachometer's, or free
_ALERT = "devices/virtual/thermal/cooling_device0"


class Tree(NamedTuple):
    """Relative to its root."""

    files: dict[str, object]  # path -> value
    links: dict[str, str]  # path -> target


def write_board(root: Path, name: str, *, monitors: bool = True) -> Board:
    """Write the tree of a board under `root`, a new or empty folder, with its rails at idle.

    Without its power monitors it is like a container with restricted access.
    """
    board = BOARDS[name]
    files, links = _whole(board, monitors=monitors)
    for folder in {"class/power_supply", "fs", PMIC, *map(os.path.dirname, (*files, *links))}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path, value in files.items():
        put(root / path, value)
    for path, target in links.items():  # relative: the tree also works where it is mounted
        (root / path).unlink(missing_ok=True)
        relative = os.path.relpath(target, Path(path).parent)
        (root / path).symlink_to(target if target[0] == "/" else relative)
    for key, strings in (("model", (board.model,)), ("compatible", board.compatible)):
        raw = "".join(f"{string}\0" for string in strings)  # as a device tree has them
        (root / _DEVICE_TREE / key).write_text(raw)
    if monitors:
        set_rails(root, board, {rail.label: rail.idle_mw for rail in board.rails})
    return board


def board_of(root: Path) -> Board:
    """The board whose tree is at `root`."""
    return BOARDS[(root / _NAME).read_text().strip()]


def set_rails(
    root: Path, board: Board, mw: Mapping[str, float], lsb_ma: int = 1
) -> dict[str, float]:
    """Set rails by label, with currents that are multiples of `lsb_ma`.

    Returns:
        The power of each of them that can now be read, in milliwatts.
    """
    shown: dict[str, float] = {}
    for rail, paths in _channels(board):
        if rail.mv and rail.label in mw:
            ma = lsb_ma * round(mw[rail.label] * 1000 / rail.mv / lsb_ma)
            shown[rail.label] = rail.mv * ma / 1000
            put(root / paths["ma"], ma)
            if "mw" in paths:
                put(root / paths["mw"], round(shown[rail.label]))
    for rail in [board.ina238] if board.ina238 and board.ina238.label in mw else []:
        shown[rail.label] = mw[rail.label]
        put(root / f"{_INA238}/power1_input", round(mw[rail.label] * 1000))
    for rail in board.pmic:
        if rail.label in mw:
            shown[rail.label] = mw[rail.label]
            put(root / PMIC / rail.label, "\n".join(_adc_lines(rail, mw[rail.label])))
    return shown


def _adc_lines(rail: Rail, power_mw: float) -> tuple[str, str]:
    return (
        f"     {rail.label}_A current(7)={power_mw / rail.mv:.8f}A",
        f"     {rail.label}_V volt(15)={rail.mv / 1000:.8f}V",
    )


def cpu_share(root: Path) -> float:
    """The highest clock rate that is set, over that of the hardware, mean of all CPUs."""
    shares = [
        int((policy / "scaling_max_freq").read_text())
        / int((policy / "cpuinfo_max_freq").read_text())
        for policy in _policies(root)
    ]
    return sum(shares) / len(shares)


def _policies(root: Path) -> list[Path]:
    return sorted(root.glob("devices/system/cpu/cpu[0-9]*/cpufreq"))


def set_temperature(root: Path, board: Board, degrees_c: float, *, throttled: bool) -> None:
    """Set the throttle alert and the thermal zones; the last one is the hottest."""
    for below, number in enumerate(reversed(range(len(board.zones)))):
        put(root / f"{_zone(number)}/temp", round(1000 * degrees_c) - 500 * below)
    put(root / f"{_ALERT}/cur_state", int(throttled))


def set_gpu_load(root: Path, board: Board, load: float) -> None:
    """Set how busy the GPU is, 0 to 1."""
    if board.jetson is not None:
        put(root / f"devices/platform/{board.jetson.gpu}/load", round(1000 * load))


def put(path: Path, value: object) -> None:
    """Write one file so that a reader sees the old or the new value, never an empty file.

    One writer at a time.
    """
    new = path.with_name(f".{path.name}.new")
    new.write_text(f"{value}\n")
    os.replace(new, path)


def _whole(board: Board, *, monitors: bool) -> Tree:
    files: dict[str, object] = {
        _NAME: board.name,
        f"{_DEVICE_TREE}/model": "",
        "devices/virtual/dmi/id/product_name": board.model,  # jtop lists this folder on x86
    }
    links = {"stat": "/proc/stat"}
    parts = [_processors(board), _thermal(board)]
    if board.jetson is not None:
        parts += [_gpu(board.jetson), _memory(board.jetson), _fan()]
    for part in [*parts, _monitors(board)] if monitors else parts:
        files |= part.files
        links |= part.links
    return Tree(files, links)


def _processors(board: Board) -> Tree:
    """The CPUs of this machine, so that its /proc/stat fits; of each kind by turns."""
    files: dict[str, object] = {}
    for cpu in range(os.cpu_count() or 1):
        steps_khz = board.clocks_khz[cpu % len(board.clocks_khz)]
        folder = f"devices/system/cpu/cpu{cpu}/cpufreq"
        files[f"{folder}/scaling_governor"] = "schedutil"
        files[f"{folder}/scaling_available_governors"] = "performance powersave schedutil"
        files[f"{folder}/scaling_available_frequencies"] = " ".join(map(str, steps_khz))
        for kind in ("scaling", "cpuinfo"):
            low_khz, high_khz = steps_khz[0], steps_khz[-1]
            for bound, khz in (("min", low_khz), ("max", high_khz), ("cur", high_khz)):
                files[f"{folder}/{kind}_{bound}_freq"] = khz
    return Tree(files, {})


def _gpu(board: Jetson) -> Tree:
    gpu = f"devices/platform/{board.gpu}"
    devfreq = f"{gpu}/devfreq/{board.gpu}"
    low_hz, high_hz = board.gpu_hz
    files: dict[str, object] = {
        f"{gpu}/of_node/name": "gpu",
        f"{gpu}/load": 0,
        f"{gpu}/railgate_enable": 0,
        f"{devfreq}/governor": "nvhost_podgov",
        f"{devfreq}/min_freq": low_hz,
        f"{devfreq}/max_freq": high_hz,
        f"{devfreq}/cur_freq": low_hz,
    }
    return Tree(files, {f"class/devfreq/{board.gpu}": devfreq, f"{devfreq}/device": gpu})


def _memory(board: Jetson) -> Tree:
    low_hz, high_hz = board.emc_hz
    emc = "kernel/debug/bpmp/debug/clk/emc"
    files: dict[str, object] = {
        f"{emc}/min_rate": low_hz,
        f"{emc}/max_rate": high_hz,
        f"{emc}/rate": high_hz,
        f"{emc}/mrq_rate_locked": 0,
        "kernel/debug/cactmon/mc_all": high_hz // 1000 * 12,  # 12 % busy
    }
    return Tree(files, {})


def _fan() -> Tree:
    tree = Tree({}, {})
    for number, (name, key, value) in enumerate(
        (("pwmfan", "pwm1", 88), ("pwm_tach", "rpm", 2100))
    ):
        folder = f"devices/platform/{name}/hwmon/hwmon{number}"
        tree.files.update({f"{folder}/name": name, f"{folder}/{key}": value})
        tree.links[f"class/hwmon/hwmon{number}"] = folder
    return tree


def _thermal(board: Board) -> Tree:
    tree = Tree({}, {"class/thermal/cooling_device0": _ALERT})
    tree.files.update(
        {
            f"{_ALERT}/type": "cpu-throttle-alert" if board.jetson else "cpufreq-cpu0",
            f"{_ALERT}/cur_state": 0,
            f"{_ALERT}/max_state": 1,
        }
    )
    for number, name in enumerate(board.zones):
        folder = _zone(number)
        tree.files.update({f"{folder}/type": name, f"{folder}/temp": 40000 + 500 * number})
        tree.links[f"class/thermal/thermal_zone{number}"] = folder
    return tree


def _zone(number: int) -> str:
    return f"devices/virtual/thermal/thermal_zone{number}"


def _monitors(board: Board) -> Tree:
    """The INA3221 chips, then their channels."""
    tree = Tree({}, {})
    driver = "ina3221x" if _is_iio(board) else "ina3221"
    if board.ina238 is not None:
        tree.files[f"{_INA238}/name"] = "ina238"
        tree.files[f"{_INA238}/power1_input"] = 0
        tree.links["class/hwmon/hwmon9"] = _INA238
    for number, address in enumerate(board.monitors, start=_FIRST_MONITOR):
        device = f"{_I2C}/{address}"
        tree.files[f"{device}/name"] = driver
        for where in ("devices", f"drivers/{driver}"):
            tree.links[f"bus/i2c/{where}/{address}"] = device
        if not _is_iio(board):
            folder = f"{device}/hwmon/hwmon{number}"
            tree.files[f"{folder}/name"] = driver
            tree.files[f"{folder}/in7_label"] = "sum of shunt voltages"
            tree.files[f"{folder}/in7_input"] = 0
            tree.links[f"class/hwmon/hwmon{number}"] = folder
    for rail, paths in _channels(board):
        values = {"label": rail.label, "mv": rail.mv, "ma": 0, "mw": 0}
        values |= {"warn": _NO_LIMIT_MA, "crit": _NO_LIMIT_MA}
        tree.files.update({path: values[key] for key, path in paths.items()})
    return tree


def _is_iio(board: Board) -> bool:
    return board.jetson is not None and board.jetson.iio


def _channels(board: Board) -> Iterator[tuple[Rail, dict[str, str]]]:
    """Every channel with its files: label, mv, ma, warn, crit (and mw in the old layout)."""
    for number, (address, rails) in enumerate(board.monitors.items()):
        for channel, rail in enumerate(rails):
            if _is_iio(board):
                folder, names = f"iio:device{number}", _iio_names(channel)
            else:
                folder = f"hwmon/hwmon{number + _FIRST_MONITOR}"
                names = _hwmon_names(channel + 1)
            paths = {key: f"{_I2C}/{address}/{folder}/{name}" for key, name in names.items()}
            yield rail, paths


def _hwmon_names(channel: int) -> dict[str, str]:
    return {
        "label": f"in{channel}_label",
        "mv": f"in{channel}_input",
        "ma": f"curr{channel}_input",
        "warn": f"curr{channel}_max",
        "crit": f"curr{channel}_crit",
    }


def _iio_names(channel: int) -> dict[str, str]:
    return {
        "label": f"rail_name_{channel}",
        "mv": f"in_voltage{channel}_input",
        "ma": f"in_current{channel}_input",
        "mw": f"in_power{channel}_input",
        "warn": f"warn_current_limit_{channel}",
        "crit": f"crit_current_limit_{channel}",
    }
