"""The wire format of protobuf messages, which ONNX files are; read without the onnx package.

A message is a sequence of fields, each a tag (field number and wire type) and a value. Field
numbers are those of onnx.proto, which never change.
"""

from collections.abc import Container, Iterator
from typing import NamedTuple

# Wire types
VARINT, FIXED_64, LENGTH, FIXED_32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED_64: 8, FIXED_32: 4}
_MAX_VARINT_BYTES = 10
_MAX_TAG = (1 << 32) - 1  # protobuf drops the bits above, and would see another field


class Span(NamedTuple):
    """Where a field is in its file."""

    number: int
    start: int  # of its tag
    content: int  # of the string or message in it, which is empty for a number
    end: int


class Field(NamedTuple):
    """One field of a message. `content` is empty unless it is a string or a message."""

    number: int
    content: bytes
    encoded: bytes  # the whole field, tag included


def read_fields(message: bytes) -> Iterator[Field]:
    """The fields of one message, in order; errors of `read_spans`."""
    for number, start, content, end in read_spans(message, 0, len(message)):
        yield Field(number, message[content:end], message[start:end])


def read_spans(
    file: bytes, start: int, end: int, wanted: Container[int] | None = None
) -> Iterator[Span]:
    """The fields of the message that is a part of a file, in order; copies nothing.

    Args:
        file: all of it.
        start: of the message.
        end: of the message.
        wanted: the numbers of the fields to return; `None`: all of them.

    Raises:
        ValueError: it is truncated, or not a protobuf message.
    """
    at = start
    while at < end:
        tag, content = _read_varint(file, at)
        wire_type = tag & 7
        if wire_type == LENGTH:
            size, content = _read_varint(file, content)
            next_at = content + size
        elif wire_type == VARINT:
            _, next_at = _read_varint(file, content)
        elif wire_type in _FIXED_BYTES:
            next_at = content + _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"not an ONNX file: wire type {wire_type} at byte {at}")
        if next_at > end:
            raise ValueError(f"not a complete ONNX file: a field at byte {at} is truncated")
        if not 8 <= tag <= _MAX_TAG:
            raise ValueError(f"not an ONNX file: field number {tag >> 3} at byte {at}")
        if wanted is None or tag >> 3 in wanted:
            yield Span(tag >> 3, at, content if wire_type == LENGTH else next_at, next_at)
        at = next_at


def _read_varint(file: bytes, at: int) -> tuple[int, int]:
    """The value, and the position of the next byte."""
    if at < len(file) and file[at] < 0x80:  # most have one byte
        return file[at], at + 1
    value = shift = 0
    for byte in file[at : at + _MAX_VARINT_BYTES]:
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("not a complete ONNX file: a number is truncated")
