"""The plan for a budget, and the governor that follows it during a run.

Pure: no clock, no sensor, no file. Times and readings come in as arguments.
"""

from edge_runtime.planning.costs import Overhead, interpolate, overhead_of, smooth
from edge_runtime.planning.governor import Decision, Governor
from edge_runtime.planning.planner import make_plan, require_state_fits
from edge_runtime.planning.throttle import Reading

__all__ = [
    "Decision",
    "Governor",
    "Overhead",
    "Reading",
    "interpolate",
    "make_plan",
    "overhead_of",
    "require_state_fits",
    "smooth",
]
