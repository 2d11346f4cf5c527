"""Train the ranker of token policy `ranked` on the golden rankings of a frozen encoder.

Patch Ranking (Wu et al. 2025, WACV, arXiv 2409.14607). From the authors' code
(CEWu/PatchRanking, as reported): each remaining patch of a picture is left out in turn, all
variants in one batch; the patches whose absence changes the output the least, by its cosine,
are removed, 10 of 197 per round; a light predictor learns the ranking with Adam, learning rate
1e-3 falling to 1e-4 by half a cosine, weight decay 1e-4, 50 epochs; held-out pictures are
judged by the share of the least important patches that both rankings have in common.

Chosen here: the output is compared with that of all tokens, whatever has been removed, so that
the changes add up; rounds go on until every patch has its rank, since a rung may keep any
number (theirs end after 6 rounds; all 20 take about half as long again); the loss is RankNet's
(Burges et al. 2005), the logistic loss of all pairs of patches of a picture, for the same
reason (theirs: KL divergence from a softmax over the 50 least important ones); the least
important quarter is compared (theirs: 50 of 197).

Letters: S pictures, N patches, D width, B blocks before the pruning.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from edge_export import vit
from edge_export.package.initial import encoder_from_timm, encoder_source
from edge_export.package.ranker import AFTER
from edge_export.patches import PatchGrid
from edge_export.policies import policies_named
from edge_export.policies.base import take_tokens
from edge_export.policies.ranked import (
    RankedPolicy,
    blocks_before,
    importance,
    initial_ranker_weights,
)
from edge_export.recipe import Recipe
from edge_export.step.encoder import pooled
from edge_export.step.program import Program
from edge_export.vit import Weights
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import ModelFacts, ViewGroup
from edge_runtime.state import Array
from edge_runtime.version import __version__

ROUNDS = 20
VARIANTS = 256  # that run at once, about
HELD_OUT = 0.2  # share of the pictures
QUARTER = 0.25
EPOCHS, BATCH = 50, 32
FIRST_RATE, LAST_RATE, DECAY = 1e-3, 1e-4, 1e-4
_PROCESS_BYTES = 500 << 20  # libraries, and decoding
_BLOCK_TENSORS = 12  # of (variants, tokens, width), in a block without gradient

Report = Callable[[str], None]


class Overlap(NamedTuple):
    """Shares of the golden least important quarter that a ranking has there, too; means."""

    ranker: float
    attention: float  # of the class token, as policy `evit` would prune at that place
    random: float  # expected of a random ranking


class TrainedRanker(NamedTuple):
    """The content of a ranker's file, and how good it is."""

    weights: dict[str, Array]
    metadata: dict[str, str]
    overlap: Overlap  # on the held-out pictures
    held_out: int  # pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitEncoder:
    """A frozen encoder in two parts: up to the place of the pruning, and from there on."""

    model: ModelFacts
    weights: Weights
    after: int  # B

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens after B blocks: (S, size, size, 3) uint8 -> (S, 1 + N, D)."""
        size_px, patch_size_px = images.shape[1], self.model.patch_size_px
        grid = PatchGrid(self.model, size_px=size_px, patch_size_px=patch_size_px)
        x = grid.embed(self.weights, grid.cut(images), grid.positions(self.weights))
        return self._blocks(x, range(self.after))

    def features(self, x: Tensor) -> Tensor:
        """Features of all or some tokens after B blocks: (S, 1 + K, D) -> (S, D)."""
        x = self._blocks(x, range(self.after, self.model.depth))
        values = vit.layer_norm(self.weights, f"{vit.ENCODER}norm", x)
        return pooled(values, self.model.features)

    def attention(self, x: Tensor) -> Tensor:
        """Attention of the class token in the next block, its mean over the heads: (S, N)."""
        name = vit.block_name(self.after)
        attention = vit.attend(self.weights, name, self.model.heads, x, queries=1)
        return attention.probabilities[:, :, 0, 1:].mean(dim=1)

    def _blocks(self, x: Tensor, blocks: range) -> Tensor:
        for block in blocks:
            x = vit.block(self.weights, vit.block_name(block), self.model.heads, x)
        return x


def view_group(recipe: Recipe) -> ViewGroup:
    """The view of the recipe's method that the pictures of `train_ranker` show.

    Raises:
        ConfigError: its token policy has no ranker.
    """
    if RankedPolicy not in policies_named(recipe.tokens.name):
        raise ConfigError(
            f"tokens.name: {recipe.tokens.name!r} has no ranker. Use {RankedPolicy.name!r}."
        )
    group = next(group for group in Program(recipe).views if group.pruned)
    return ViewGroup(name=group.name, size_px=group.size_px, views=group.views[:1])


def ranking_bytes(recipe: Recipe, pictures: int) -> int:
    """Peak bytes of `train_ranker`, within about a factor of 2."""
    model = recipe.facts()
    kept = 3 * model.image_size_px**2 + 4 * model.tokens * model.width
    variants = max(VARIANTS, model.tokens) * model.tokens
    numbers = variants * (_BLOCK_TENSORS * model.width + 2 * model.heads * model.tokens)
    weights = sum(math.prod(each.shape) for each in vit.encoder_parameters(model))
    # The weights of the file, and those of the encoder, while one is made from the other
    return _PROCESS_BYTES + 2 * pictures * kept + 4 * (numbers + 2 * weights)


def split_encoder(recipe: Recipe, init: Path) -> SplitEncoder:
    """The encoder of a timm checkpoint, at the place where the recipe prunes.

    Raises:
        ConfigError: the checkpoint is missing, or of another model.
    """
    model = recipe.facts()
    declared = vit.encoder_parameters(model)
    return SplitEncoder(
        model=model,
        weights=encoder_from_timm(encoder_source(init), model, declared),
        after=blocks_before(model, recipe.token_options(RankedPolicy)),
    )


@torch.no_grad()
def train_ranker(
    encoder: SplitEncoder, images: Array, *, seed: int, report: Report
) -> TrainedRanker:
    """Rank the patches of pictures by leaving them out, and train a ranker on that.

    Args:
        encoder: of the recipe.
        images: uint8 (S, size, size, 3), of `view_group`; at least two.
        seed: of the ranker.
        report: called with a line for each stage, and each percent of the search.
    """
    pictures = torch.from_numpy(images)
    held_out = max(1, round(HELD_OUT * len(pictures)))
    chunk = max(1, VARIANTS // (encoder.model.tokens - 1))
    tokens, golden = [], []
    done = 0
    for part in torch.split(pictures, chunk):
        tokens.append(encoder.tokens(part))
        golden.append(golden_ranking(encoder.features, tokens[-1]))
        before, done = done, done + len(part)
        if 100 * done // len(pictures) > 100 * before // len(pictures):
            report(f"golden rankings of {done} of {len(pictures)} pictures")
    x, ranking = torch.cat(tokens), torch.cat(golden)
    report(f"training on {len(pictures) - held_out} pictures")
    weights = fit_ranker(x[held_out:], ranking[held_out:], seed=seed)
    return TrainedRanker(
        weights={name: value.numpy() for name, value in weights.items()},
        metadata={"producer": f"edge-train {__version__}", AFTER: str(encoder.after)},
        overlap=_overlaps(encoder, weights, x[:held_out], ranking[:held_out]),
        held_out=held_out,
    )


def golden_ranking(features: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The patches of each picture in the order of their removal.

    In each round, those go whose absence leaves the features nearest to those of all tokens.

    Args:
        features: (S, 1 + K, D) -> (S, D'), of any number of tokens.
        x: (S, 1 + N, D), class token first.

    Returns:
        (S, N) int64, the least important first.
    """
    count, patches = x.shape[0], x.shape[1] - 1
    whole = normalize(features(x), dim=1)
    left = torch.arange(patches).expand(count, -1)
    per_round, removed = math.ceil(patches / ROUNDS), []
    while left.shape[1] > 1:
        changes = leave_one_out(features, take_tokens(x, left), whole)
        order = changes.sort(dim=1, stable=True)[1]
        removed.append(left.gather(1, order[:, :per_round]))
        left = left.gather(1, order[:, per_round:].sort(dim=1)[0])
    return torch.cat([*removed, left], dim=1)


