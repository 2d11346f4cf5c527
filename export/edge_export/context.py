"""The input of a loss: one training step as named tensors.

Letters: V views, B images, N patches, K remaining patch tokens, D encoder width, P = patch
pixels * 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from edge_export.vit import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """A view group encoded by a branch, after the encoder's final norm."""

    features: (
        Tensor  # (V, B, D): class token or mean of the patch tokens, see `ModelFacts.features`
    )
    kept: Tensor  # (V, B, K) int64, the patch of each patch token; -1: of no single one
    tokens: Tensor | None  # (V, B, 1 + K, D); None: the view group does not declare them
    # (V, B, D) each: features after so many blocks, before the final norm; only where a part
    # of the step asks for them
    taps: Mapping[int, Tensor] = field(default_factory=dict)

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
    """One step, as passed to the loss of an objective or a policy."""

    weights: Weights  # the student's, by parameter name
    teacher_weights: Weights  # the EMA copies
    student: Mapping[str, Encoding]  # by view group
    teacher: Mapping[str, Encoding]  # by view group, without gradient
    patches: Mapping[str, Tensor]  # by view group: (V, B, N, P), normalised pixels
    # By view group: (V, B, E) float32, features by the frozen encoder, whose width is E
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Mapping[str, Tensor]
    hyper: Mapping[str, Tensor]  # scalars of this step
    buffers: Mapping[str, Tensor]  # before this step
    # By view group: recorded by the token policy while the blocks ran
    recorded: Mapping[str, Mapping[str, Tensor]]
