"""`lora`: a trained low-rank term A B beside each attention and MLP matrix W of the encoder.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685),
sections 4.1 and 4.2: a layer computes x W + (alpha / R) x A B; A begins random, B with zeros,
so the encoder begins as it was. From the authors' code (microsoft/LoRA): alpha = 16, the value
of its commands for RoBERTa with rank 8.

Chosen here: all four matrices of a block (the paper adapts queries and values). The fused
matrix of queries, keys and values has one A and one B, [in, R] and [R, 3 out]: the three share
A, as in PEFT; the authors' `MergedLinear` has an A of rank R for each. A is Xavier uniform as
all matrices here are (a Gaussian in the paper, Kaiming uniform in its code). No dropout.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from edge_export.axes import rank_of
from edge_export.declaration import STUDENT, Declaration
from edge_export.parameters import Parameter
from edge_export.parametrizations.base import Parametrization
from edge_export.vit import ENCODER, LORA_A, LORA_B, Weights
from edge_runtime.package.manifest import Width

ALPHA = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """Options in `[parametrization]`."""

    rank: Width = 8  # R


class Lora(Parametrization):
    """Factors of low-rank terms, for the rungs that train them.

    Only the student of such a rung computes with the factors, so that no gradient of a whole
    matrix is needed. Everywhere else a product with the merged weight is cheaper.

    An EMA teacher has averages of W, A and B, and computes with W + (alpha / R) A B of these.
    The average of the student's weights differs from that by the covariance of A and B over
    the steps that the teacher averages, which is of second order in their change.
    """

    name = "lora"
    options = LoraOptions

    @property
    @override
    def declaration(self) -> Declaration:
        return Declaration(
            parameters=tuple(
                factor
                for layer, matrix in self._adapted()
                for factor in self._factors(layer, matrix)
            )
        )

    @override
    def weights(
        self, parameters: Weights, branch: str, buffers: Mapping[str, Tensor]
    ) -> Weights:
        if branch != STUDENT or rank_of(self.setting.rung.trained) is None:
            return self.merged(parameters, branch, buffers)
        scaled = {
            f"{layer}.{LORA_B}": self._scale * parameters[f"{layer}.{LORA_B}"]
            for layer, _ in self._adapted()
        }
        return {**parameters, **scaled}

    @override
    def merged(
        self, parameters: Weights, branch: str, buffers: Mapping[str, Tensor]
    ) -> Weights:
        weights = dict(parameters)
        for layer, matrix in self._adapted():
            a, b = weights.pop(f"{layer}.{LORA_A}"), weights.pop(f"{layer}.{LORA_B}")
            weights[matrix.name] = parameters[matrix.name] + a @ (self._scale * b)
        return weights

    @property
    def _scale(self) -> float:
        rank: int = self.setting.options.rank
        return ALPHA / rank

    def _adapted(self) -> Iterator[tuple[str, Parameter]]:
        """Every adapted layer's name, with its matrix."""
        for parameter in self.setting.parameters:
            if parameter.name.startswith(f"{ENCODER}blocks.") and parameter.is_matrix:
                yield parameter.name.removesuffix(".weight"), parameter

    def _factors(self, layer: str, matrix: Parameter) -> tuple[Parameter, Parameter]:
        (inputs, outputs), rank = matrix.shape, self.setting.options.rank
        return (
            Parameter(
                name=f"{layer}.{LORA_A}",
                shape=(inputs, rank),
                init="xavier_uniform",
                is_matrix=True,
                is_low_rank=True,
            ),
            Parameter(
                name=f"{layer}.{LORA_B}",
                shape=(rank, outputs),
                init="zeros",
                is_matrix=True,
                is_low_rank=True,
            ),
        )
