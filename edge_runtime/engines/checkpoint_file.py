"""The checkpoint file of the official training API: parameters, moments, step count.

Its Python API reads and sets parameters but no moments; the file holds both. It is a
flatbuffer whose generated classes come with the runtime's own wheel. Format 2, identifier
"ODTC", as onnxruntime-training 1.19.2 writes it.
"""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.package.names import EXP_AVG, EXP_AVG_SQ, PARAM
from edge_runtime.reading import MAX_STATE_BYTES, read_file
from edge_runtime.state import Array, State

_CLASSES = "onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs"
_VERSION = 2
_IDENTIFIER = b"ODTC"
_FLOAT = 1  # TensorDataType
_GROUP = "group0"  # the optimizer's only group
_MOMENTS = (("momentum0", EXP_AVG), ("momentum1", EXP_AVG_SQ))


def _class(name: str) -> Any:
    return importlib.import_module(f"{_CLASSES}.{name}")


def read_moments(path: Path) -> dict[str, Array]:
    """AdamW's moments by state name, float32."""
    content = read_file(path, MAX_STATE_BYTES)
    group = _class("Checkpoint").Checkpoint.GetRootAs(content, 0).OptimizerGroups(0)
    moments = {}
    for i in range(group.OptimizerStatesLength()):
        entry = group.OptimizerStates(i)
        for j, (_, prefix) in enumerate(_MOMENTS):
            tensor = entry.Momentums(j)
            flat = np.frombuffer(tensor.RawDataAsNumpy().tobytes(), np.float32)
            shape = tuple(tensor.DimsAsNumpy())
            moments[prefix + entry.ParamName().decode()] = flat.reshape(shape).copy()
    return moments


def write_checkpoint(path: Path, state: State, *, steps_done: int) -> None:
    """Write a file for `CheckpointState.load_checkpoint`.

    Args:
        path: of the file.
        state: its `param.*`, `exp_avg.*` and `exp_avg_sq.*` are written.
        steps_done: optimizer steps so far; AdamW's bias correction continues from there.
    """
    # Comes with onnxruntime, without types.
    flatbuffers = importlib.import_module("flatbuffers")
    builder = flatbuffers.Builder(sum(value.nbytes for value in state.values()) + (1 << 20))
    names = sorted(name.removeprefix(PARAM) for name in state if name.startswith(PARAM))
    parameters = [_tensor(builder, name, state[PARAM + name]) for name in names]
    entries = [_moments(builder, name, state) for name in names]
    nothing = _offsets(builder, [])
    module = _table(
        builder,
        "ModuleState",
        {"RequiresGradParams": _offsets(builder, parameters), "FrozenParams": nothing},
    )
    group = _table(
        builder,
        "OptimizerGroup",
        {
            "GroupName": builder.CreateString(_GROUP),
            "Step": steps_done,
            "OptimizerStates": _offsets(builder, entries),
        },
    )
    groups = _offsets(builder, [group])
    root = _table(
        builder,
        "Checkpoint",
        {"Version": _VERSION, "ModuleState": module, "OptimizerGroups": groups},
    )
    builder.Finish(root, file_identifier=_IDENTIFIER)
    path.write_bytes(builder.Output())


def _moments(builder: Any, name: str, state: State) -> int:
    tensors = [_tensor(builder, moment, state[prefix + name]) for moment, prefix in _MOMENTS]
    fields = {"ParamName": builder.CreateString(name), "Momentums": _offsets(builder, tensors)}
    return _table(builder, "ParameterOptimizerState", fields)


def _tensor(builder: Any, name: str, value: Array) -> int:
    fields = {
        "Name": builder.CreateString(name),
        "Dims": builder.CreateNumpyVector(np.array(value.shape, np.int64)),
        "RawData": builder.CreateNumpyVector(np.frombuffer(value.tobytes(), np.uint8)),
        "DataType": _FLOAT,
    }
    return _table(builder, "Tensor", fields)


def _table(builder: Any, name: str, fields: Mapping[str, Any]) -> int:
    module = _class(name)
    module.Start(builder)
    for key, value in fields.items():
        getattr(module, f"Add{key}")(builder, value)
    return int(module.End(builder))


def _offsets(builder: Any, offsets: Iterable[int]) -> int:
    offsets = list(offsets)
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
