"""The facts of a run as plain frozen dataclasses, which the parts above exchange.

Nothing here reads a file, a clock or a sensor. Units are in the names; `None` is unknown.
"""

from edge_runtime.facts.budget import Budget
from edge_runtime.facts.calibration import Calibration, CalibrationStage, RungGradient
from edge_runtime.facts.costs import CostProfile, RungCost
from edge_runtime.facts.energy import Spent, WindowEnergy
from edge_runtime.facts.plan import Plan, RungVerdict, Segment, SingleRungCost
from edge_runtime.facts.scores import EvaluationResults, KnnResult, Pictures, ProbeResult

__all__ = [
    "Budget",
    "Calibration",
    "CalibrationStage",
    "CostProfile",
    "EvaluationResults",
    "KnnResult",
    "Pictures",
    "Plan",
    "ProbeResult",
    "RungCost",
    "RungGradient",
    "RungVerdict",
    "Segment",
    "SingleRungCost",
    "Spent",
    "WindowEnergy",
]
