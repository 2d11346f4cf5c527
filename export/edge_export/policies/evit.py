"""`evit`: keep the patch tokens to which the class token attends most.

EViT (Liang et al. 2022, arXiv 2202.07800), from the authors' code: after the attention of
blocks 4, 7 and 10 of 12, the K = ceil(keep-ratio * N) tokens with the largest attention of the
class token, its mean over the heads, go on to the MLP. With `fuse` the others become one more
token: their sum, each times its attention, which is not divided by the sum of the attentions.
At the next stage that token is one of the N.

Each branch chooses by its own attention, the teacher, too. Chosen here: kept tokens stay in
their order, where the authors' are in the order of their attention (attention cannot tell);
the keep-ratio is that of the rung from the first step on, where theirs falls from 1 in the
course of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from edge_export.policies.base import (
    Branches,
    PolicySetting,
    TokenPolicy,
    Tokens,
    kept_count,
    refuse_single_patches,
    stage_blocks,
    topk_indices,
)
from edge_export.vit import Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options in `[tokens]`."""

    fuse: bool = False


class EvitPolicy(TokenPolicy):
    """Drops the tokens to which the class token attends least, at each stage."""

    name = "evit"
    uses_keep_ratio = True
    reads_attention = True
    options = Options

    def __init__(self, setting: PolicySetting) -> None:
        super().__init__(setting)
        self._stages = stage_blocks(setting.model.depth)
        if setting.options.fuse:
            refuse_single_patches(setting, "evit with tokens.fuse joins several in one token")

    @override
    def before_mlp(
        self, block: int, branches: Branches, attention: Mapping[str, Attention]
    ) -> None:
        if block not in self._stages:
            return
        for branch, tokens in branches.present.items():
            patches = tokens.kept.shape[1]
            kept = kept_count(self.setting.keep_ratio, patches)
            if kept == patches:
                continue
            of_class = attention[branch].probabilities[:, :, 0, 1:].mean(dim=1)  # (S, N)
            index = topk_indices(of_class, kept)
            branches.selected[f"kept.{branch}.{branches.group.name}.{block}"] = index
            others = fused(tokens, of_class, index) if self.setting.options.fuse else None
            tokens.keep(index)
            if others is not None:
                tokens.append(others)


def fused(tokens: Tokens, attention: Tensor, kept: Tensor) -> Tensor:
    """The sum of the tokens that are not kept, each times its attention.

    Gradients go to the tokens and to the attention.

    Args:
        tokens: of N patches.
        attention: (S, N).
        kept: (S, K) int64.

    Returns:
        (S, 1, D).
    """
    places = torch.arange(attention.shape[1])
    is_kept = (kept[:, :, None] == places).to(attention.dtype).sum(dim=1)  # (S, N)
    return (attention * (1 - is_kept))[:, None] @ tokens.x[:, 1:]
