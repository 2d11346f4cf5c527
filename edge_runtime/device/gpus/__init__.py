"""GPUs: what their drivers say, and who may use them."""

from edge_runtime.device.gpus.access import closed_files
from edge_runtime.device.gpus.gpu import KINDS, Gpu, Survey
from edge_runtime.device.gpus.survey import CUDA, VULKAN, survey

__all__ = ["CUDA", "KINDS", "VULKAN", "Gpu", "Survey", "closed_files", "survey"]
