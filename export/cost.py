"""FLOPs of a training step, counted from shapes. A multiplication and an addition are two.

Counted are matrix products, as usual; the passes between them are not.
"""

from collections.abc import Sequence

from edge_runtime.package.manifest import ModelFacts
from export.parameters import Parameter
from export.vit import MLP_RATIO

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


def step_flops(
    model: ModelFacts,
    heads: Sequence[Parameter],
    *,
    student: Sequence[tuple[int, int]],
    teacher: Sequence[tuple[int, int]] | None,
    sequences: int,
) -> int:
    """One training step.

    Args:
        model: sizes of the encoder.
        heads: parameters beside the encoder's; each matrix sees every sequence once.
        student: tokens of each block, see `encoder_forward_flops`.
        teacher: likewise, or None without one. Its heads count as the student's do, which is
            a little too much where it has fewer.
        sequences: views times pictures.
    """
    patch = 2 * model.patch_size_px**2 * 3 * model.width
    projected = sum(2 * h.shape[0] * h.shape[1] for h in heads if h.is_matrix)
    trained = encoder_forward_flops(model, student) + projected
    # Pixels need no gradient: the patch embedding has one product in the backward pass.
    flops = (1 + BACKWARD) * trained + 2 * patch * (student[0][0] - 1)
    if teacher is not None:
        flops += (
            encoder_forward_flops(model, teacher) + projected + patch * (teacher[0][0] - 1)
        )
    return sequences * flops
