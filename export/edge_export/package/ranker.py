"""The trained ranker of token policy `ranked`, as a file and in the state of a package.

A .safetensors file with the names of `edge_export.policies.ranked.ranker_parameters`; its
metadata says after how many blocks it reads the tokens (`AFTER`).
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from edge_export.package.initial import MODEL, Source, read_tensors
from edge_export.policies import policies_named
from edge_export.policies.ranked import RankedPolicy, blocks_before, ranker_parameters
from edge_export.step.program import Program
from edge_runtime.errors import ConfigError
from edge_runtime.package.names import BUFFER

AFTER = "after"  # key of the metadata
_BLOCKS = re.compile(r"0|[1-9][0-9]{0,2}")  # its value


def ranker_state(program: Program, path: Path | None) -> dict[str, Tensor]:
    """The weights of the ranker by state name; none if the recipe has no policy `ranked`.

    Raises:
        ConfigError: the file is missing, superfluous, damaged, or for other tokens.
    """
    recipe = program.recipe
    if RankedPolicy not in policies_named(recipe.tokens.name):
        if path is None:
            return {}
        raise ConfigError(
            f"--ranker {path}: token policy {recipe.tokens.name!r} has no ranker. Use "
            f"{RankedPolicy.name!r}, or leave out the file."
        )
    if path is None:
        raise ConfigError(
            f"tokens.name: {RankedPolicy.name!r} needs a trained ranker. Give --ranker FILE, "
            "which `edge-train rank` writes, or use 'evit', which needs none."
        )
    after = blocks_before(program.model, recipe.token_options(RankedPolicy))
    weights = _read(path, program.model.width, after)
    return {BUFFER + name: value for name, value in weights.items()}


def _read(path: Path, width: int, after: int) -> dict[str, Tensor]:
    """The weights of a ranker for tokens of this width after so many blocks."""
    source = Source(path, "--ranker", MODEL)
    tensors, facts = read_tensors(source)
    weights = {}
    for parameter in ranker_parameters(width):
        value = tensors.get(parameter.name)
        if value is None or value.dtype != torch.float32:
            raise ConfigError(
                f"{source} is not a ranker: it lacks {parameter.name!r} in float32. Give a "
                "file that `edge-train rank` has written."
            )
        if value.shape != parameter.shape:
            raise ConfigError(
                f"{source} is for another model: {parameter.name!r} is "
                f"{tuple(value.shape)}, not {parameter.shape}. Train one with `edge-train "
                "rank` and the encoder of this recipe."
            )
        if not value.isfinite().all():
            raise ConfigError(
                f"{source} has NaN or infinite values in {parameter.name!r}. Train it again."
            )
        weights[parameter.name] = value
    theirs = facts.get(AFTER, "")
    if not _BLOCKS.fullmatch(theirs):
        raise ConfigError(
            f"{source} is not a ranker: its metadata does not say after how many blocks it "
            "reads the tokens. Give a file that `edge-train rank` has written."
        )
    if int(theirs) != after:
        raise ConfigError(
            f"{source} ranks tokens after {theirs} block(s), and the recipe prunes after "
            f"{after}. Export with --set tokens.after={theirs}, or train another ranker."
        )
    return weights
