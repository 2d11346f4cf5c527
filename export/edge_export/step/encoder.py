"""The encoder of both branches, block by block, with the token policy in between."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_export import vit
from edge_export.context import Encoding
from edge_export.declaration import STUDENT, TEACHER, ViewGroup
from edge_export.patches import PatchGrid
from edge_export.policies.base import (
    Branches,
    TokenPolicy,
    Tokens,
    take_rows,
)
from edge_export.vit import Attention, Weights
from edge_runtime.package.manifest import ModelFacts
from edge_runtime.package.names import IMAGES_PREFIX, TEACHER_PREFIX


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
        self,
        model: ModelFacts,
        group: ViewGroup,
        grid: PatchGrid,
        policy: TokenPolicy,
        taps: Collection[int] = (),
    ) -> None:
        """Bind the parts; `taps`: numbers of blocks, see `Encoding.taps`."""
        self._model, self._group, self._grid, self._policy = model, group, grid, policy
        self._taps = taps
        # Otherwise only the class token matters after the last attention.
        self._all_tokens = group.patch_tokens or model.features == vit.MEAN_PATCHES

    def encode(
        self, student: Weights, teacher: Weights, inputs: Mapping[str, Tensor]
    ) -> Encoded:
        """Run all blocks on both branches.

        Args:
            student: weights by parameter name.
            teacher: the same; empty without a teacher.
            inputs: images, draws, hyper-parameters and buffers by input name; the output of a
                teacher that ran before, if one did.
        """
        images = inputs[IMAGES_PREFIX + self._group.name]  # (V, B, height, width, 3)
        patches = self._grid.cut(images.flatten(0, 1))  # (S, N, P)
        group, views = self._group, len(self._group.views)
        before = inputs.get(TEACHER_PREFIX + group.name)
        encoding, tokens = (None, {}) if before is None else self._of_teacher(before)
        branches = Branches(
            group=group,
            student=self._embed(STUDENT, student, patches, inputs) if group.student else None,
            teacher=self._embed(TEACHER, teacher, patches, inputs)
            if group.teacher and teacher and before is None
            else None,
            inputs=inputs,
            weights=student,
            teacher_weights=teacher,
            teacher_tokens=tokens,
        )
        counts = []
        for block in range(self._model.depth):
            self._policy.before_block(block, branches)
            if branches.student is not None:
                counts.append(branches.student.x.shape[1])
            self._run_block(block, branches)
        dtype = next(iter(student.values())).dtype
        return Encoded(
            student=self._encoding(student, branches.student, views),
            teacher=encoding or self._encoding(teacher, branches.teacher, views),
            selected=branches.selected,
            recorded=branches.recorded,
            patches=by_view(vit.normalise(self._model, patches, dtype), views),
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

    def _run_block(self, block: int, branches: Branches) -> None:
        present = _present(branches)
        short = not self._all_tokens and block == self._model.depth - 1
        attention = {}
        for branch, tokens, weights in present:
            attention[branch] = attend(weights, self._model, block, tokens, short=short)
            tokens.x = attention[branch].tokens
        if not short:
            self._policy.before_mlp(block, branches, attention)
        for _, tokens, weights in present:
            tokens.x = vit.feed_forward(weights, vit.block_name(block), tokens.x)
            if block + 1 in self._taps:
                tokens.taps[block + 1] = pooled(tokens.x, self._model.features, tokens.sizes)

    def features(self, weights: Weights, images: Tensor) -> Tensor:
        """Features of images as the student sees them: (S, size, size, 3) uint8 -> (S, D).

        Behind them, what the policy hands over: (S, E).
        """
        x = self._grid.embed(weights, self._grid.cut(images), self._grid.positions(weights))
        tokens = Tokens(x, torch.arange(self._grid.patches)[None])
        branches = Branches(self._group, tokens, None, {}, weights, {})
        for block in range(self._model.depth):
            self._policy.before_block(block, branches)
            self._run_block(block, branches)
        features = self._normalised(weights, tokens)[1]
        recorded = [
            branches.recorded[name].flatten(1) for name in self._policy.recorded_blocks
        ]
        return torch.cat([features, *recorded], dim=1) if recorded else features

    def _of_teacher(self, output: Tensor) -> tuple[Encoding, dict[str, Tensor]]:
        """Features and tokens in the output (V, B, E) of a teacher that ran before."""
        width, tokens = self._model.width, self._model.tokens
        views, count, _ = output.shape
        kept = torch.arange(tokens - 1).expand(views, count, -1)
        length = tokens * width
        by_block = {
            name: output.narrow(2, width + i * length, length).reshape(-1, tokens, width)
            for i, name in enumerate(self._policy.recorded_blocks)
        }
        return Encoding(features=output[:, :, :width], kept=kept, tokens=None), by_block

    def _encoding(
        self, weights: Weights, tokens: Tokens | None, views: int
    ) -> Encoding | None:
        if tokens is None:
            return None
        values, features = self._normalised(weights, tokens)
        return Encoding(
            features=by_view(features, views),
            kept=by_view(tokens.kept, views),
            tokens=by_view(values, views) if self._all_tokens else None,
            taps={blocks: by_view(each, views) for blocks, each in tokens.taps.items()},
        )

    def _normalised(self, weights: Weights, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The needed tokens after the final norm, and their features."""
        rows = tokens.x if self._all_tokens else tokens.x[:, 0]
        values = vit.layer_norm(weights, f"{vit.ENCODER}norm", rows)
        if not self._all_tokens:
            return values, values
        return values, pooled(values, self._model.features, tokens.sizes)


def pooled(tokens: Tensor, features: str, sizes: Tensor | None = None) -> Tensor:
    """Features of an image: (S, 1 + K, D) -> (S, D).

    The mean over patch tokens is one over patches, if `sizes` (S, 1 + K) says how many each
    token has: ToMe, from the authors' code for MAE.
    """
    if features == vit.CLASS_TOKEN:
        return tokens[:, 0]
    if sizes is None:
        return tokens[:, 1:].mean(dim=1)
    weights = sizes[:, 1:, None]
    return (tokens[:, 1:] * weights).sum(dim=1) / weights.sum(dim=1)


def by_view(rows: Tensor, views: int) -> Tensor:
    """(V * B, ...) -> (V, B, ...)."""
    return rows.reshape(views, -1, *rows.shape[1:])


def attend(
    weights: Weights, model: ModelFacts, block: int, tokens: Tokens, *, short: bool
) -> Attention:
    """Attention of a block; if `short`, only the class token is a query."""
    bias = None if tokens.sizes is None else tokens.sizes.log()[:, None, None, :]
    return vit.attend(
        weights,
        vit.block_name(block),
        model.heads,
        tokens.x,
        queries=1 if short else None,
        bias=bias,
    )


def _present(branches: Branches) -> list[tuple[str, Tokens, Weights]]:
    """The branches that this view group has, with their weights."""
    weights = {STUDENT: branches.weights, TEACHER: branches.teacher_weights}
    return [(name, tokens, weights[name]) for name, tokens in branches.present.items()]
