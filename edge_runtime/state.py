"""State: every named tensor that lives between two steps, and its file form.

Names say the role: `param.*` are trained, `ema.*` are the teacher's copies of the parameters
of the same name, `exp_avg.*` and `exp_avg_sq.*` are AdamW's moments. Matrix weights are kept
as [in, out]; timm's [out, in] exists at the borders only (`edge_runtime.package.encoder`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_runtime.storage import write_file

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Mapping[str, Array]

PARAM = "param."
EMA = "ema."
EXP_AVG = "exp_avg."
EXP_AVG_SQ = "exp_avg_sq."


def encode_state(state: State) -> bytes:
    """Safetensors bytes; the same state gives the same bytes, whatever its order."""
    return save({name: np.ascontiguousarray(state[name]) for name in sorted(state)})


def save_state(path: Path, state: State) -> None:
    """Write `state` as one safetensors file, complete or not at all.

    Raises:
        StorageError: see `edge_runtime.storage.write_file`.
    """
    write_file(path, encode_state(state))


def load_state(path: Path) -> State:
    """Read a safetensors file.

    Raises:
        ValueError: it is no complete safetensors file, or of a dtype that numpy has not. The
            caller knows whether a package or a run is to blame and says so.
        OSError: it cannot be read.
    """
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} has values of a type that numpy has not: {error}") from error


def problems_with(
    state: State, expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> list[str]:
    """How `state` differs from the expected (dtype, shape) of each name."""
    problems = [f"{name}: missing" for name in sorted(expected.keys() - state.keys())]
    problems += [f"{name}: not expected" for name in sorted(state.keys() - expected.keys())]
    for name in sorted(expected.keys() & state.keys()):
        found = (state[name].dtype.name, state[name].shape)
        if found != expected[name]:
            problems.append(f"{name}: want {expected[name]}, found {found}")
    return problems
