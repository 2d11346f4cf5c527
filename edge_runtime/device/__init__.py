"""The machine: its hardware, its memory, its board profile, its power.

The only part that reads psutil, /proc and /sys, and that may talk to jetson-stats and NVML.
Units: bytes, joules, watts, degrees Celsius, monotonic seconds. An unknown fact is `None`.
"""

from edge_runtime.device import gpus
from edge_runtime.device.board import (
    Board,
    BoardSigns,
    Calibration,
    ModeClocks,
    PowerFacts,
    detect_board,
    known_boards,
    load_board,
)
from edge_runtime.device.cpufreq import Cpufreq, cpufreq_problem
from edge_runtime.device.inventory import Inventory, take_inventory
from edge_runtime.device.load import BackgroundLoad
from edge_runtime.device.machine import (
    boot_id,
    cpu_threads,
    l4t_release,
    limit_numpy_threads,
    machine_facts,
    usable_cpus,
)
from edge_runtime.device.memory import (
    MemoryNow,
    PeakMemory,
    memory_now,
    process_tree_rss_bytes,
)
from edge_runtime.device.meter import Meter
from edge_runtime.device.mode_note import (
    interrupted_mode,
    mode_put_back,
    put_back_interrupted,
)
from edge_runtime.device.nvpmodel import Nvpmodel
from edge_runtime.device.power_mode import PowerModes, power_mode, power_modes
from edge_runtime.device.probe import SensorEvent
from edge_runtime.device.process import (
    prefer_oom_kill,
    process_elapsed_s,
    python_command,
    start_errors,
)
from edge_runtime.device.room import require_room
from edge_runtime.device.samples import PowerSample, Window
from edge_runtime.device.sensors import (
    SENSORS,
    PowerSensor,
    ReplaySensor,
    SensorChoice,
    choose_sensor,
    open_sensor,
    read_trace,
)
from edge_runtime.device.thermal import Thermometer

__all__ = [
    "SENSORS",
    "BackgroundLoad",
    "Board",
    "BoardSigns",
    "Calibration",
    "Cpufreq",
    "Inventory",
    "MemoryNow",
    "Meter",
    "ModeClocks",
    "Nvpmodel",
    "PeakMemory",
    "PowerFacts",
    "PowerModes",
    "PowerSample",
    "PowerSensor",
    "ReplaySensor",
    "SensorChoice",
    "SensorEvent",
    "Thermometer",
    "Window",
    "boot_id",
    "choose_sensor",
    "cpu_threads",
    "cpufreq_problem",
    "detect_board",
    "gpus",
    "interrupted_mode",
    "known_boards",
    "l4t_release",
    "limit_numpy_threads",
    "load_board",
    "machine_facts",
    "memory_now",
    "mode_put_back",
    "open_sensor",
    "power_mode",
    "power_modes",
    "prefer_oom_kill",
    "process_elapsed_s",
    "process_tree_rss_bytes",
    "put_back_interrupted",
    "python_command",
    "read_trace",
    "require_room",
    "start_errors",
    "take_inventory",
    "usable_cpus",
]
