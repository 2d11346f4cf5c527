"""Which nodes of a graph CUDA's execution provider has no kernel for.

Judged by the table in data/cuda_kernels.json, as ONNX Runtime matches kernels: a row holds if
it begins at the version that the operator has in this opset, or is a closed range around it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import onnx

TABLE = Path(__file__).parent / "data/cuda_kernels.json"
VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic


class Kernel(NamedTuple):
    """One row: an operator's versions, and the types of each of its type variables."""

    first: int
    last: int | None  # None: an open range, which holds for its first version alone
    types: Mapping[str, frozenset[str]]


@cache
def kernels() -> dict[str, list[Kernel]]:
    """The rows by operator."""
    found: dict[str, list[Kernel]] = {}
    for row in json.loads(TABLE.read_text())["kernels"]:
        versions = [int(number) for number in re.findall(r"\d+", row["versions"])]
        last = None if row["versions"].endswith("+") else versions[-1]
        types = {name: frozenset(text.split()) for name, text in row["types"].items()}
        found.setdefault(row["op"], []).append(Kernel(versions[0], last, types))
    return found


@cache
def host_operands() -> dict[str, list[str]]:
    """Formal names of the inputs that kernels read in the processor's memory, by operator."""
    operands: dict[str, list[str]] = json.loads(TABLE.read_text())["host_operands"]["inputs"]
    return operands


def without_kernel(model: onnx.ModelProto) -> list[str]:
    """What CUDA cannot run, or not without a copy to the processor: one line per node."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {
        value.name: _type_name(value.type.tensor_type.elem_type)
        for value in chain(inferred.input, inferred.value_info, inferred.output)
    }
    types |= {each.name: _type_name(each.data_type) for each in inferred.initializer}
    constants = {each.name for each in inferred.initializer}
    (opset,) = (each.version for each in model.opset_import if each.domain == "")
    problems = (_problem(node, opset, types, constants) for node in inferred.node)
    return [problem for problem in problems if problem]


def _problem(
    node: onnx.NodeProto, opset: int, types: Mapping[str, str], constants: set[str]
) -> str | None:
    if node.domain or node.op_type not in kernels():
        return f"{node.domain or 'ai.onnx'}.{node.op_type}: not in the table"
    schema = onnx.defs.get_schema(node.op_type, opset)
    rows = [row for row in kernels()[node.op_type] if _holds(row, schema.since_version)]
    if not rows:
        return f"{node.op_type}: no kernel of version {schema.since_version}"
    inputs = [(formal, name) for formal, name in _paired(schema.inputs, node.input) if name]
    outputs = [(formal, name) for formal, name in _paired(schema.outputs, node.output) if name]
    given = [(formal, types[name]) for formal, name in inputs + outputs]
    if not any(_takes(row, given) for row in rows):
        return f"{node.op_type}: no kernel for " + ", ".join(
            f"{formal.name} {kind}" for formal, kind in given
        )
    for formal, name in inputs:
        if formal.name in host_operands().get(node.op_type, ()) and name not in constants:
            return f"{node.op_type}: {formal.name} is read by the processor and is no constant"
    return None


def _holds(row: Kernel, version: int) -> bool:
    return row.first == version or (row.last is not None and row.first < version <= row.last)


def _takes(row: Kernel, given: Iterable[tuple[Any, str]]) -> bool:
    """Whether a row has each tensor's type; without a type variable there is but one."""
    for formal, kind in given:
        allowed = row.types.get(formal.type_str) or row.types.get(formal.name)
        if allowed is not None and kind not in allowed:
            return False
    return True


def _paired(formals: Iterable[Any], names: Iterable[str]) -> Iterator[tuple[Any, str]]:
    """Formal and actual parameters; a variadic one takes all that are left."""
    expanded = (repeat(f) if f.option == VARIADIC else [f] for f in formals)
    return zip(chain.from_iterable(expanded), names, strict=False)


def _type_name(elem_type: int) -> str:
    name: str = onnx.TensorProto.DataType.Name(elem_type)
    return name.lower()
