"""Training: pictures through an engine, step by step, into a run folder."""

from edge_runtime.training.conditions import Conditions
from edge_runtime.training.metering import Metering
from edge_runtime.training.options import TrainingOptions
from edge_runtime.training.profiling import profile_package
from edge_runtime.training.train import end_of, run_to_resume, train

__all__ = [
    "Conditions",
    "Metering",
    "TrainingOptions",
    "end_of",
    "profile_package",
    "run_to_resume",
    "train",
]
