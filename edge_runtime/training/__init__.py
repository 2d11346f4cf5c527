"""Training: pictures through an engine, step by step, into a run folder."""

from edge_runtime.training.options import TrainingOptions
from edge_runtime.training.train import train

__all__ = ["TrainingOptions", "train"]
