"""`ranked`: keep the patch tokens to which a trained ranker gives the highest scores.

Patch Ranking (Wu et al. 2025, WACV, arXiv 2409.14607): a light predictor learns in which order
the patches of a picture can be left out with the least change of a frozen encoder's output,
the *golden ranking* (`edge_export.ranking`). From the authors' code (CEWu/PatchRanking, as
reported): its input are the tokens after block 3 of 12, its width is 64. From the paper:
learnable tokens that are appended after the pruning.

Chosen here: instead of a block of an MLP-Mixer, a small form of DynamicViT's predictor (Rao et
al. 2021, arXiv 2106.02034): each token is seen beside the mean of all; in their code half of
the channels are of the token and the other half of the mean, here all of them are of both. It
has no weight per place, so it also ranks tokens that another policy has left, or those of
another patch size. Student and teacher prune by their own tokens. The predictor is trained
before the run and stays as it is.

Letters as in `edge_export.policies.base`; R repair tokens.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import gelu
from typing_extensions import override

from edge_export import vit
from edge_export.declaration import STUDENT, Declaration
from edge_export.parameters import Buffer, Parameter, initial_values, linear, norm
from edge_export.policies.base import (
    Branches,
    PolicySetting,
    TokenPolicy,
    Tokens,
    kept_count,
    refuse_single_patches,
    topk_indices,
)
from edge_export.vit import ENCODER, MEAN_PATCHES, Weights
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import ModelFacts
from edge_runtime.package.names import BUFFER
from edge_runtime.schema import Range

RANKER = "ranker"  # prefix of its weights
CHANNELS = 64
# Below the encoder's prefix: where there is an EMA teacher, it has its own
REPAIR_TOKENS = f"{ENCODER}repair_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options in `[tokens]`."""

    # Blocks before the pruning; None: a quarter of them
    after: Annotated[int, Range(ge=0, le=999)] | None = None
    repair: Annotated[int, Range(ge=0, le=4)] = 0  # R


class RankedPolicy(TokenPolicy):
    """Drops the tokens with the lowest scores, once, in each branch."""

    name = "ranked"
    uses_keep_ratio = True
    options = Options

    def __init__(self, setting: PolicySetting) -> None:
        super().__init__(setting)
        self._after = blocks_before(setting.model, setting.options)
        self._names = [each.name for each in ranker_parameters(setting.model.width)]
        if setting.options.repair:
            _refuse_repair(setting)

    @property
    @override
    def declaration(self) -> Declaration:
        width, repair = self.setting.model.width, self.setting.options.repair
        tokens = Parameter(
            name=REPAIR_TOKENS, shape=(1, repair, width), init="truncated_normal"
        )
        return Declaration(
            parameters=(tokens,) if repair else (),
            buffers=tuple(
                Buffer(name=k, initial=v) for k, v in initial_ranker_weights(width).items()
            ),
        )

    @override
    def before_block(self, block: int, branches: Branches) -> None:
        if block != self._after:
            return
        for branch, tokens in branches.present.items():
            patches = tokens.kept.shape[1]
            kept = kept_count(self.setting.keep_ratio, patches)
            if kept < patches:
                place = f"{branch}.{branches.group.name}.{block}"
                branches.selected[f"kept.ranked.{place}"] = self._prune(tokens, kept, branches)
                self._repair(tokens, branch, branches)

    def _prune(self, tokens: Tokens, kept: int, branches: Branches) -> Tensor:
        """Keep the most important tokens; returns their places, (S, K) int64."""
        ranker = {name: branches.inputs[BUFFER + name] for name in self._names}
        index = topk_indices(importance(ranker, tokens.x), kept)
        tokens.keep(index)
        return index

    def _repair(self, tokens: Tokens, branch: str, branches: Branches) -> None:
        if self.setting.options.repair:
            weights = branches.weights if branch == STUDENT else branches.teacher_weights
            tokens.append(weights[REPAIR_TOKENS].expand(tokens.x.shape[0], -1, -1))


def blocks_before(model: ModelFacts, options: Options) -> int:
    """The number of blocks before the pruning.

    Raises:
        ConfigError: the encoder has no block after them.
    """
    if options.after is None:
        return min(max(1, model.depth // 4), model.depth - 1)
    if options.after >= model.depth:
        raise ConfigError(
            f"tokens.after: expected 0 to {model.depth - 1}, since the model has "
            f"{model.depth} block(s) and pruning after the last one saves nothing, got "
            f"{options.after}"
        )
    return options.after


def _refuse_repair(setting: PolicySetting) -> None:
    refuse_single_patches(setting, "ranked with tokens.repair adds tokens of none")
    if setting.model.features == MEAN_PATCHES:
        raise ConfigError(
            "tokens.repair: with model.features 'mean-patches', features would be a mean "
            "over the repair tokens, too, which the exported encoder does not have. Use "
            "'class-token', or no repair tokens."
        )


def ranker_parameters(width: int) -> tuple[Parameter, ...]:
    """The weights of a ranker for tokens of this width; none of them per place."""
    return (
        *norm(f"{RANKER}.norm", width),
        *linear(f"{RANKER}.pool", width, CHANNELS),
        *linear(f"{RANKER}.mix", 2 * CHANNELS, CHANNELS),
        Parameter(name=f"{RANKER}.score.weight", shape=(CHANNELS,), init="truncated_normal"),
    )


def initial_ranker_weights(width: int, seed: int = 0) -> dict[str, Tensor]:
    """The weights of a ranker by name before it is trained."""
    return initial_values(ranker_parameters(width), seed)


def importance(ranker: Weights, x: Tensor) -> Tensor:
    """A score for each patch token, without gradient for the tokens.

    Args:
        ranker: its weights by name.
        x: (S, 1 + N, D), class token first.

    Returns:
        (S, N); the larger, the more the features change without the token.
    """
    rows = vit.layer_norm(ranker, f"{RANKER}.norm", x[:, 1:].detach())
    local = gelu(vit.affine(ranker, f"{RANKER}.pool", rows))  # (S, N, C)
    shared = local.mean(dim=1, keepdim=True).expand_as(local)
    both = torch.cat([local, shared], dim=2)
    mixed = gelu(vit.affine(ranker, f"{RANKER}.mix", both))
    return (mixed * ranker[f"{RANKER}.score.weight"]).sum(dim=2)
