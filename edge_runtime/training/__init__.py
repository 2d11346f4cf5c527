"""Training: the loop that feeds pictures to an engine and writes a run folder."""

from edge_runtime.training.job import TrainingOptions, never, prepare
from edge_runtime.training.metering import Metering
from edge_runtime.training.train import open_loop, train

__all__ = ["Metering", "TrainingOptions", "never", "open_loop", "prepare", "train"]
