"""About how much memory an export takes, from its recipe alone, before anything is made."""

import math

from edge_export.objectives import objective_named
from edge_export.package.few_pictures import PICTURES
from edge_export.recipe import Recipe
from edge_export.vit import encoder_parameters

_PROCESS_BYTES = 500 << 20  # traces, graphs, and libraries that are loaded on the way
_FLOAT_BYTES = 4
_STATE_COPIES = 6  # as tensors, arrays and file, and in the engine and its results
_BLOCK_TENSORS = 20  # of (tokens, width), that a block keeps for its backward pass in PyTorch
_ATTENTION_TENSORS = 4  # of (heads, tokens, tokens), likewise
_PAIRS_BYTES = 4  # for each pair of views of a batch: masks of a contrastive loss
_MATRIX_BYTES = 40  # for each number of the matrices that resize patches and positions


def export_bytes(recipe: Recipe, *, verify_all: bool) -> int:
    """Peak bytes beside what this process holds before, within about a factor of 2.

    Args:
        recipe: checked.
        verify_all: whether rungs are verified on whole batches.
    """
    model = recipe.facts()
    declared = objective_named(recipe.method.name)(model, recipe.method_options()).declaration
    parameters = (*encoder_parameters(model), *declared.parameters)
    numbers = sum(math.prod(parameter.shape) for parameter in parameters)
    copies = _STATE_COPIES * (4 if declared.teacher else 3)  # with both moments
    images = verified = 0
    for group in declared.views:
        picture = (
            3 * group.size_px**2 + 12 * model.tokens
        )  # with random numbers for its tokens
        images += len(group.views) * recipe.batch_size * picture
        verified += len(group.views) * (
            recipe.batch_size if verify_all else min(recipe.batch_size, PICTURES)
        )
    tokens = model.tokens
    block = (
        _BLOCK_TENSORS * tokens * model.width + _ATTENTION_TENSORS * model.heads * tokens**2
    )
    views = sum(len(group.views) for group in declared.views)
    sides = [
        model.image_size_px // px for px in recipe.patch_sizes if px != model.patch_size_px
    ]
    return (
        _PROCESS_BYTES
        + _FLOAT_BYTES * (copies * numbers + verified * model.depth * block)
        + 2 * images
        + _PAIRS_BYTES * (views * recipe.batch_size) ** 2
        + _MATRIX_BYTES * sum(tokens * max(tokens, side**2) for side in sides)
    )
