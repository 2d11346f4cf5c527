"""Turn weight inputs of an ONNX file into stored weights, without the onnx package.

All other fields are copied byte for byte.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from edge_runtime.package.wire import LENGTH, VARINT, read_fields
from edge_runtime.state import Array, flat_bytes

MODEL_GRAPH, MODEL_METADATA = 7, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
GRAPH_INITIALIZER, GRAPH_INPUT = 5, 11
VALUE_INFO_NAME = 1
TENSOR_DIMS, TENSOR_DATA_TYPE, TENSOR_NAME, TENSOR_RAW_DATA = 1, 2, 8, 9
DATA_TYPES = {"float32": 1, "float16": 10}


def with_stored_weights(
    model: bytes, weights: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The same model with some graph inputs turned into initializers, piece by piece.

    Args:
        model: an ONNX file, small without the weights.
        weights: value of each input to store, float32 or float16, by input name; stored in
            this order, not copied unless an array has strides.
        metadata: entries to add to those of the model.

    Raises:
        ValueError: the file is damaged, or has no such input.
    """
    parts: list[Iterable[bytes | memoryview]] = []
    for field in read_fields(model):
        graph = field.number == MODEL_GRAPH
        parts.append(_graph_with_weights(field.content, weights) if graph else [field.encoded])
    parts.append(_entry(key, value) for key, value in (metadata or {}).items())
    return chain.from_iterable(parts)


def _entry(key: str, value: str) -> bytes:
    """The field of a pair of metadata."""
    pair = write_field(ENTRY_KEY, key.encode()) + write_field(ENTRY_VALUE, value.encode())
    return write_field(MODEL_METADATA, pair)


def _graph_with_weights(
    graph: bytes, weights: Mapping[str, Array]
) -> Iterator[bytes | memoryview]:
    kept, missing = [], set(weights)
    for field in read_fields(graph):
        name = _value_name(field.content) if field.number == GRAPH_INPUT else None
        if name in missing:
            missing.remove(name)
        else:
            kept.append(field.encoded)
    if missing:
        raise ValueError(f"the graph has no input named {', '.join(sorted(missing))}")
    heads = {name: _initializer_head(name, value) for name, value in weights.items()}
    stored_bytes = sum(len(heads[name]) + value.nbytes for name, value in weights.items())
    graph_head = field_head(MODEL_GRAPH, sum(map(len, kept)) + stored_bytes)
    stored = ((heads[name], flat_bytes(value)) for name, value in weights.items())
    return chain([graph_head, *kept], chain.from_iterable(stored))


def _initializer_head(name: str, array: Array) -> bytes:
    """The field of a stored weight, without the weight at its end."""
    if array.dtype.name not in DATA_TYPES:
        raise ValueError(f"weight {name} has the dtype {array.dtype.name}")
    head = tensor_head(name, array)
    return field_head(GRAPH_INITIALIZER, len(head) + array.nbytes) + head


def _value_name(value_info: bytes) -> str | None:
    names = [f.content for f in read_fields(value_info) if f.number == VALUE_INFO_NAME]
    return names[-1].decode() if names else None


def tensor_head(name: str, array: Array) -> bytes:
    """A TensorProto without its data, which are the array's bytes and come right after."""
    dims = b"".join(write_number(TENSOR_DIMS, size) for size in array.shape)
    return (
        dims
        + write_number(TENSOR_DATA_TYPE, DATA_TYPES[array.dtype.name])
        + write_field(TENSOR_NAME, name.encode())
        + field_head(TENSOR_RAW_DATA, array.nbytes)
    )


def write_field(number: int, content: bytes) -> bytes:
    """A string or message field."""
    return field_head(number, len(content)) + content


def field_head(number: int, size_bytes: int) -> bytes:
    """The beginning of a string or message field whose content has that size."""
    return write_varint(number << 3 | LENGTH) + write_varint(size_bytes)


def write_number(number: int, value: int) -> bytes:
    """An integer field, not negative."""
    return write_varint(number << 3 | VARINT) + write_varint(value)


def write_varint(value: int) -> bytes:
    """Seven bits per byte, lowest first; the high bit means that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
