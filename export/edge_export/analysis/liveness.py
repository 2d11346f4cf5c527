"""Memory of a graph's intermediate tensors when ONNX Runtime executes it.

The peak is the largest number of bytes that are alive at once, from the node that writes a
tensor to the last one that reads it, in the order in which ONNX Runtime runs the nodes
(`execution_order`). Graph inputs, initializers and graph outputs are not counted: the caller
holds them. A reshape shares its input's memory. A few kernels write into an input that no
other node reads, if it has their output's shape and element size.

Actual runs deviate from this:

- The optimizer of ONNX Runtime runs GELU as one node, and folds transpositions into products:
  up to 4 % less in step graphs, often nothing, because the peak is elsewhere.
- Kernels take scratch memory, some hundred kilobytes for each thread.
- The arena of the tensors has gaps. Freed memory is in pieces: the largest tensor finds none
  of its size, and the arena grows by it (`arena_bytes`). Of the rest, a share is in
  `edge_runtime.planning.costs`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import onnx

from edge_export.analysis.shapes import TensorShape, tensor_shapes

# The output shares the memory of the input.
VIEWS = {"Identity", "Reshape"}
# The output may be written over the input. Sums and products may not.
IN_PLACE = {"Cast", "HardSigmoid", "LogSoftmax", "Relu", "Softmax"}


class Life(NamedTuple):
    """A piece of memory that tensors share, from one position in the order to another."""

    first: int
    last: int
    size_bytes: int


def peak_bytes(model: onnx.ModelProto) -> int:
    """Peak bytes of a graph's intermediate tensors; all shapes must be fixed."""
    return most_at_once(lives(model))


def arena_bytes(model: onnx.ModelProto) -> int:
    """Bytes that the arena of the tensors grows to: their peak, and the largest again."""
    pieces = lives(model)
    return most_at_once(pieces) + max((life.size_bytes for life in pieces), default=0)


def most_at_once(pieces: Sequence[Life]) -> int:
    """The largest sum of pieces that are alive at one position."""
    change: Counter[int] = Counter()
    for life in pieces:
        change[life.first] += life.size_bytes
        change[life.last + 1] -= life.size_bytes
    now = most = 0
    for position in sorted(change):
        now += change[position]
        most = max(most, now)
    return most


def lives(model: onnx.ModelProto) -> list[Life]:
    """Every piece of memory that a run allocates and frees."""
    nodes = list(model.graph.node)
    order = execution_order(nodes)
    tensors = tensor_shapes(model)
    readers = Counter(name for node in nodes for name in node.input)
    outside = {value.name for value in (*model.graph.input, *model.graph.output)}
    outside |= {tensor.name for tensor in model.graph.initializer}
    piece_of: dict[str, str] = {}  # tensor -> the tensor whose memory it uses
    unread: Counter[str] = Counter()  # piece -> remaining reads
    spans: dict[str, tuple[int, int]] = {}
    for position, index in enumerate(order):
        node = nodes[index]
        for name in node.output:
            shared = _shared(node, name, tensors, outside, piece_of, unread)
            piece = piece_of[name] = name if shared is None else shared
            unread[piece] += readers[name]
            spans[piece] = (spans.get(piece, (position, 0))[0], position)
        for name in node.input:
            piece = piece_of.get(name, name)
            unread[piece] -= 1
            spans[piece] = (spans.get(piece, (position, 0))[0], position)
    return [
        Life(first, last, tensors[name].size_bytes)
        for name, (first, last) in spans.items()
        if name not in outside
    ]


def _shared(
    node: onnx.NodeProto,
    output: str,
    tensors: dict[str, TensorShape],
    outside: set[str],
    piece_of: dict[str, str],
    unread: Counter[str],
) -> str | None:
    """The piece of memory that an output shares, if any."""
    if output in outside or node.op_type not in VIEWS | IN_PLACE:
        return None
    name = str(node.input[0])
    piece = piece_of.get(name, name)
    if node.op_type in VIEWS:
        return piece
    fits = (
        tensors[name].sizes == tensors[output].sizes
        and tensors[name].element_bytes == tensors[output].element_bytes
    )
    return piece if fits and piece not in outside and unread[piece] == 1 else None


def execution_order(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """Positions of the nodes in the order in which ONNX Runtime runs them.

    Its default: depth first from the results backwards, of several the last in the file first,
    and each node after all of its inputs. The same in 1.19.2, 1.23.2 and 1.31.1.
    """
    maker = {name: index for index, node in enumerate(nodes) for name in node.output}
    needs = [sorted({maker[x] for x in node.input if x in maker}) for node in nodes]
    needed = {index for each in needs for index in each}
    open_nodes = [(index, False) for index in range(len(nodes)) if index not in needed]
    seen: set[int] = set()
    order = []
    while open_nodes:
        index, is_ready = open_nodes.pop()
        if is_ready:
            order.append(index)
        elif index not in seen:
            seen.add(index)
            open_nodes.append((index, True))
            open_nodes += [(need, False) for need in needs[index] if need not in seen]
    return order
