"""About how much memory an export takes, from its recipe alone, before anything is made."""

import math

from edge_export.objectives import objective_named
from edge_export.package.few_pictures import PICTURES
from edge_export.recipe import Recipe
from edge_export.vit import encoder_parameters
from edge_runtime.package.manifest import ModelFacts

_PROCESS_BYTES = 500 << 20  # traces, graphs, and libraries that are loaded on the way
_FLOAT_BYTES = 4
_STATE_COPIES = 6  # as tensors, arrays and file, and in the engine and its results
_FROZEN_COPIES = 5  # of a frozen encoder: file, tensors, arrays, and in the engine
_BLOCK_TENSORS = 20  # of (tokens, width), that a block keeps for its backward pass in PyTorch
_ATTENTION_TENSORS = 4  # of (heads, tokens, tokens), likewise
_DRAW_BYTES = 12  # of random numbers, for each token of a view
_BATCH_COPIES = 2  # of the pixels and the random numbers of a whole batch
_PAIRS_BYTES = 4  # for each pair of views of a batch: masks of a contrastive loss
_MATRIX_BYTES = 40  # for each number of the matrices that resize patches and positions


def export_bytes(recipe: Recipe, *, verify_all: bool) -> int:
    """Peak bytes beside what this process holds before, within about a factor of 2.

    Args:
        recipe: checked.
        verify_all: whether rungs are verified on whole batches.
    """
    model, batch = recipe.facts(), recipe.batch_size
    declared = objective_named(recipe.method.name)(model, recipe.method_options()).declaration
    parameters = (*encoder_parameters(model), *declared.parameters)
    numbers = sum(math.prod(parameter.shape) for parameter in parameters)
    # With both moments, and the teacher, if any; a late one, too
    copies = _STATE_COPIES * (3 + bool(declared.teacher) + bool(recipe.method.teacher_delay))
    frozen = recipe.frozen_facts()
    frozen_parameters = () if frozen is None else encoder_parameters(frozen)
    frozen_numbers = sum(math.prod(parameter.shape) for parameter in frozen_parameters)
    views = sum(len(group.views) for group in declared.views)
    verified = views * (batch if verify_all else min(batch, PICTURES))
    batch_bytes = batch * sum(
        len(group.views) * (3 * group.size_px**2 + _DRAW_BYTES * model.tokens)
        for group in declared.views
    )
    return (
        _PROCESS_BYTES
        + _FLOAT_BYTES * (copies * numbers + verified * model.depth * _block_numbers(model))
        + _FLOAT_BYTES * _FROZEN_COPIES * frozen_numbers
        + _BATCH_COPIES * batch_bytes
        + _PAIRS_BYTES * (views * batch) ** 2
        + _resizing_bytes(recipe, model)
    )


def _block_numbers(model: ModelFacts) -> int:
    """Numbers that PyTorch keeps of one view in one block."""
    tokens = model.tokens
    return _BLOCK_TENSORS * tokens * model.width + _ATTENTION_TENSORS * model.heads * tokens**2


def _resizing_bytes(recipe: Recipe, model: ModelFacts) -> int:
    """Matrices for the patch sizes that are not the model's."""
    sides = [
        model.image_size_px // px for px in recipe.patch_sizes if px != model.patch_size_px
    ]
    return _MATRIX_BYTES * sum(model.tokens * max(model.tokens, side**2) for side in sides)
