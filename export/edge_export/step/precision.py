"""Half precision: float16 matrices, and a loss that is scaled for their gradients.

Master weights, their gradients, moments and the EMA teacher stay float32. A step casts the
matrices to float16; `edge_export.vit` says what that makes float16 (Micikevicius et al. 2018;
`torch.autocast` does the same to these layers).

Float16 has no numbers between 0 and 6e-8, where many gradients are. So the loss is multiplied
by a scale before its gradient, and the gradient divided by it after its cast to float32. The
scale follows `torch.amp.GradScaler` (its rule, `torch._amp_update_scale_`, and its defaults):
a step whose gradients are not finite changes nothing but the scale, which is halved; after
2000 updates in a row it is doubled.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from typing_extensions import override

from edge_export.declaration import Declaration
from edge_export.parameters import Buffer, Parameter
from edge_export.vit import Weights
from edge_runtime.package.names import (
    APPLIED,
    BUFFER,
    FP16,
    FP32,
    GOOD_STEPS,
    LOSS_SCALE,
)

INITIAL_SCALE = 2.0**16
GROWTH, BACKOFF = 2.0, 0.5
GROWTH_INTERVAL = 2000  # updates in a row
LARGEST_SCALE = 2.0**127  # of the powers of two in float32

Tensors = Mapping[str, Tensor]


class Precision:
    """`fp32`: float32 throughout; the base class of the other."""

    declaration = Declaration()
    may_skip = False  # whether there are steps without an update

    def weights(self, weights: Weights, parameters: Mapping[str, Parameter]) -> Weights:
        """The weights that a branch computes with, by parameter name."""
        return weights

    def scaled(self, loss: Tensor, inputs: Tensors) -> Tensor:
        """The loss to take the gradient of."""
        return loss

    def unscaled(self, gradients: Tensors, inputs: Tensors) -> Tensors:
        """The gradients of the loss itself, from those of `scaled`."""
        return gradients

    def select(
        self, new: Tensors, gradients: Collection[Tensor], inputs: Tensors
    ) -> tuple[Tensors, Tensors]:
        """The state after an update or after a skipped one, by state name; and metrics."""
        return new, {}


class HalfPrecision(Precision):
    """`fp16`: float16 matrices, and loss scaling.

    With another dtype of the matrices it is the same step without float16's rounding.
    """

    declaration = Declaration(
        buffers=(
            Buffer(name=LOSS_SCALE, initial=torch.tensor(INITIAL_SCALE)),
            Buffer(name=GOOD_STEPS, initial=torch.tensor(0.0)),
        )
    )
    may_skip = True

    def __init__(self, matrices: torch.dtype = torch.float16) -> None:
        self._matrices = matrices

    @override
    def weights(self, weights: Weights, parameters: Mapping[str, Parameter]) -> Weights:
        matrices = {name for name, parameter in parameters.items() if parameter.is_matrix}
        return {n: w.to(self._matrices) if n in matrices else w for n, w in weights.items()}

    @override
    def scaled(self, loss: Tensor, inputs: Tensors) -> Tensor:
        return loss * inputs[BUFFER + LOSS_SCALE]

    @override
    def unscaled(self, gradients: Tensors, inputs: Tensors) -> Tensors:
        inverse = inputs[BUFFER + LOSS_SCALE].reciprocal()
        return {name: gradient * inverse for name, gradient in gradients.items()}

    @override
    def select(
        self, new: Tensors, gradients: Collection[Tensor], inputs: Tensors
    ) -> tuple[Tensors, Tensors]:
        is_finite = all_finite(gradients)
        chosen = {
            name: torch.where(is_finite, value, inputs[name]) for name, value in new.items()
        }
        scale = inputs[BUFFER + LOSS_SCALE]
        metrics = {APPLIED: is_finite.to(scale.dtype), LOSS_SCALE: scale}
        return {**chosen, **next_scale(is_finite, inputs)}, metrics


def all_finite(gradients: Collection[Tensor]) -> Tensor:
    """Whether no gradient has infinity or NaN: a scalar bool.

    By the sum of their absolute values, of which nothing is kept. (Their squares would be kept
    for AdamW, of all parameters at once.)
    """
    sums = torch.stack([gradient.abs().sum() for gradient in gradients])
    return sums.sum() < float("inf")


def next_scale(is_finite: Tensor, inputs: Tensors) -> Tensors:
    """The buffers of the loss scaling after a step, by state name."""
    scale, good = inputs[BUFFER + LOSS_SCALE], inputs[BUFFER + GOOD_STEPS] + 1
    is_full = good >= GROWTH_INTERVAL
    larger = (scale * GROWTH).clamp(max=LARGEST_SCALE)
    grown, counted = torch.where(is_full, larger, scale), torch.where(is_full, 0.0, good)
    return {
        BUFFER + LOSS_SCALE: torch.where(is_finite, grown, scale * BACKOFF),
        BUFFER + GOOD_STEPS: torch.where(is_finite, counted, 0.0),
    }


def precision_named(name: str) -> Precision:
    """The part of a step for one of `edge_runtime.package.names.PRECISIONS`."""
    return {FP32: Precision, FP16: HalfPrecision}[name]()
