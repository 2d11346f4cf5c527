"""Self-distillation across depths: the encoder's inner features predict its last ones.

After a third and two thirds of the blocks, a small head maps a picture's features there to
the encoder's width. The loss gets weight * mean of 1 - cos(head's output, final features); no
gradient goes through the final features. Heads are not exported.

Source: of arXiv 2112.13642 (self-distillation from features of several levels of one network)
only the abstract was at hand, which gives no detail. All of this is ours, after the
reconstruction in the style of Be Your Own Teacher (Zhang et al. 2019, arXiv 1905.08094), which
has labels: heads after shallow blocks that learn from the deepest one and are dropped.

Letters: V views of all view groups, B images, D encoder width.
"""

from dataclasses import dataclass

import torch

from edge_export.context import StepContext
from edge_export.declaration import Declaration, LossResult
from edge_export.objectives.cosine import cosine_distance
from edge_export.objectives.heads import Head
from edge_runtime.package.manifest import ModelFacts

NAME = "self_distillation"  # prefix of the heads, and the metric
DEPTHS = (1 / 3, 2 / 3)


@dataclass(frozen=True, slots=True)
class SelfDistillation:
    """A term of the loss; with weight 0 there is none, and no head."""

    model: ModelFacts
    weight: float

    @property
    def taps(self) -> tuple[int, ...]:
        """The numbers of blocks after which a head reads, ascending: 4 and 8 of 12.

        A model of two blocks has one, a model of one block none.
        """
        if not self.weight:
            return ()
        depth = self.model.depth
        blocks = sorted({round(depth * share) for share in DEPTHS})
        return tuple(block for block in blocks if 0 < block < depth)

    @property
    def declaration(self) -> Declaration:
        """The parameters of the heads."""
        heads = self._heads.values()
        return Declaration(parameters=tuple(p for head in heads for p in head.parameters))

    @property
    def _heads(self) -> dict[int, Head]:
        """By the number of blocks before them."""
        widths = (self.model.width,) * 3
        return {blocks: Head(name=f"{NAME}.{blocks}", widths=widths) for blocks in self.taps}

    def loss(self, step: StepContext) -> LossResult | None:
        """The weighted term, and the term itself as a metric."""
        if not self.taps:
            return None
        encodings = step.student.values()
        final = torch.cat([each.features for each in encodings]).detach()  # (V, B, D)
        distances = []
        for blocks, head in self._heads.items():
            inner = torch.cat([each.taps[blocks] for each in encodings])
            predicted = head(step.weights, inner)  # (V, B, D)
            distances.append(cosine_distance(predicted, final))
        distance = torch.stack(distances).mean()
        return LossResult(loss=distance * self.weight, metrics={NAME: distance})
