"""The encoder of both branches, block by block, with the token policy in between."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_export import vit
from edge_export.declaration import ViewGroup
from edge_export.patches import PatchGrid
from edge_export.policies.base import (
    STUDENT,
    TEACHER,
    Branches,
    TokenPolicy,
    Tokens,
    take_rows,
)
from edge_export.step.context import Encoding
from edge_export.vit import Attention, Weights
from edge_runtime.package.manifest import ModelFacts
from edge_runtime.package.names import IMAGES_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A view group after the last block."""

    student: Encoding | None
    teacher: Encoding | None
    selected: Mapping[str, Tensor]
    recorded: Mapping[str, Tensor]
    patches: Tensor  # (V, B, N, P), normalised pixels, before any is dropped
    student_tokens: tuple[int, ...]  # in the attention of each block, class token included


class GroupEncoder:
    """Encodes one view group."""

    def __init__(
        self, model: ModelFacts, group: ViewGroup, grid: PatchGrid, policy: TokenPolicy
    ) -> None:
        self._model, self._group, self._grid, self._policy = model, group, grid, policy
        # Otherwise only the class token matters after the last attention.
        self._all_tokens = group.patch_tokens or model.features == vit.MEAN_PATCHES

    def encode(
        self, student: Weights, teacher: Weights, inputs: Mapping[str, Tensor]
    ) -> Encoded:
        """Run all blocks on both branches.

        Args:
            student: weights by parameter name.
            teacher: the same; empty without a teacher.
            inputs: images, draws, hyper-parameters and buffers by input name.
        """
        images = inputs[IMAGES_PREFIX + self._group.name]  # (V, B, height, width, 3)
        patches = self._grid.cut(images.flatten(0, 1))  # (S, N, P)
        group = self._group
        branches = Branches(
            group=group,
            student=self._embed(STUDENT, student, patches, inputs) if group.student else None,
            teacher=self._embed(TEACHER, teacher, patches, inputs)
            if group.teacher and teacher
            else None,
            inputs=inputs,
            weights=student,
        )
        counts = []
        for block in range(self._model.depth):
            self._policy.before_block(block, branches)
            if branches.student is not None:
                counts.append(branches.student.x.shape[1])
            self._run_block(block, branches, student, teacher)
        views, dtype = len(group.views), next(iter(student.values())).dtype
        return Encoded(
            student=self._encoding(student, branches.student, views),
            teacher=self._encoding(teacher, branches.teacher, views),
            selected=branches.selected,
            recorded=branches.recorded,
            patches=by_view(vit.normalise(patches, dtype), views),
            student_tokens=tuple(counts),
        )

    def _embed(
        self, branch: str, weights: Weights, patches: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tokens:
        positions = self._grid.positions(weights)
        kept = self._policy.choose_patches(self._group, branch, inputs)
        if kept is None:
            kept = torch.arange(patches.shape[1]).expand(patches.shape[0], -1)
        else:
            positions = take_rows(positions.expand(patches.shape[0], -1, -1), kept)
            patches = take_rows(patches, kept)
        return Tokens(self._grid.embed(weights, patches, positions), kept)

    def _run_block(
        self, block: int, branches: Branches, student: Weights, teacher: Weights
    ) -> None:
        name = vit.block_name(block)
        attention = {}
        for branch, tokens, weights in _present(branches, student, teacher):
            attention[branch] = self._attend(block, tokens, weights)
            tokens.x = attention[branch].tokens
        self._policy.before_mlp(block, branches, attention)
        for _, tokens, weights in _present(branches, student, teacher):
            tokens.x = vit.feed_forward(weights, name, tokens.x)

    def _attend(self, block: int, tokens: Tokens, weights: Weights) -> Attention:
        is_last = block == self._model.depth - 1
        queries = 1 if is_last and not self._all_tokens else None
        bias = None if tokens.sizes is None else tokens.sizes.log()[:, None, None, :]
        return vit.attend(
            weights,
            vit.block_name(block),
            self._model.heads,
            tokens.x,
            queries=queries,
            bias=bias,
        )

    def _encoding(
        self, weights: Weights, tokens: Tokens | None, views: int
    ) -> Encoding | None:
        if tokens is None:
            return None
        rows = tokens.x if self._all_tokens else tokens.x[:, 0]
        values = vit.layer_norm(weights, f"{vit.ENCODER}norm", rows)
        features = pooled(values, self._model.features) if self._all_tokens else values
        return Encoding(
            features=by_view(features, views),
            kept=by_view(tokens.kept, views),
            tokens=by_view(values, views) if self._all_tokens else None,
        )


def pooled(tokens: Tensor, features: str) -> Tensor:
    """Features of an image: (S, 1 + K, D) after the final norm -> (S, D)."""
    return tokens[:, 0] if features == vit.CLASS_TOKEN else tokens[:, 1:].mean(dim=1)


def by_view(rows: Tensor, views: int) -> Tensor:
    """(V * B, ...) -> (V, B, ...)."""
    return rows.reshape(views, -1, *rows.shape[1:])


def _present(
    branches: Branches, student: Weights, teacher: Weights
) -> list[tuple[str, Tokens, Weights]]:
    """The present branches, with their weights."""
    both = ((STUDENT, branches.student, student), (TEACHER, branches.teacher, teacher))
    return [(name, tokens, weights) for name, tokens, weights in both if tokens is not None]


def embed(weights: Weights, model: ModelFacts, grid: PatchGrid, images: Tensor) -> Tensor:
    """Features of images without pruning: (R, size, size, 3) uint8 -> (R, D)."""
    tokens = grid.embed(weights, grid.cut(images), grid.positions(weights))
    short = model.features == vit.CLASS_TOKEN
    for block in range(model.depth):
        name, is_last = vit.block_name(block), block == model.depth - 1
        queries = 1 if is_last and short else None
        attention = vit.attend(weights, name, model.heads, tokens, queries=queries)
        tokens = vit.feed_forward(weights, name, attention.tokens)
    if short:
        return vit.layer_norm(weights, f"{vit.ENCODER}norm", tokens[:, 0])
    return pooled(vit.layer_norm(weights, f"{vit.ENCODER}norm", tokens), model.features)
