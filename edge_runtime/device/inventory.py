"""What can be read from this board, in about half a second."""

import time
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device.board import Board, detect_board
from edge_runtime.device.files import sysfs
from edge_runtime.device.memory import memory_now
from edge_runtime.device.meter import Meter
from edge_runtime.device.power_mode import power_mode
from edge_runtime.device.sensors import PowerSensor, choose_sensor, unused_monitors
from edge_runtime.device.thermal import Thermometer

_DURATION_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFacts:
    """The power sensor that was chosen."""

    name: str
    description: str
    is_estimate: bool
    rails_w: dict[str, float | None]  # mean
    total: tuple[str, ...]  # the rails that form the board's total; empty: unknown
    total_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """`None` is unknown."""

    board: str
    name: str
    note: str | None
    sensor: SensorFacts | None
    better_sensors: dict[str, str]  # those not chosen, with the reason
    unused_monitors: tuple[str, ...]  # power monitors that exist and that nothing here reads
    power_mode: str | None
    memory_limit_bytes: int | None
    memory_available_bytes: int | None
    temperatures_c: dict[str, float | None]
    unknown_zones: dict[str, str]  # zones whose temperature is unknown, with the reason
    throttled: bool | None


def take_inventory(board: Board | None = None, *, root: Path = Path("/")) -> Inventory:
    """Read everything once.

    Args:
        board: its profile; recognised if not given.
        root: where /sys and /proc are.

    Raises:
        DeviceError: no profile fits this machine.
    """
    board = board or detect_board(root=root)
    choice = choose_sensor(board, root=root)
    memory, thermometer = memory_now(root), Thermometer(root)
    try:
        zones = thermometer.read()
        return Inventory(
            board=board.id,
            name=board.name,
            note=board.note,
            sensor=_facts(choice.sensor, root) if choice.sensor else None,
            better_sensors=choice.refused,
            unused_monitors=tuple(unused_monitors(sysfs(root), choice.sensor)),
            power_mode=power_mode(root),
            memory_limit_bytes=memory.limit_bytes,
            memory_available_bytes=memory.available_bytes,
            temperatures_c={name: zone.temperature_c for name, zone in zones.items()},
            unknown_zones={name: zone.problem for name, zone in zones.items() if zone.problem},
            throttled=thermometer.is_throttled(),
        )
    finally:
        thermometer.close()


def _facts(sensor: PowerSensor, root: Path) -> SensorFacts:
    with Meter(sensor, root=root) as meter, meter.window("inventory") as window:
        time.sleep(max(_DURATION_S, 2 * sensor.period_s))
    energy = window.energy
    return SensorFacts(
        name=sensor.name,
        description=sensor.description,
        is_estimate=sensor.is_estimate,
        rails_w={
            rail: None if rail_j is None else rail_j / energy.duration_s
            for rail, rail_j in energy.rails_j.items()
        },
        total=sensor.total,
        total_w=energy.mean_w,
    )
