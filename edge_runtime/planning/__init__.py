"""The plan for a budget, and the governor that follows it during a run.

Pure: no clock, no sensor, no file. Times and readings come in as arguments.
"""

from edge_runtime.planning.alone import single_rung_costs
from edge_runtime.planning.costs import (
    Overhead,
    interpolate,
    ladder_costs,
    overhead_of,
    smooth,
    with_decoding,
)
from edge_runtime.planning.epochs import EpochChoice, best_epochs, require_bounded
from edge_runtime.planning.governor import Decision, Governor
from edge_runtime.planning.mix import Workload
from edge_runtime.planning.objective import (
    TOKEN_BLOCKS,
    GradientErrorObjective,
    Objective,
    objective_of,
)
from edge_runtime.planning.planner import auto_epochs, make_plan, require_state_fits
from edge_runtime.planning.throttle import Reading
from edge_runtime.planning.trained_sets import first_feasible

__all__ = [
    "TOKEN_BLOCKS",
    "Decision",
    "EpochChoice",
    "Governor",
    "GradientErrorObjective",
    "Objective",
    "Overhead",
    "Reading",
    "Workload",
    "auto_epochs",
    "best_epochs",
    "first_feasible",
    "interpolate",
    "ladder_costs",
    "make_plan",
    "objective_of",
    "overhead_of",
    "require_bounded",
    "require_state_fits",
    "single_rung_costs",
    "smooth",
    "with_decoding",
]
