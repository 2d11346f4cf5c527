"""`a+b`: two or more token policies in one step, in the given order.

Each applies the rung's keep-ratio at its own place, so rates multiply.
"""

from collections.abc import Iterator, Mapping, Sequence
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
        """Combine policies that are bound to the same rung.

        Raises:
            ConfigError: they do not work together.
        """
        super().__init__(setting)
        self._policies = policies
        _refuse_two_choices(policies)
        _refuse_stale_attention(policies)
        if setting.method.teacher:
            _refuse_other_lengths(policies)

    @property
    @override
    def declaration(self) -> Declaration:
        return merged(*(policy.declaration for policy in self._policies))

    @override
    def choose_patches(
        self, group: ViewGroup, branch: str, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        choices = (
            policy.choose_patches(group, branch, inputs)
            for policy in self._policies
            if policy.hides_patches
        )
        return next(choices, None)

    @property
    @override
    def recorded_blocks(self) -> tuple[str, ...]:
        return self._pairing.recorded_blocks

    @override
    def teacher_recorder(self) -> TokenPolicy:
        return self._pairing.teacher_recorder()

    @property
    def _pairing(self) -> TokenPolicy:
        """The policy that compares the branches; the first one if none does."""
        pairing = (policy for policy in self._policies if policy.pairs_branches)
        return next(pairing, self._policies[0])

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


def _refuse_two_choices(policies: Sequence[TokenPolicy]) -> None:
    choosing = [policy.name for policy in policies if policy.hides_patches]
    if len(choosing) > 1:
        raise ConfigError(
            f"tokens.name: {' and '.join(choosing)} both choose the patches that are "
            "embedded, so they cannot be combined. Use one of them."
        )


def _refuse_stale_attention(policies: Sequence[TokenPolicy]) -> None:
    changed_by: TokenPolicy | None = None
    for policy in policies:
        if policy.reads_attention and changed_by is not None:
            other = (
                "" if changed_by.reads_attention else f", or {policy.name}+{changed_by.name}"
            )
            raise ConfigError(
                f"tokens.name: {policy.name} reads the attention of a block after "
                f"{changed_by.name} has changed its tokens. Use one of the two{other}."
            )
        if policy.changes_in_block:
            changed_by = policy


def _refuse_other_lengths(policies: Sequence[TokenPolicy]) -> None:
    one_sided = [policy.name for policy in policies if policy.student_only]
    pairing = [policy.name for policy in policies if policy.pairs_branches]
    if one_sided and pairing:
        raise ConfigError(
            f"tokens.name: {pairing[0]} pairs the tokens of student and teacher, and "
            f"{one_sided[0]} shortens only the student. Use one of the two."
        )


@contextmanager
def _own_selection(branches: Branches) -> Iterator[None]:
    """Add what a policy selects to the selections before, and refuse a name of another."""
    before, branches.selected = branches.selected, {}
    yield
    branches.selected = disjoint_union("selection", before, branches.selected)
