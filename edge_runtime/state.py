"""State: every named tensor that is kept between two steps, and its file format.

The prefix of a name gives the role (`edge_runtime.package.names`). Matrix weights are
[in, out]; only files of timm have [out, in] (`edge_runtime.package.encoder`).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Mapping[str, Array]

_DTYPES = {  # numpy's name -> that of safetensors
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}


def state_chunks(state: State) -> Iterator[bytes | memoryview]:
    """The safetensors file of a state, piece by piece; the same state gives the same bytes.

    The library's writer copies the whole state first. A checkpoint is saved when memory is at
    its peak, so this one yields views of the arrays.
    """
    names = sorted(state, key=lambda name: (-state[name].itemsize, name))  # keeps alignment
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor, begin = state[name], end
        end += tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield np.ascontiguousarray(state[name]).reshape(-1).data.cast("B")


def encode_state(state: State) -> bytes:
    """The safetensors file of a state that is small or may be copied."""
    return b"".join(state_chunks(state))


def load_state(path: Path) -> State:
    """Read a safetensors file.

    Raises:
        ValueError: it is not a complete safetensors file, or has a dtype that numpy does not.
            The caller adds whether a package or a run is damaged.
        OSError: it cannot be read.
    """
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} has a dtype that numpy does not: {error}") from error


def problems_with(
    state: State, expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> list[str]:
    """How `state` differs from the expected (dtype, shape) of each name."""
    problems = [f"{name}: missing" for name in sorted(expected.keys() - state.keys())]
    problems += [f"{name}: not expected" for name in sorted(state.keys() - expected.keys())]
    for name in sorted(expected.keys() & state.keys()):
        actual = (state[name].dtype.name, state[name].shape)
        if actual != expected[name]:
            problems.append(f"{name}: expected {expected[name]}, got {actual}")
    return problems
