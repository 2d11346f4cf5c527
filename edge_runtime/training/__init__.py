"""Training: pictures through an engine, step by step, into a run folder."""

from edge_runtime.training.metering import Metering
from edge_runtime.training.options import TrainingOptions
from edge_runtime.training.train import end_of, run_to_resume, train

__all__ = [
    "Metering",
    "TrainingOptions",
    "end_of",
    "run_to_resume",
    "train",
]
