"""`a+b`: two or more token policies in one step, in the given order.

Each applies the rung's keep-ratio at its own place, so rates multiply. At most one of them may
choose which patches are embedded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce

from torch import Tensor
from typing_extensions import override

from edge_export.context import StepContext
from edge_export.declaration import (
    Declaration,
    LossResult,
    ViewGroup,
    added,
    disjoint_union,
    merged,
)
from edge_export.policies.base import Branches, PolicySetting, TokenPolicy
from edge_export.vit import Attention
from edge_runtime.errors import ConfigError


class CombinedPolicy(TokenPolicy):
    """Passes every hook on to each of its policies."""

    def __init__(self, setting: PolicySetting, policies: tuple[TokenPolicy, ...]) -> None:
        super().__init__(setting)
        self._policies = policies

    @property
    @override
    def declaration(self) -> Declaration:
        return merged(*(policy.declaration for policy in self._policies))

    @override
    def choose_patches(
        self, group: ViewGroup, branch: str, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        chosen = {
            policy.name: index
            for policy in self._policies
            if (index := policy.choose_patches(group, branch, inputs)) is not None
        }
        if len(chosen) > 1:
            raise ConfigError(
                f"tokens.name: {' and '.join(chosen)} both choose the patches that are "
                "embedded, so they cannot be combined. Use one of them."
            )
        return next(iter(chosen.values()), None)

    @override
    def before_block(self, block: int, branches: Branches) -> None:
        for policy in self._policies:
            with _own_selection(branches):
                policy.before_block(block, branches)

    @override
    def before_mlp(
        self, block: int, branches: Branches, attention: Mapping[str, Attention]
    ) -> None:
        for policy in self._policies:
            with _own_selection(branches):
                policy.before_mlp(block, branches, attention)

    @override
    def loss(self, step: StepContext) -> LossResult | None:
        terms = [policy.loss(step) for policy in self._policies]
        there = [term for term in terms if term is not None]
        return reduce(added, there) if there else None


@contextmanager
def _own_selection(branches: Branches) -> Iterator[None]:
    """Add what a policy selects to the selections before, and refuse a name of another."""
    before, branches.selected = branches.selected, {}
    yield
    branches.selected = disjoint_union("selection", before, branches.selected)
