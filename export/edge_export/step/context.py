"""What a loss reads: one training step as named tensors.

Letters: V views, B images, N patches, K patch tokens that are left, D encoder width, P = patch
pixels * 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from edge_export.vit import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What a branch makes of a view group, after the encoder's final norm."""

    features: Tensor  # (V, B, D): class token or mean of the patch tokens, as the model says
    kept: Tensor  # (V, B, K) int64, the patch that each patch token stands for
    tokens: Tensor | None  # (V, B, 1 + K, D); None: the view group does not ask for them

    @property
    def class_token(self) -> Tensor:
        """(V, B, D)."""
        return self._all[:, :, 0]

    @property
    def patch_tokens(self) -> Tensor:
        """(V, B, K, D)."""
        return self._all[:, :, 1:]

    @property
    def _all(self) -> Tensor:
        if self.tokens is None:
            raise ValueError("the view group does not declare `patch_tokens`")
        return self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """One step as an objective's or a policy's loss sees it."""

    weights: Weights  # the student's, by parameter name
    teacher_weights: Weights  # the EMA copies of those that have one
    student: Mapping[str, Encoding]  # by view group
    teacher: Mapping[str, Encoding]  # by view group, without gradient
    patches: Mapping[str, Tensor]  # by view group: (V, B, N, P), normalised pixels
    draws: Mapping[str, Tensor]
    hyper: Mapping[str, Tensor]  # scalars of this step
    buffers: Mapping[str, Tensor]  # before this step
    # By view group: what the token policy noted while the blocks ran
    recorded: Mapping[str, Mapping[str, Tensor]]
