"""Named inputs or outputs of a graph, each with its declared role."""

from collections.abc import Mapping

from torch import Tensor
from typing_extensions import Self

from edge_export.declaration import disjoint_union


class Border:
    """Inputs or outputs of a graph."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.roles: dict[str, str] = {}

    def add(self, role: str, tensors: Mapping[str, Tensor]) -> Self:
        """Declare tensors of one role, see `edge_runtime.package.names`.

        Raises:
            ConfigError: a name is there already.
        """
        self.tensors = disjoint_union(role, self.tensors, tensors)
        self.roles |= dict.fromkeys(tensors, role)
        return self
