"""Declarations of named tensors: shape, initial value, layout in timm."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One trained tensor.

    `init` is "zeros", "ones", "normal" (standard deviation 1), "truncated_normal" (standard
    deviation 0.02, truncated at two of them) or "xavier_uniform" (of a [in, out] matrix, each
    of `fused` blocks of columns separately).
    `layout` is that of `edge_runtime.package.manifest.EncoderTensor`.
    """

    name: str
    shape: tuple[int, ...]
    init: str
    fused: int = 1
    layout: str = "same"
    is_matrix: bool = False  # weight decay: usually of matrices only, see `exempt_vectors`
    is_low_rank: bool = False  # a factor of a low-rank term, which rungs `lora-R` train
    # True if the loss does not depend on it by construction, which verification checks.
    # Rounding then decides how Adam changes it: two runtimes may end with other values.
    zero_gradient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A named tensor of the state that no optimizer updates, such as a centre or a mask.

    Raises:
        ConfigError: int64, for which GPUs have no kernels; int32 is the integer of graphs.
    """

    name: str
    initial: Tensor

    def __post_init__(self) -> None:
        if self.initial.dtype == torch.int64:
            raise ConfigError(f"buffer {self.name!r} is int64; graphs count in int32.")


def linear(
    name: str, inputs: int, outputs: int, *, fused: int = 1
) -> tuple[Parameter, Parameter]:
    """Weight [inputs, outputs] and bias of a linear layer, or of `fused` ones side by side."""
    return (
        Parameter(
            name=f"{name}.weight",
            shape=(inputs, outputs),
            init="xavier_uniform",
            fused=fused,
            layout="transposed",
            is_matrix=True,
        ),
        Parameter(name=f"{name}.bias", shape=(outputs,), init="zeros"),
    )


def norm(name: str, width: int) -> tuple[Parameter, Parameter]:
    """Scale and shift of a LayerNorm."""
    return (
        Parameter(name=f"{name}.weight", shape=(width,), init="ones"),
        Parameter(name=f"{name}.bias", shape=(width,), init="zeros"),
    )


def initial_values(parameters: Iterable[Parameter], seed: int) -> dict[str, Tensor]:
    """Values of a fresh model by parameter name, float32.

    The same parameters and seed give the same values, independent of torch's global generator.
    """
    generator = torch.Generator().manual_seed(seed)
    return {parameter.name: _initial(parameter, generator) for parameter in parameters}


def _initial(parameter: Parameter, generator: torch.Generator) -> Tensor:
    shape = parameter.shape
    if parameter.init == "zeros":
        return torch.zeros(shape)
    if parameter.init == "ones":
        return torch.ones(shape)
    if parameter.init == "normal":
        return torch.randn(shape, generator=generator)
    if parameter.init == "truncated_normal":
        value = torch.empty(shape)
        return torch.nn.init.trunc_normal_(
            value, std=0.02, a=-0.04, b=0.04, generator=generator
        )
    bound = math.sqrt(6 / (shape[0] + shape[1] / parameter.fused))
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
