"""Cost profiles: measured rung by rung in separate processes, kept in files.

A profile is valid for one environment: board, power mode, engine, runtime, device, threads.
"""

from edge_runtime.profiling.bench import forget_measurements
from edge_runtime.profiling.cache import (
    FORMAT,
    EnvironmentKey,
    cache_writes,
    cached_profile_path,
    check_fits,
    check_package,
    key_of,
    load_profile,
    save_profile,
)
from edge_runtime.profiling.candidates import (
    chosen_candidates,
    chosen_rungs,
    default_candidates,
)
from edge_runtime.profiling.environment import Environment
from edge_runtime.profiling.fastest import DeviceChoice, choose_device
from edge_runtime.profiling.for_run import costs_for_run, measure_for_run, wait_for_sensor
from edge_runtime.profiling.free_memory import (
    is_memory_tight,
    limit_beside_costs,
    limit_beside_rungs,
)
from edge_runtime.profiling.limits import check_limits, fitting_on_card, require_readings
from edge_runtime.profiling.modes import (
    ModeCosts,
    profile_modes,
)
from edge_runtime.profiling.profile import profile_package

__all__ = [
    "FORMAT",
    "DeviceChoice",
    "Environment",
    "EnvironmentKey",
    "ModeCosts",
    "cache_writes",
    "cached_profile_path",
    "check_fits",
    "check_limits",
    "check_package",
    "choose_device",
    "chosen_candidates",
    "chosen_rungs",
    "costs_for_run",
    "default_candidates",
    "fitting_on_card",
    "forget_measurements",
    "is_memory_tight",
    "key_of",
    "limit_beside_costs",
    "limit_beside_rungs",
    "load_profile",
    "measure_for_run",
    "profile_modes",
    "profile_package",
    "require_readings",
    "save_profile",
    "wait_for_sensor",
]
