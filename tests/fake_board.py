"""Trees of kernel files of boards, in any folder; `root` stands for /.

The layouts are those of the kernel's documents: hwmon, industrial I/O, powercap, power_supply,
thermal, device tree.
"""

import os
from collections.abc import Mapping
from pathlib import Path


def put(path: Path, value: object) -> None:
    """Write one file atomically: a reader sees the old value or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(f"{value}\n")
    os.replace(new, path)


def write(root: Path, files: Mapping[str, object]) -> Path:
    for name, value in files.items():
        put(root / name, value)
    return root


def device_tree(root: Path, *, model: str = "", compatible: tuple[str, ...] = ()) -> Path:
    base = root / "sys/firmware/devicetree/base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "model").write_bytes(model.encode() + b"\0")
    if compatible:
        (base / "compatible").write_bytes(b"".join(f"{c}\0".encode() for c in compatible))
    return root


def hwmon(root: Path, number: int, device: str, files: Mapping[str, object]) -> Path:
    """A monitor chip with the links of sysfs; returns its folder."""
    folder = root / f"sys/devices/i2c/{device}/hwmon/hwmon{number}"
    write(folder, files)
    link = root / f"sys/class/hwmon/hwmon{number}"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(os.path.relpath(folder, link.parent))
    return folder


def ina3221(
    root: Path, rails: Mapping[str, float], *, number: int = 3, device: str = "1-0040"
) -> Path:
    """Rails in watts at 5 V, by label, in the order of the channels."""
    files: dict[str, object] = {"name": "ina3221", "in7_label": "sum of shunt voltages"}
    for channel, (label, power_w) in enumerate(rails.items(), 1):
        files |= {
            f"in{channel}_label": label,
            f"in{channel}_input": 5000,
            f"curr{channel}_input": round(power_w * 200),
        }
    return hwmon(root, number, device, files)


def ina3221_of_jetpack_4(root: Path, rails: Mapping[str, float]) -> Path:
    folder = root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files: dict[str, object] = {}
    for channel, (label, power_w) in enumerate(rails.items()):
        files[f"rail_name_{channel}"] = label
        files[f"in_power{channel}_input"] = round(power_w * 1000)
    write(folder, files)
    return folder


def ina238(root: Path, power_w: float) -> Path:
    return hwmon(root, 7, "2-0044", {"name": "ina238", "power1_input": round(power_w * 1e6)})


def rapl(
    root: Path, domains: Mapping[str, tuple[str, float]], *, range_j: float = 1000
) -> Path:
    """Counters by folder, such as `intel-rapl:0:1`: name and joules."""
    folder = root / "sys/class/powercap"
    for name, (label, energy_j) in domains.items():
        files = {
            "name": label,
            "energy_uj": round(energy_j * 1e6),
            "max_energy_range_uj": round(range_j * 1e6),
        }
        write(folder / name, files)
    return folder


def battery(root: Path, *, status: str = "Discharging", **files: object) -> Path:
    folder = root / "sys/class/power_supply/BAT0"
    write(folder, {"type": "Battery", "status": status, **files})
    return folder


def zone(root: Path, number: int, kind: str, thousandths_c: object) -> Path:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    write(folder, {"type": kind, "temp": thousandths_c})
    return folder


def processor_load(root: Path, busy_s: float, *, processors: int = 2) -> Path:
    """/proc/stat after `busy` seconds of all processors together."""
    ticks = round(busy_s * os.sysconf("SC_CLK_TCK"))
    nice, system, irq, soft_irq = (ticks // n for n in (10, 5, 20, 8))
    user = ticks - nice - system - irq - soft_irq
    idle, io_wait, steal = 7 * ticks, 3 * ticks, 2 * ticks
    lines = [f"cpu  {user} {nice} {system} {idle} {io_wait} {irq} {soft_irq} {steal} 0 0"]
    lines += [f"cpu{number} 0 0 0 0 0 0 0 0 0 0" for number in range(processors)]
    put(root / "proc/stat", "\n".join([*lines, "intr 0"]))
    return root / "proc/stat"
