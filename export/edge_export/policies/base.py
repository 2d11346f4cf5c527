"""The interface between the encoder and a token policy, which shortens sequences.

Letters as in `edge_export.vit`; K remaining patch tokens. A policy is bound to a rung: all
of its sizes are constants. Student and teacher run block by block side by side, so that a
policy can compare them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from edge_export.context import StepContext
from edge_export.declaration import (
    STUDENT,
    TEACHER,
    Declaration,
    LossResult,
    NoOptions,
    ObjectiveDeclaration,
    ViewGroup,
)
from edge_export.vit import Attention, Weights
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import ModelFacts

STAGES = (3 / 12, 6 / 12, 9 / 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySetting:
    """Arguments to which a policy is bound."""

    model: ModelFacts
    keep_ratio: float
    method: ObjectiveDeclaration
    patches: Mapping[str, int]  # N of each of `groups`, at the rung's patch size
    options: Any

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """The view groups that the policy acts on."""
        return tuple(group for group in self.method.views if group.pruned)


@dataclass(slots=True)
class Tokens:
    """Tokens of one branch of a view group, between two blocks."""

    x: Tensor  # (S, 1 + K, D), class token first
    kept: Tensor  # (S, K) int64, the patch of each token; -1: of no single one
    sizes: Tensor | None = None  # (S, 1 + K), patches in each token; None: one in each
    embedded: int = field(init=False)  # patch tokens before the first block
    taps: dict[int, Tensor] = field(default_factory=dict)  # see `Encoding`; (S, D) each

    def __post_init__(self) -> None:
        self.embedded = self.kept.shape[1]

    def keep(self, index: Tensor) -> None:
        """Keep only these patch tokens: (S, K') int64 in [0, K), each at most once."""
        self.x = take_tokens(self.x, index)
        self.kept = self.kept.gather(1, index)
        if self.sizes is not None:
            self.sizes = take_tokens(self.sizes[:, :, None], index)[:, :, 0]

    def append(self, tokens: Tensor) -> None:
        """Add tokens of size one that belong to no single patch: (S, R, D)."""
        count = tokens.shape[1]
        self.x = torch.cat([self.x, tokens], dim=1)
        patch = torch.full_like(self.kept[:, :1], -1).expand(-1, count)
        self.kept = torch.cat([self.kept, patch], dim=1)
        if self.sizes is not None:
            size = torch.ones_like(self.sizes[:, :1]).expand(-1, count)
            self.sizes = torch.cat([self.sizes, size], dim=1)


@dataclass(slots=True)
class Branches:
    """A view group between two blocks, in both branches."""

    group: ViewGroup
    student: Tokens | None
    teacher: Tokens | None
    inputs: Mapping[str, Tensor]  # draws, hyper-parameters, buffers, by input name
    weights: Weights  # the student's
    teacher_weights: Weights  # the EMA copies; empty without a teacher
    # Chosen indices, by output name: compared between two runtimes
    selected: dict[str, Tensor] = field(default_factory=dict)
    # Values for the policy's loss, by name
    recorded: dict[str, Tensor] = field(default_factory=dict)
    # All tokens of a teacher that ran before the step's graph, where the policy needs them:
    # (S, 1 + N, D) each, N patches of the model's size; by a name of
    # `TokenPolicy.recorded_blocks`
    teacher_tokens: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def present(self) -> dict[str, Tokens]:
        """The branches that encode this group, by name."""
        both = ((STUDENT, self.student), (TEACHER, self.teacher))
        return {name: tokens for name, tokens in both if tokens is not None}


class TokenPolicy:
    """Keeps every token; the base class of the others. Hooks act on the setting's groups."""

    name: ClassVar[str] = "none"
    options: ClassVar[type[Any]] = NoOptions
    uses_keep_ratio: ClassVar[bool] = False  # otherwise the only rung is 1.0
    hides_patches: ClassVar[bool] = False  # chooses the patches that the student embeds
    student_only: ClassVar[bool] = False  # leaves all tokens to a teacher
    pairs_branches: ClassVar[bool] = (
        False  # compares the tokens of one branch with the other's
    )
    reads_attention: ClassVar[bool] = False  # in `before_mlp`

    def __init__(self, setting: PolicySetting) -> None:
        """Bind it to a rung.

        Raises:
            ConfigError: it does not work with the method.
        """
        self.setting = setting

    @property
    def changes_in_block(self) -> bool:
        """Whether it changes tokens in `before_mlp`."""
        return self.reads_attention

    @property
    def declaration(self) -> Declaration:
        """Its contribution to a step; all except the draws must be the same on every rung."""
        return Declaration()

    @property
    def recorded_blocks(self) -> tuple[str, ...]:
        """Names of the blocks whose tokens it needs of a teacher before the step's graph."""
        return ()

    def choose_patches(
        self, group: ViewGroup, branch: str, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The patches that a branch embeds: (S, K) int64, ascending; `None`: all."""
        return None

    def before_block(self, block: int, branches: Branches) -> None:
        """Change the branches before a block."""

    def before_mlp(
        self, block: int, branches: Branches, attention: Mapping[str, Attention]
    ) -> None:
        """Change the branches between a block's attention and its MLP.

        Not called in the last block if only its class token is a query: see
        `ViewGroup.patch_tokens`.

        Args:
            block: from 0.
            branches: with the attention's tokens.
            attention: by branch, with probabilities and keys.
        """

    def loss(self, step: StepContext) -> LossResult | None:
        """A term that is added to the objective's loss, if any."""
        return None

    def teacher_recorder(self) -> "TokenPolicy":
        """The policy of a teacher that runs before the step's graph: it keeps all tokens.

        It puts the names of `recorded_blocks` into `Branches.recorded`.
        """
        return TokenPolicy(self.setting)


def stage_blocks(depth: int, *, after: bool = False) -> tuple[int, ...]:
    """Blocks (from 0) of three stages that prune: 4, 7 and 10 of 12, counted from 1.

    Other depths keep the fractions. After a block means before the next one. A stage in the
    last block would not affect the loss and is left out.
    """
    blocks = sorted({int(depth * share) + int(after) for share in STAGES})
    return tuple(block for block in blocks if block < depth - 1)


def refuse_single_patches(setting: PolicySetting, why: str) -> None:
    """Refuse groups whose loss reads the token of each patch.

    Args:
        setting: of the policy.
        why: what the policy does that excludes them, such as `tome joins tokens`.

    Raises:
        ConfigError: there is one.
    """
    for group in setting.groups:
        if group.patch_tokens:
            raise ConfigError(
                f"tokens.name: the method reads the tokens of single patches of view group "
                f"{group.name!r}, and {why}. Use another token policy."
            )


def require_two_views(setting: PolicySetting, who: str) -> None:
    """Refuse groups of more or fewer than two views.

    Raises:
        ConfigError: there is one.
    """
    for group in setting.groups:
        if (count := len(group.views)) != 2:
            raise ConfigError(
                f"tokens.name: {who} needs two views of each picture, and view group "
                f"{group.name!r} has {count}. Use token policy 'random'."
            )


def kept_count(keep_ratio: float, tokens: int) -> int:
    """K = ceil(keep-ratio * N), at least one; 0.1 * 30 counts as 3 despite rounding."""
    return max(1, math.ceil(round(keep_ratio * tokens, 9)))


def topk_indices(scores: Tensor, count: int) -> Tensor:
    """The places of the largest values, ascending: (S, N) -> (S, K) int64.

    Of equal values the first; no gradient flows through the choice.
    """
    order = scores.detach().sort(dim=1, stable=True, descending=True)[1]
    return order[:, :count].sort(dim=1, stable=True)[0]


class TakeRows(torch.autograd.Function):
    """`x[s, index[s, k]]`: (S, T, D), (S, K) int64 -> (S, K, D); an index once per row.

    The gradient of a gather is a scatter. With unique rows it is also a gather, through the
    inverse of the index, which is several times as fast in ONNX Runtime.
    """

    @staticmethod
    def forward(x: Tensor, index: Tensor) -> Tensor:
        """Gather rows of the flattened x."""
        count, tokens, width = x.shape
        flat = index + torch.arange(count)[:, None] * tokens
        rows = x.reshape(-1, width).index_select(0, flat.reshape(-1))
        return rows.reshape(count, index.shape[1], width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep the index."""
        x, index = inputs
        ctx.save_for_backward(index)
        ctx.tokens = x.shape[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Row t of x gets the gradient of the k that gathered it, or zero."""
        (index,) = ctx.saved_tensors
        count, kept, width = grad.shape
        places = torch.arange(kept).expand(count, kept)
        inverse = torch.full((count, ctx.tokens), kept).scatter(1, index, places)  # not kept
        nothing = torch.zeros(count, 1, width, dtype=grad.dtype)
        padded = torch.cat([grad, nothing], dim=1)  # (S, K + 1, D)
        return TakeRows.forward(padded, inverse), None


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each sequence, with gradient: see `TakeRows`."""
    return TakeRows.apply(x, index)  # type: ignore[no-any-return, no-untyped-call]


def take_tokens(tokens: Tensor, kept: Tensor) -> Tensor:
    """The class token and the kept patch tokens: (S, 1 + N, D), (S, K) -> (S, 1 + K, D)."""
    class_token = torch.zeros(kept.shape[0], 1, dtype=torch.int64)
    return take_rows(tokens, torch.cat([class_token, kept + 1], dim=1))
