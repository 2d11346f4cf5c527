"""Costs of a step on this board, the plan that a budget allows, and the governor of a run.

Pure: no clock, no sensor, nothing measured here. Times and readings come in as arguments.
"""

from edge_runtime.planning.cache import cached_profile_path
from edge_runtime.planning.caution import Reading
from edge_runtime.planning.costs import (
    FORMAT,
    Overhead,
    check_fits,
    interpolate,
    load_profile,
    overhead_of,
    save_profile,
)
from edge_runtime.planning.governor import Decision, Governor
from edge_runtime.planning.planner import make_plan
from edge_runtime.planning.refusal import refuse_below_state
from edge_runtime.planning.straightening import straightened

__all__ = [
    "FORMAT",
    "Decision",
    "Governor",
    "Overhead",
    "Reading",
    "cached_profile_path",
    "check_fits",
    "interpolate",
    "load_profile",
    "make_plan",
    "overhead_of",
    "refuse_below_state",
    "save_profile",
    "straightened",
]