def leave_one_out(features: Callable[[Tensor], Tensor], x: Tensor, whole: Tensor) -> Tensor:
    """How far the features are from `whole` without each patch in turn: 1 - cosine.

    Args:
        features: (S, 1 + K, D) -> (S, D').
        x: (S, 1 + N, D).
        whole: (S, D') of length 1.

    Returns:
        (S, N).
    """
    count, tokens = x.shape[:2]
    others = [[0, *(j for j in range(1, tokens) if j != i)] for i in range(1, tokens)]
    variants = x[:, torch.tensor(others)].flatten(0, 1)  # (S * N, N, D)
    near = normalize(features(variants), dim=1).reshape(count, tokens - 1, -1)
    # Half the squared distance: 1 - cos would lose what is left of float32 near 1
    return (near - whole[:, None]).square().sum(dim=2) / 2


@torch.enable_grad()
def fit_ranker(x: Tensor, ranking: Tensor, *, seed: int) -> dict[str, Tensor]:
    """The weights of a ranker that imitates rankings.

    Args:
        x: (S, 1 + N, D), tokens of the frozen encoder.
        ranking: (S, N) int64, of `golden_ranking`.
        seed: of initial weights and batches.
    """
    initial = initial_ranker_weights(x.shape[2], seed)
    weights = {name: value.requires_grad_() for name, value in initial.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=FIRST_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, LAST_RATE)
    ranks, generator = ranking.argsort(dim=1), torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            optimizer.zero_grad()
            loss = ranking_loss(importance(weights, x[batch]), ranks[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in weights.items()}


def ranking_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """RankNet: the mean of log(1 + exp(b - a)) over pairs of patches of a picture.

    Args:
        scores: (S, N); a is that of the more important patch of a pair, b the other's.
        ranks: (S, N) int64, 0 is the least important patch.
    """
    ahead = scores[:, :, None] - scores[:, None, :]
    is_pair = ranks[:, :, None] > ranks[:, None, :]
    return softplus(-ahead)[is_pair].mean()


def _overlaps(encoder: SplitEncoder, ranker: Weights, x: Tensor, golden: Tensor) -> Overlap:
    patches = golden.shape[1]
    count = max(1, round(QUARTER * patches))
    by_ranker = importance(ranker, x).argsort(dim=1)
    by_attention = encoder.attention(x).argsort(dim=1)
    return Overlap(
        ranker=overlap(by_ranker, golden, count),
        attention=overlap(by_attention, golden, count),
        random=count / patches,
    )


def overlap(first: Tensor, second: Tensor, count: int) -> float:
    """The mean share that the first `count` of two rankings (S, N) have in common."""
    same = first[:, :count, None] == second[:, None, :count]
    return float(same.sum(dim=(1, 2)).double().mean()) / count
