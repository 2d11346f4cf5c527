"""`simprune`: prune pairs of tokens that are similar across the branches.

SimPrune (ICLR 2025). Published: cosine similarity between the branches, pruning in pairs
after the 4th, 7th and 10th block's attention, a window that slides from the least to the most
similar pairs over the run. Chosen here, since no source gives the details: the window is as
long as the number of pruned tokens, features are the tokens after the residual, and
many-to-one matches are resolved by pruning the unmatched targets whose best similarity is
nearest to that of the pruned tokens. With `paired = false`, ours too, each branch applies the
window to the ranks of its own best similarities.

Methods with a teacher pair view 1 of the student with view 2 of the teacher and the other way
round; a shared encoder pairs its two views. A teacher that runs before the step's graph keeps
all tokens, and hands over those at the three places; only the student loses tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.declaration import Declaration
from edge_export.policies.base import (
    Branches,
    PolicySetting,
    TokenPolicy,
    Tokens,
    kept_count,
    require_two_views,
    stage_blocks,
)
from edge_export.vit import Attention
from edge_runtime.errors import ConfigError
from edge_runtime.package.curves import Curve

PROGRESS = "progress"  # hyper-parameter: completed share of the run, in [0, 1]
PLACEMENTS = ("before-mlp", "before-block", "after-block")
DIRECTIONS = ("least-to-most", "most-to-least")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options in `[tokens]`."""

    placement: str = PLACEMENTS[0]
    direction: str = DIRECTIONS[0]
    paired: bool = True  # False: each branch prunes by its own ranks

    def __post_init__(self) -> None:
        for key, known in (("placement", PLACEMENTS), ("direction", DIRECTIONS)):
            if (value := getattr(self, key)) not in known:
                raise ConfigError(
                    f"tokens.{key}: unknown {value!r}; known are {', '.join(known)}."
                )


class SimPrunePolicy(TokenPolicy):
    """Both branches lose the same number of tokens at each stage."""

    name = "simprune"
    uses_keep_ratio = True
    pairs_branches = True
    options = Options

    def __init__(self, setting: PolicySetting) -> None:
        super().__init__(setting)
        require_two_views(setting, self.name)
        placement: str = setting.options.placement
        self._in_block = placement == "before-mlp"
        self._stages = stage_blocks(setting.model.depth, after=placement == "after-block")

    @property
    @override
    def changes_in_block(self) -> bool:
        return self._in_block

    @property
    @override
    def declaration(self) -> Declaration:
        progress = Curve(shape="linear", first=0.0, final=1.0)
        return Declaration(hyper_parameters={PROGRESS: progress})

    @property
    @override
    def recorded_blocks(self) -> tuple[str, ...]:
        return tuple(str(block) for block in self._stages)

    @override
    def teacher_recorder(self) -> TokenPolicy:
        return _BlockRecorder(self.setting)

    @override
    def before_block(self, block: int, branches: Branches) -> None:
        if not self._in_block:
            self._prune(block, branches)

    @override
    def before_mlp(
        self, block: int, branches: Branches, attention: Mapping[str, Attention]
    ) -> None:
        if self._in_block:
            self._prune(block, branches)

    def _prune(self, block: int, branches: Branches) -> None:
        student, teacher = branches.student, branches.teacher
        if student is None or block not in self._stages:
            return
        patches = student.kept.shape[1]
        kept = kept_count(self.setting.keep_ratio, patches)
        if kept == patches:
            return
        progress = branches.inputs[PROGRESS]
        if self.setting.options.direction == DIRECTIONS[1]:
            progress = 1 - progress
        place = f"{branches.group.name}.{block}"
        if str(block) in branches.teacher_tokens:
            of_teacher = _swap_views(branches.teacher_tokens[str(block)])[:, 1:]
            online_keep = select_alone(student.x[:, 1:], of_teacher, kept, progress)
            student.keep(online_keep)
            branches.selected[f"kept.online.{place}"] = online_keep
            return
        online, target = _pairs(student, teacher)
        paired = self.setting.options.paired
        online_keep, target_keep = select_pairs(online, target, kept, progress, paired)
        if teacher is None:
            student.keep(torch.cat([online_keep, target_keep]))
        else:
            student.keep(online_keep)
            teacher.keep(_swap_views(target_keep))
        branches.selected |= {
            f"kept.online.{place}": online_keep,
            f"kept.target.{place}": target_keep,
        }


