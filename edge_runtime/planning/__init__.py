"""The plan for a budget, and the governor that follows it during a run.

Pure: no clock, no sensor, no file. Times and readings come in as arguments.
"""

from edge_runtime.planning.alone import each_rung_alone
from edge_runtime.planning.costs import (
    Overhead,
    interpolate,
    overhead_of,
    smooth,
    with_decoding,
)
from edge_runtime.planning.epochs import EpochChoice, best_epochs, require_an_end
from edge_runtime.planning.governor import Decision, Governor
from edge_runtime.planning.mix import Workload
from edge_runtime.planning.planner import auto_epochs, make_plan, require_state_fits
from edge_runtime.planning.throttle import Reading

__all__ = [
    "Decision",
    "EpochChoice",
    "Governor",
    "Overhead",
    "Reading",
    "Workload",
    "auto_epochs",
    "best_epochs",
    "each_rung_alone",
    "interpolate",
    "make_plan",
    "overhead_of",
    "require_an_end",
    "require_state_fits",
    "smooth",
    "with_decoding",
]
