"""`tome`: merge the patch tokens whose keys are most similar, a few in every block.

ToMe (Bolya et al. 2023, arXiv 2210.09461), bipartite soft matching, from the authors' code.
After a block's attention the patch tokens are split in two: sources and targets alternate.
Each source is matched with the target of the largest cosine similarity of their keys (the mean
over the heads). The r best matched sources are merged into their targets: a mean, weighted by
the number of patches in each token. That number's logarithm is added to the token's scores in
later attentions. The class token is never merged. The order afterwards is the authors': class
token, sources that are left, targets.

Each branch merges by its own keys, the teacher, too. Chosen here: the keep-ratio is the share
of tokens after the last block, and each block merges the same number of tokens, up to
rounding. As there, a block merges half of its tokens at most, so a small keep-ratio may not
be reached. The sum over merged tokens is a matrix product, which has fast kernels on all
devices and adds in a fixed order; scatter-add on a GPU does not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from edge_export.policies.base import (
    Branches,
    PolicySetting,
    TokenPolicy,
    Tokens,
    kept_count,
    refuse_single_patches,
)
from edge_export.vit import Attention


class TomePolicy(TokenPolicy):
    """Merges tokens after the attention of every block."""

    name = "tome"
    uses_keep_ratio = True
    reads_attention = True

    def __init__(self, setting: PolicySetting) -> None:
        super().__init__(setting)
        refuse_single_patches(setting, "tome joins several in one token")

    @override
    def before_mlp(
        self, block: int, branches: Branches, attention: Mapping[str, Attention]
    ) -> None:
        for branch, tokens in branches.present.items():
            count = self._merged_in(block, tokens)
            if count == 0:
                continue
            keys = attention[branch].keys[:, :, 1:].mean(dim=1)  # (S, K, D / H)
            slot = matched(keys, count)
            branches.selected[f"slot.{branch}.{branches.group.name}.{block}"] = slot
            merge(tokens, slot, slot.shape[1] - count)

    def _merged_in(self, block: int, tokens: Tokens) -> int:
        """The number of tokens that a block merges into others."""
        depth, patches = self.setting.model.depth, tokens.embedded
        whole = patches - kept_count(self.setting.keep_ratio, patches)
        share = whole * (block + 1) // depth - whole * block // depth
        return min(share, tokens.kept.shape[1] // 2)


def matched(keys: Tensor, count: int) -> Tensor:
    """The token of the merged sequence that each patch token becomes or is merged into.

    No gradient flows through the choice. Of equal similarities the first target and the first
    sources count.

    Args:
        keys: (S, K, D) of the patch tokens; those at odd places are sources, the others
            targets.
        count: r, sources to merge.

    Returns:
        (S, K) int64 in [0, K - r): sources that are left come first, then all targets.
    """
    unit = normalize(keys.detach(), dim=2)
    similarity = unit[:, 1::2] @ unit[:, ::2].transpose(1, 2)  # (S, sources, targets)
    best, target = similarity.amax(dim=2), similarity.argmax(dim=2)  # (S, sources)
    order = best.sort(dim=1, stable=True, descending=True)[1]
    rank = order.sort(dim=1, stable=True)[1]  # the inverse permutation
    is_left = rank >= count
    sources, targets = similarity.shape[1:]
    left = sources - count
    place = is_left.to(torch.int64).cumsum(dim=1) - 1
    of_sources = torch.where(is_left, place, left + target)
    of_targets = (left + torch.arange(targets)).expand(len(keys), -1)
    both = torch.cat([of_targets, of_sources], dim=1)
    return both.index_select(1, _interleaved(targets, sources))


def _interleaved(first: int, second: int) -> Tensor:
    """Where 0, 1, 2, ... stand in [0, 2, 4, ..., 1, 3, 5, ...]."""
    places = torch.arange(first + second)
    return places // 2 + first * (places % 2)


def merge(tokens: Tokens, slot: Tensor, left: int) -> None:
    """Join the tokens of each slot in their mean, weighted by their sizes.

    Args:
        tokens: with K patch tokens.
        slot: (S, K) int64, as from `matched`.
        left: K', number of slots, none of which is empty.
    """
    slots = torch.cat([torch.zeros_like(slot[:, :1]), slot + 1], dim=1)  # with the class token
    is_in = slots[:, None] == torch.arange(1 + left)[:, None]  # (S, 1 + K', 1 + K)
    sizes = is_in.to(tokens.x.dtype)
    if tokens.sizes is not None:
        sizes = sizes * tokens.sizes[:, None]
    tokens.sizes = sizes.sum(dim=2)
    tokens.x = (sizes / tokens.sizes[:, :, None]) @ tokens.x
    of_patches = is_in[:, 1:, 1:].to(torch.int64)
    is_single = of_patches.sum(dim=2) == 1
    tokens.kept = torch.where(is_single, (of_patches * tokens.kept[:, None]).sum(dim=2), -1)
