"""Build one ONNX graph node by node.

The same calls give the same bytes: names are numbered per graph. Equal nodes are merged,
chains of reshapes and of transpositions are collapsed, constants are shared, all while the
graph is built; no pass runs afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

IR_VERSION = 10  # the newest that onnxruntime 1.19.2 reads
OPSET = (
    18  # the newest that all supported runtimes and the ort-training gradient builder support
)


Shape: TypeAlias = tuple[int | str, ...]  # a string is a free size


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of a graph."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape


class GraphBuilder:
    """Collects inputs, nodes and outputs; `model` gives the finished `ModelProto`."""

    def __init__(self, name: str, *, differentiated: bool = False) -> None:
        """`differentiated`: ONNX Runtime will add gradients, which not every operator has."""
        self._name, self.differentiated = name, differentiated
        self._inputs: list[Value] = []
        self._outputs: dict[str, Value] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[tuple[Any, ...], tuple[str, NDArray[Any]]] = {}
        self._made: dict[tuple[Any, ...], tuple[Value, ...]] = {}
        self._origin: dict[str, tuple[str, Value, tuple[int, ...]]] = {}
        self._parameters: dict[str, NDArray[Any]] = {}

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> Value:
        """Declare a graph input."""
        value = Value(name, np.dtype(dtype), tuple(shape))
        self._inputs.append(value)
        return value

    def parameter(self, name: str, content: NDArray[Any]) -> Value:
        """Declare a named initializer, which the official training API trains."""
        self._parameters[name] = content
        return Value(name, content.dtype, content.shape)

    def output(self, name: str, value: Value) -> None:
        """Declare a graph output."""
        self._outputs[name] = value

    def constant(self, content: Any, dtype: Any = None) -> Value:
        """A constant; equal ones are stored once.

        One of float16 is stored as float32 and cast, so that it is exact where a verification
        reads the graph as float32. Runtimes compute it once, when they load the graph.
        """
        array = np.ascontiguousarray(content, dtype).reshape(np.shape(content))
        if array.dtype == np.float16:
            return self.cast(self.constant(content, np.float32), np.float16)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._initializers:
            self._initializers[key] = (f"c{len(self._initializers)}", array)
        return Value(self._initializers[key][0], array.dtype, array.shape)

    def add(
        self,
        op: str,
        inputs: Sequence[Value],
        outputs: Sequence[tuple[Any, Sequence[int | str]]],
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[Value, ...]:
        """Append a node, or return the outputs of an equal one.

        Args:
            op: operator of the standard ONNX domain.
            inputs: its inputs.
            outputs: (dtype, shape) of each output.
            attributes: the node's attributes.
        """
        attributes = attributes or {}
        key = (
            op,
            tuple(v.name for v in inputs),
            repr(sorted(attributes.items())),
            len(outputs),
        )
        if key not in self._made:
            number = len(self._made)
            made = tuple(
                Value(
                    f"v{number}" if i == 0 else f"v{number}.{i}", np.dtype(dtype), tuple(shape)
                )
                for i, (dtype, shape) in enumerate(outputs)
            )
            names = [value.name for value in made]
            self._nodes.append(
                helper.make_node(op, [v.name for v in inputs], names, names[0], **attributes)
            )
            self._made[key] = made
        return self._made[key]

    def op(self, op: str, *inputs: Value, **attributes: Any) -> Value:
        """An element-wise node: shape by broadcasting, dtype of the first input."""
        shape = broadcast(*(value.shape for value in inputs))
        return self.add(op, inputs, [(inputs[0].dtype, shape)], attributes)[0]

    def matmul(self, a: Value, b: Value) -> Value:
        """`a @ b` with equal batch axes."""
        shape = (*a.shape[:-1], b.shape[-1])
        return self.add("MatMul", [a, b], [(a.dtype, shape)])[0]

    def compare(self, op: str, a: Value, b: Value) -> Value:
        """A comparison element by element: bool, shape by broadcasting."""
        return self.add(op, [a, b], [(np.bool_, broadcast(a.shape, b.shape))])[0]

    def cast(self, x: Value, dtype: Any) -> Value:
        """`x` as another dtype."""
        wanted = np.dtype(dtype)
        if wanted == x.dtype:
            return x
        kind = helper.np_dtype_to_tensor_dtype(wanted)
        return self.add("Cast", [x], [(wanted, x.shape)], {"to": kind})[0]

    def reduce(self, op: str, x: Value, axes: Sequence[int], keep: bool) -> Value:
        """A reduction over `axes`, or over all if empty; opset 18 needs an input."""
        axes = [axis % len(x.shape) for axis in axes] or list(range(len(x.shape)))
        shape = [
            1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes
        ]
        wanted = self.constant(axes, np.int64)
        return self.add(op, [x, wanted], [(x.dtype, shape)], {"keepdims": int(keep)})[0]

    def reshape(self, x: Value, shape: Sequence[int | str]) -> Value:
        """`x` in another shape; at most one free size, which becomes -1."""
        kind, source, _ = self._origin.get(x.name, ("", x, ()))
        if kind == "reshape":
            x = source
        if tuple(shape) == x.shape:
            return x
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        made = self.add("Reshape", [x, self.constant(sizes, np.int64)], [(x.dtype, shape)])[0]
        self._origin[made.name] = ("reshape", x, ())
        return made

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """`x` with its axes in another order."""
        kind, source, before = self._origin.get(x.name, ("", x, ()))
        if kind == "transpose":
            x, order = source, [before[axis] for axis in order]
        if list(order) == sorted(order):
            return x
        shape = [x.shape[axis] for axis in order]
        made = self.add("Transpose", [x], [(x.dtype, shape)], {"perm": list(order)})[0]
        self._origin[made.name] = ("transpose", x, tuple(order))
        return made

    def is_transposed(self, x: Value) -> bool:
        """Whether `transpose` made it."""
        return self._origin.get(x.name, ("",))[0] == "transpose"

    def sizes(self, shape: Sequence[int | str]) -> Value:
        """`shape` as an int64 tensor; a free size is read from the first input with it."""
        if all(isinstance(size, int) for size in shape):
            return self.constant(shape, np.int64)
        parts = [
            self.constant([size], np.int64) if isinstance(size, int) else self._free(size)
            for size in shape
        ]
        return self.add("Concat", parts, [(np.int64, (len(shape),))], {"axis": 0})[0]

    def _free(self, size: str) -> Value:
        source = next(value for value in self._inputs if value.shape[:1] == (size,))
        if source.dtype == np.uint8:  # which TensorRT takes as an input of Cast alone
            source = self.cast(source, np.float32)
        return self.add("Shape", [source], [(np.int64, (1,))], {"start": 0, "end": 1})[0]

    def model(self) -> onnx.ModelProto:
        """The finished model, without the nodes and inputs that no output needs."""
        self._name_outputs()
        nodes = _needed(self._nodes, set(self._outputs))
        if not self.differentiated:
            _drop_unread(nodes, set(self._outputs))
        used = {name for node in nodes for name in node.input}
        stored = [*self._parameters.items(), *self._initializers.values()]
        outputs = [Value(name, v.dtype, v.shape) for name, v in self._outputs.items()]
        graph = helper.make_graph(
            nodes,
            self._name,
            [_value_info(value) for value in self._inputs if value.name in used],
            [_value_info(value) for value in outputs],
            [numpy_helper.from_array(array, name) for name, array in stored if name in used],
        )
        return helper.make_model(
            graph,
            producer_name="edge-train",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

    def _name_outputs(self) -> None:
        """Rename outputs in the nodes that write them: an Identity would copy."""
        made = {name for node in self._nodes for name in node.output}
        renamed: dict[str, str] = {}
        for name, value in self._outputs.items():
            if value.name in made and value.name not in renamed:
                renamed[value.name] = name
            else:
                source = renamed.get(value.name, value.name)
                self._nodes.append(helper.make_node("Identity", [source], [name], name))
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an element-wise result; a free size broadcasts only with itself and 1."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(
        next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True)
    )


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def _drop_unread(nodes: list[onnx.NodeProto], wanted: set[str]) -> None:
    """Remove unread outputs of LayerNormalization: TensorRT gives only the first."""
    read = wanted.union(*(node.input for node in nodes))
    for node in nodes:
        if node.op_type == "LayerNormalization":
            while node.output[-1] not in read:
                del node.output[-1]


def _value_info(value: Value) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, kind, value.shape)
