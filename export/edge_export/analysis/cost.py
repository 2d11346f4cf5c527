"""FLOPs of a training step, counted from shapes. A multiplication and an addition are two.

Counted are the matrix products of encoder and heads; the passes between them are not, nor the
comparison of pictures in a loss and of tokens in a policy, which are below 1 % in any model
worth training.
"""

from collections.abc import Sequence
from typing import NamedTuple

from edge_export.parameters import Parameter
from edge_export.vit import MLP_RATIO
from edge_runtime.package.manifest import ModelFacts

BACKWARD = 2  # two products in the backward pass for each in the forward


def encoder_forward_flops(model: ModelFacts, blocks: Sequence[tuple[int, int]]) -> int:
    """Forward pass of one sequence through all blocks.

    Args:
        model: sizes.
        blocks: for each block, tokens in its attention and in its MLP. Behind the last
            attention only the class token goes on.
    """
    width, flops = model.width, 0
    for index, (attended, fed) in enumerate(blocks):
        last = index == len(blocks) - 1
        queries, fed = (1, 1) if last else (attended, fed)
        flops += 2 * attended * width * 3 * width  # queries, keys, values
        flops += 2 * 2 * queries * attended * width  # scores, and their mix of the values
        flops += 2 * queries * width * width
        flops += 2 * 2 * fed * width * MLP_RATIO * width
    return flops


class Branch(NamedTuple):
    """What student or teacher computes of one view of one picture."""

    patches: int  # that it embeds
    blocks: Sequence[tuple[int, int]]  # see `encoder_forward_flops`
    heads: Sequence[Parameter]  # each matrix sees the features once


def step_flops(
    model: ModelFacts, *, student: Branch, teacher: Branch | None, sequences: int
) -> int:
    """One training step; `sequences` is views times pictures."""
    patch = 2 * model.patch_size_px**2 * 3 * model.width
    # Pixels need no gradient: the patch embedding has one product in the backward pass.
    flops = (1 + BACKWARD) * _trunk(model, student) + 2 * patch * student.patches
    if teacher is not None:
        flops += _trunk(model, teacher) + patch * teacher.patches
    return sequences * flops


def _trunk(model: ModelFacts, branch: Branch) -> int:
    """Blocks and heads."""
    projected = sum(
        2 * head.shape[0] * head.shape[1] for head in branch.heads if head.is_matrix
    )
    return encoder_forward_flops(model, branch.blocks) + projected
