"""Graphs of a package, checked before a runtime loads them: they use nothing but themselves.

An ONNX file can name other files whose bytes are its tensors, and ONNX Runtime reads any file
of the host that it names. It can also bring functions of its own, or name operators that only
other programs have. Packages have none of that.
"""

from collections.abc import Iterator

from edge_runtime.package.wire import Span, read_spans
from edge_runtime.schema import shown

MAX_GRAPH_BYTES = 32 << 20  # weights are inputs: the graphs of a large model have 1 MiB
_DEEPEST = 4  # of graphs inside the attributes of nodes
_OTHER_FORMAT = ".ort"

_STANDARD = ("", "ai.onnx")
_TRAINING = (*_STANDARD, "com.microsoft")  # of the models of the official training API

# Fields of onnx.proto, by message
_GRAPH, _TRAINING_INFO, _FUNCTIONS = 7, 20, 25  # of a model
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15  # of a graph
_ATTRIBUTE, _DOMAIN = 5, 7  # of a node
_TENSORS, _GRAPHS, _SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)  # of an attribute
_VALUES, _INDICES = 1, 2  # of a sparse tensor
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # of a tensor
_DEFAULT_LOCATION = b"\x70\x00"  # the field with the value "in this file"


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

    def _read(self, message: Span, *wanted: int) -> Iterator[Span]:
        return read_spans(self._file, message.content, message.end, wanted)

    def _text(self, field: Span) -> str:
        return self._file[field.content : field.end].decode(errors="replace")

    def model(self, message: Span) -> None:
        for field in self._read(message, _GRAPH, _TRAINING_INFO, _FUNCTIONS):
            if field.number == _FUNCTIONS:
                raise ValueError("it has functions of its own")
            if field.number == _TRAINING_INFO:
                raise ValueError("it has training graphs of its own")
            self._graph(field, 1)

    def _graph(self, message: Span, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"its graphs are nested more than {_DEEPEST} deep")
        for field in self._read(message, _NODE, _INITIALIZER, _SPARSE_INITIALIZER):
            if field.number == _NODE:
                self._node(field, depth)
            elif field.number == _INITIALIZER:
                self._tensor(field)
            else:
                self._sparse(field)

    def _node(self, message: Span, depth: int) -> None:
        for field in self._read(message, _ATTRIBUTE, _DOMAIN):
            if field.number == _ATTRIBUTE:
                self._attribute(field, depth)
            elif self._text(field) not in self._domains:
                raise ValueError(f"it has operators of the domain {shown(self._text(field))}")

    def _attribute(self, message: Span, depth: int) -> None:
        for field in self._read(message, *_TENSORS, *_GRAPHS, *_SPARSE_TENSORS):
            if field.number in _TENSORS:
                self._tensor(field)
            elif field.number in _GRAPHS:
                self._graph(field, depth + 1)
            else:
                self._sparse(field)

    def _sparse(self, message: Span) -> None:
        for field in self._read(message, _VALUES, _INDICES):
            self._tensor(field)

    def _tensor(self, message: Span) -> None:
        name, is_external = "", False
        for field in self._read(message, _NAME, _EXTERNAL_DATA, _DATA_LOCATION):
            if field.number == _NAME:
                name = self._text(field)
            elif field.number == _EXTERNAL_DATA:
                is_external = True
            else:
                is_external |= self._file[field.start : field.end] != _DEFAULT_LOCATION
        if is_external:
            raise ValueError(f"tensor {shown(name)} has its data in another file")
