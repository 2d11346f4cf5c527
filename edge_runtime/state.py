"""State: every named tensor that is kept between two steps, and its file format.

The prefix of a name gives the role (`edge_runtime.package.names`). Matrix weights are
[in, out]; only files of timm have [out, in] (`edge_runtime.package.encoder`).
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from edge_runtime.reading import MAX_STATE_BYTES, MAX_TABLE_BYTES, open_regular, parse_json

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Mapping[str, Array]
TensorKind: TypeAlias = tuple[str, tuple[int, ...]]  # dtype and shape

DTYPES = {  # numpy's name -> that of safetensors
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
_NUMPY_NAMES = {theirs: ours for ours, theirs in DTYPES.items()}
_LENGTH_BYTES = 8  # of the number at the start of a file: how long its header is


def state_chunks(
    state: State, metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The safetensors file of a state, piece by piece; the same state gives the same bytes.

    The library's writer copies the whole state first. A checkpoint is saved when memory is at
    its peak, so this one yields views of the arrays.

    Args:
        state: the tensors by name.
        metadata: other facts for the head of the file.
    """
    names = sorted(state, key=lambda name: (-state[name].itemsize, name))  # keeps alignment
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor, begin = state[name], end
        end += tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield flat_bytes(state[name])


def flat_bytes(array: Array) -> memoryview:
    """An array's bytes in C order; copied only if it has another memory layout."""
    return np.ascontiguousarray(array).reshape(-1).data.cast("B")


def encode_state(state: State) -> bytes:
    """The safetensors file of a state that is small or may be copied."""
    return b"".join(state_chunks(state))


def load_state(path: Path, names: Collection[str] | None = None) -> State:
    """Read a safetensors file, or some of its tensors.

    Tensor by tensor into their final memory: the library's reader needs the whole file twice.

    Args:
        path: the file.
        names: the tensors to read; those that the file does not have are left out. `None`:
            all of them.

    Raises:
        ValueError: it is not a complete safetensors file, or has a dtype that numpy does not.
            The caller adds whether a package or a run is damaged.
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path, MAX_STATE_BYTES) as file:
        first, header = _header(file, path)
        chosen = header if names is None else {n: header[n] for n in names if n in header}
        return {name: _read_tensor(file, first, chosen[name], path) for name in chosen}


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file, none of which is read.

    Raises:
        ValueError: it is not a complete safetensors file.
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path, MAX_STATE_BYTES) as file:
        return set(_header(file, path)[1])


def _header(file: FileIO, path: Path) -> tuple[int, dict[str, Any]]:
    """Where the values begin, and the entry of each tensor."""
    length = _header_bytes(file, path)
    _check_complete(path)
    header = parse_json(file.read(length))
    header.pop("__metadata__", None)
    return _LENGTH_BYTES + length, header


def _header_bytes(file: FileIO, path: Path) -> int:
    """How long the header is."""
    if os.fstat(file.fileno()).st_size < _LENGTH_BYTES:
        raise ValueError(f"{path} is not a complete safetensors file: it is too short")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_TABLE_BYTES:
        raise ValueError(f"{path} is not a complete safetensors file: its header is too long")
    return length


def _check_complete(path: Path) -> None:
    """Let the library check the header: lengths, offsets, the size of the file."""
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error


def _read_tensor(file: FileIO, first: int, entry: Mapping[str, Any], path: Path) -> Array:
    """One tensor of a checked file whose data begin at byte `first`."""
    if entry["dtype"] not in _NUMPY_NAMES:
        raise ValueError(f"{path} has a dtype that numpy does not: {entry['dtype']!r}")
    array = np.empty(entry["shape"], _NUMPY_NAMES[entry["dtype"]])
    left = array.reshape(-1).data.cast("B")
    file.seek(first + entry["data_offsets"][0])
    while len(left):  # Linux reads 2 GiB at most at once
        if not (count := file.readinto(left)):
            raise ValueError(f"{path} was truncated while it was read")
        left = left[count:]
    return array


def problems_with(state: State, expected: Mapping[str, TensorKind]) -> list[str]:
    """How `state` differs from the expected kind of each tensor."""
    problems = [f"{name}: missing" for name in sorted(expected.keys() - state.keys())]
    problems += [f"{name}: not expected" for name in sorted(state.keys() - expected.keys())]
    for name in sorted(expected.keys() & state.keys()):
        actual = (state[name].dtype.name, state[name].shape)
        if actual != expected[name]:
            problems.append(f"{name}: expected {expected[name]}, got {actual}")
    return problems


def not_finite(state: State) -> str | None:
    """The name of a tensor that contains NaN or infinity, if any."""
    for name, tensor in state.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            return name
    return None