class _BlockRecorder(SimPrunePolicy):
    """Records all tokens at the places where the other one prunes."""

    @override
    def _prune(self, block: int, branches: Branches) -> None:
        if branches.student is not None and block in self._stages:
            branches.recorded[str(block)] = branches.student.x


def _pairs(student: Tokens, teacher: Tokens | None) -> tuple[Tensor, Tensor]:
    """Patch tokens of the student and, row by row, of the paired view: (S, N, D) each."""
    if teacher is None:
        first, second = student.x.chunk(2)
        return first[:, 1:], second[:, 1:]
    return student.x[:, 1:], _swap_views(teacher.x)[:, 1:]


def _swap_views(tokens: Tensor) -> Tensor:
    first, second = tokens.chunk(2)
    return torch.cat([second, first])


def select_pairs(
    online: Tensor, target: Tensor, kept: int, progress: Tensor, paired: bool = True
) -> tuple[Tensor, Tensor]:
    """The patch tokens that each branch keeps; no gradient flows through the choice.

    Args:
        online: (S, N, D).
        target: (S, N, D), the paired view.
        kept: K, tokens to keep; P = N - K are pruned.
        progress: scalar in [0, 1], the position of the window.
        paired: whether the target loses the partners of the pruned online tokens; otherwise
            it loses those in the window over its own best similarities.

    Returns:
        Two (S, K) int64 tensors of ascending indices.
    """
    similarity = _similarity(online, target)
    of_target = similarity.amax(dim=1)  # (S, N)
    online_keep, pruned, scores = _window(similarity.amax(dim=2), kept, progress)
    if paired:
        hit_target = similarity.argmax(dim=2).gather(1, pruned)  # (S, P)
        target_keep = _repair(hit_target, of_target, scores.mean(dim=1, keepdim=True), kept)
    else:
        target_keep = _window(of_target, kept, progress)[0]
    return _ascending(online_keep), _ascending(target_keep)


def select_alone(online: Tensor, target: Tensor, kept: int, progress: Tensor) -> Tensor:
    """The patch tokens that the student keeps beside a teacher that keeps all of its own.

    Args:
        online: (S, N, D).
        target: (S, T, D), the paired view; as many tokens as it has.
        kept: K, tokens to keep.
        progress: as of `select_pairs`.

    Returns:
        (S, K) int64, ascending.
    """
    best = _similarity(online, target).amax(dim=2)  # (S, N)
    return _ascending(_window(best, kept, progress)[0])


def _similarity(online: Tensor, target: Tensor) -> Tensor:
    """Cosines of all pairs, without gradient: (S, N, D), (S, T, D) -> (S, N, T)."""
    u, v = normalize(online.detach(), dim=2), normalize(target.detach(), dim=2)
    return u @ v.transpose(1, 2)


def _window(best: Tensor, kept: int, progress: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens outside the window over the ranks of their best similarities, and those inside.

    Returns:
        (S, K) and (S, P) int64, from the least to the most similar; similarities of the
        second, (S, P).
    """
    ascending, order = best.sort(dim=1, stable=True)
    pruned = best.shape[1] - kept
    # Of kept + 1 places for the window, the nearest
    offset = torch.floor(progress * kept + 0.5).to(torch.int64)
    inside = offset + torch.arange(pruned)
    outside = torch.arange(kept)
    outside = outside + pruned * (outside >= offset).to(torch.int64)
    return (
        order.index_select(1, outside),
        order.index_select(1, inside),
        ascending.index_select(1, inside),
    )


def _repair(hit_target: Tensor, best: Tensor, centre: Tensor, kept: int) -> Tensor:
    """Target tokens to keep: none that matches a pruned token, and exactly `kept`.

    Matches are often fewer than P because several tokens share a partner; the others to prune
    are those whose best similarity (S, N) is nearest to the window's mean (S, 1).
    """
    tokens = torch.arange(best.shape[1])
    hit = (hit_target[:, :, None] == tokens).to(best.dtype).amax(dim=1)  # (S, N)
    score = 10 * hit - (best - centre).abs()  # both cosines are within [-1, 1]
    order = score.sort(dim=1, stable=True, descending=True)[1]
    return order[:, best.shape[1] - kept :]


def _ascending(index: Tensor) -> Tensor:
    return index.sort(dim=1, stable=True)[0]
