"""Transformations of weights before use: the interface for masks, gates, low-rank terms.

As in `torch.nn.utils.parametrize`, the optimizer updates the parameters of the state, and the
step computes with the result of `weights`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edge_export.axes import RungSettings
from edge_export.declaration import Declaration, NoOptions
from edge_export.parameters import Parameter
from edge_export.vit import Weights
from edge_runtime.package.manifest import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametrizationSetting:
    """Arguments to which a parametrization is bound."""

    model: ModelFacts
    parameters: tuple[Parameter, ...]  # of encoder, objective and token policy
    rung: RungSettings
    seed: int
    options: Any


class Parametrization:
    """Uses the parameters unchanged; the base class of the others."""

    name = "none"
    options: type[Any] = NoOptions

    def __init__(self, setting: ParametrizationSetting) -> None:
        self.setting = setting

    @property
    def declaration(self) -> Declaration:
        """Its contribution to the state and to a step."""
        return Declaration()

    def weights(
        self, parameters: Weights, branch: str, buffers: Mapping[str, Tensor]
    ) -> Weights:
        """The weights with which a branch computes.

        Args:
            parameters: the branch's, by parameter name; a teacher has only those it copies.
            branch: `STUDENT` or `TEACHER`.
            buffers: all of the step, by buffer name.

        Returns:
            Weights by the same names; the parametrization's parameters may be left out.
        """
        return parameters

    def merged(
        self, parameters: Weights, branch: str, buffers: Mapping[str, Tensor]
    ) -> Weights:
        """The weights of a plain encoder that computes the same, for evaluation and export.

        Arguments and result as of `weights`, whose result it is unless a subclass differs.
        """
        return self.weights(parameters, branch, buffers)
