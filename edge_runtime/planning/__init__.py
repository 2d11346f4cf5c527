"""Costs of a step on this board, the plan that a budget allows, and the governor of a run.

Pure: no clock, no sensor, nothing measured here. Times and readings come in as arguments.
"""

from edge_runtime.planning.cache import cached_profile_path
from edge_runtime.planning.costs import (
    CostProfile,
    Overhead,
    RungCost,
    check_fits,
    interpolate,
    load_profile,
    overhead_of,
    save_profile,
)
from edge_runtime.planning.planner import Plan, RungVerdict, Segment, make_plan

__all__ = [
    "CostProfile",
    "Overhead",
    "Plan",
    "RungCost",
    "RungVerdict",
    "Segment",
    "cached_profile_path",
    "check_fits",
    "interpolate",
    "load_profile",
    "make_plan",
    "overhead_of",
    "save_profile",
]
