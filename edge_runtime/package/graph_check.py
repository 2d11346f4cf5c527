"""Graphs of a package, checked before a runtime loads them: they use nothing but themselves.

An ONNX file can name other files whose bytes are its tensors, and ONNX Runtime reads any file
of the host that it names. It can also bring functions of its own, or name operators that only
other programs have. Packages have none of that.
"""

from collections.abc import Iterator

from edge_runtime.package.wire import Span, read_spans
from edge_runtime.schema import shown

MAX_GRAPH_BYTES = 64 << 20  # weights are inputs: the graphs of a large model have 1 MiB
_MOST_FIELDS = 1_000_000
_DEEPEST = 4  # of graphs inside the attributes of nodes

_STANDARD = ("", "ai.onnx")
_TRAINING = (*_STANDARD, "com.microsoft")  # of the models of the official training API

# Fields of onnx.proto
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_DEFAULT_LOCATION = b"\x70\x00"  # the field with the value "in this file"
_OTHER_FORMAT = ".ort"


def check_graph(name: str, model: bytes, *, training_api: bool = False) -> None:
    """Refuse a model that uses anything but itself and standard operators.

    Args:
        name: of its file.
        model: the content of an ONNX file.
        training_api: whether it is of the official training API, with operators of its own.

    Raises:
        ValueError: it is not an ONNX file, or what it uses.
    """
    if name.lower().endswith(_OTHER_FORMAT):  # by this name the runtime decides
        raise ValueError(f"files named {_OTHER_FORMAT} are of another format")
    domains = _TRAINING if training_api else _STANDARD
    _Check(model, domains).model(Span(0, 0, 0, len(model)))


class _Check:
    """One walk through all messages of a model that can have tensors or operators.

    A message is a `Span` of the file.
    """

    def __init__(self, file: bytes, domains: tuple[str, ...]) -> None:
        self._file, self._domains = file, domains
        self._fields = 0

    def _read(self, message: Span) -> Iterator[Span]:
        for field in read_spans(self._file, message.content, message.end):
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            yield field

    def _text(self, field: Span) -> str:
        return self._file[field.content : field.end].decode(errors="replace")

    def model(self, message: Span) -> None:
        for field in self._read(message):
            if field.number == _MODEL_GRAPH:
                self._graph(field, 1)
            elif field.number == _MODEL_FUNCTIONS:
                raise ValueError("it has functions of its own")
            elif field.number == _MODEL_TRAINING:
                raise ValueError("it has training graphs of its own")

    def _graph(self, message: Span, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"its graphs are nested more than {_DEEPEST} deep")
        for field in self._read(message):
            if field.number == _GRAPH_NODE:
                self._node(field, depth)
            elif field.number == _GRAPH_INITIALIZER:
                self._tensor(field)
            elif field.number == _GRAPH_SPARSE:
                self._sparse(field)

    def _node(self, message: Span, depth: int) -> None:
        for field in self._read(message):
            if field.number == _NODE_ATTRIBUTE:
                self._attribute(field, depth)
            elif field.number == _NODE_DOMAIN and self._text(field) not in self._domains:
                raise ValueError(f"it has operators of the domain {shown(self._text(field))}")

    def _attribute(self, message: Span, depth: int) -> None:
        for field in self._read(message):
            if field.number in _ATTRIBUTE_TENSORS:
                self._tensor(field)
            elif field.number in _ATTRIBUTE_GRAPHS:
                self._graph(field, depth + 1)
            elif field.number in _ATTRIBUTE_SPARSE:
                self._sparse(field)

    def _sparse(self, message: Span) -> None:
        for field in self._read(message):
            if field.number in _SPARSE_TENSORS:
                self._tensor(field)

    def _tensor(self, message: Span) -> None:
        name, is_external = "", False
        for field in self._read(message):
            if field.number == _TENSOR_NAME:
                name = self._text(field)
            elif field.number == _TENSOR_EXTERNAL_DATA:
                is_external = True
            elif field.number == _TENSOR_DATA_LOCATION:
                is_external |= self._file[field.start : field.end] != _DEFAULT_LOCATION
        if is_external:
            raise ValueError(f"tensor {shown(name)} has its data in another file")
