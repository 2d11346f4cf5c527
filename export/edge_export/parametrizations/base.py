"""What a weight goes through before it is used: the seam for masks, gates, low-rank terms.

As in `torch.nn.utils.parametrize`, the optimizer moves the parameters of the state, and the
step computes with what `weights` makes of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edge_export.declaration import Declaration
from edge_export.parameters import Parameter
from edge_export.policies.base import NoOptions
from edge_export.vit import Weights
from edge_runtime.package.manifest import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametrizationSetting:
    """What a parametrization is bound to."""

    model: ModelFacts
    parameters: tuple[Parameter, ...]  # of encoder, objective and token policy
    seed: int
    options: Any


class Parametrization:
    """Uses the parameters as they are; the base of the others."""

    name = "none"
    options: type[Any] = NoOptions

    def __init__(self, setting: ParametrizationSetting) -> None:
        self.setting = setting

    @property
    def declaration(self) -> Declaration:
        """What it adds to the state and to a step."""
        return Declaration()

    def weights(
        self, parameters: Weights, branch: str, buffers: Mapping[str, Tensor]
    ) -> Weights:
        """What a branch computes with.

        Args:
            parameters: the branch's, by parameter name; a teacher has only those it copies.
            branch: `STUDENT` or `TEACHER`.
            buffers: all of the step, by buffer name.

        Returns:
            Weights by the same names; parameters of its own may be left out.
        """
        return parameters
