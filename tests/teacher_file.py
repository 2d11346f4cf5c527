"""A checkpoint of random weights with timm's names, from which `distillation` learns."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edge_export.package.initial import encoder_tensors
from edge_export.parameters import initial_values
from edge_export.vit import encoder_parameters
from edge_runtime.package.encoder import to_timm
from edge_runtime.package.manifest import ModelFacts


def write_teacher(path: Path, model: ModelFacts) -> dict[str, NDArray[np.float32]]:
    """Write it; returns its weights by parameter name."""
    declared = encoder_parameters(model)
    generator = torch.Generator().manual_seed(7)
    weights = {
        name: (value + 0.1 * torch.randn(value.shape, generator=generator)).numpy()
        for name, value in initial_values(declared, seed=5).items()
    }
    arrays = to_timm(encoder_tensors(declared), weights)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)
    return weights
