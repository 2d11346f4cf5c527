"""A ranker of random weights, for packages of token policy `ranked`."""

from pathlib import Path

import numpy as np

from edge_export.package.ranker import AFTER
from edge_export.policies import policies_named
from edge_export.policies.ranked import RankedPolicy, blocks_before, initial_ranker_weights
from edge_export.recipe import Recipe
from edge_runtime.state import Array, state_chunks

SEED = 9  # not that of a package without a ranker


def ranker_for(recipe: Recipe, folder: Path) -> Path | None:
    """The file of a ranker that fits a recipe, if it needs one."""
    if RankedPolicy not in policies_named(recipe.tokens.name):
        return None
    after = blocks_before(recipe.facts(), recipe.token_options(RankedPolicy))
    folder.mkdir(parents=True, exist_ok=True)
    return write_ranker(folder / "ranker.safetensors", recipe.facts().width, after)


def write_ranker(path: Path, width: int, after: object = 1, **changes: Array) -> Path:
    """Write it, some of its tensors replaced; `__` in their names stands for a dot."""
    weights = {
        name: value.numpy() for name, value in initial_ranker_weights(width, SEED).items()
    }
    weights |= {name.replace("__", "."): value for name, value in changes.items()}
    arrays = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    path.write_bytes(b"".join(map(bytes, state_chunks(arrays, {AFTER: str(after)}))))
    return path
