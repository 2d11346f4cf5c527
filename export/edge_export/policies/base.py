"""What makes sequences shorter: the seam between the encoder and a token policy.

Letters as in `edge_export.vit`; K kept patch tokens. A policy is bound to a model, a
keep-ratio and the number of pictures; all of its sizes are constants. Student and teacher run
block by block side by side, so that a policy can compare them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edge_export import vit
from edge_export.vit import Weights
from edge_runtime.package.manifest import DrawSpec, ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a policy is bound to."""

    model: ModelFacts
    keep_ratio: float
    views: int
    batch_size: int
    has_teacher: bool
    options: Any


@dataclass(frozen=True, slots=True)
class NoOptions:
    """A policy without options."""


@dataclass(slots=True)
class Branches:
    """Tokens (S, T, D) of student and teacher between two blocks; S is views x pictures."""

    student: Tensor
    teacher: Tensor | None


class TokenPolicy:
    """Keeps every token; the base of the others.

    `student_tokens` and `teacher_tokens` are, for each block, (tokens in its attention, tokens
    in its MLP), class token included; `student_patches` is how many the student embeds.
    """

    name = "none"
    options: type[Any] = NoOptions
    couples_branches = False  # True: the teacher cannot run before or apart from the student

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        tokens = setting.model.tokens
        self.student_patches = tokens - 1
        self.student_tokens = [(tokens, tokens)] * setting.model.depth
        self.teacher_tokens = list(self.student_tokens)
        self.draws: tuple[DrawSpec, ...] = ()
        self.hypers: tuple[str, ...] = ()  # scalars that it reads beside the optimizer's

    def embed_student(
        self, weights: Weights, patches: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Tokens of the student's patches (S, N, P)."""
        return embed_all(weights, patches)

    def before_block(
        self, block: int, branches: Branches, inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """May shorten the branches before a block; gives what it selected, to be recorded."""
        return {}

    def before_mlp(
        self, block: int, branches: Branches, inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """May shorten the branches between a block's attention and its MLP."""
        return {}


def embed_all(weights: Weights, patches: Tensor) -> Tensor:
    """Tokens of all patches."""
    return vit.embed(weights, patches, weights["pos_embed"][:, 1:])


def kept_count(keep_ratio: float, tokens: int) -> int:
    """K = ceil(keep-ratio * N), at least one; 0.1 * 30 counts as 3 whatever floats say."""
    return max(1, math.ceil(round(keep_ratio * tokens, 9)))


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
        """Row t of x gets the gradient of the k that took it, or zero."""
        (index,) = ctx.saved_tensors
        count, kept, width = grad.shape
        places = torch.arange(kept).expand(count, kept)
        inverse = torch.full((count, ctx.tokens), kept).scatter(1, index, places)  # kept: none
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
