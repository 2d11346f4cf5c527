"""`random`: each picture keeps a random subset of its patches, from the first block on.

Accelerating Augmentation Invariance Pretraining (Lin et al. 2024), section 3.2-1 of our notes:
positions are added before dropping. The host draws the indices. Methods with an EMA teacher
drop in the student alone ("asymmetric"); a shared encoder drops in every view.
"""

from collections.abc import Mapping

from torch import Tensor

from edge_export import vit
from edge_export.policies.base import Setting, TokenPolicy, embed_all, kept_count, take_rows
from edge_export.vit import Weights
from edge_runtime.package.manifest import DrawSpec

DRAW = "keep.global"


class RandomPolicy(TokenPolicy):
    """Patches are dropped before the patch embedding, which then is cheaper too."""

    name = "random"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        patches = setting.model.tokens - 1
        self._kept = kept_count(setting.keep_ratio, patches)
        self._drops = self._kept < patches
        if self._drops:
            self.student_patches = self._kept
            self.student_tokens = [(1 + self._kept, 1 + self._kept)] * setting.model.depth
            draw = DrawSpec(
                input=DRAW, views=setting.views, kept=self._kept, population=patches
            )
            self.draws = (draw,)

    def embed_student(
        self, weights: Weights, patches: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Tokens of the drawn patches."""
        if not self._drops:
            return embed_all(weights, patches)
        kept = inputs[DRAW].flatten(0, 1)  # (S, K)
        positions = weights["pos_embed"][:, 1:].expand(patches.shape[0], -1, -1)
        return vit.embed(weights, take_rows(patches, kept), take_rows(positions, kept))
