"""Mutations of valid files, each determined by its random generator."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
_NUMBERS = (
    "0", "-1", "1", "2147483648", "4294967296", "9223372036854775807", "10000000000000000000",
    "1" * 5000, "1e308", "-1e308", "5e-324", "1e999", "NaN", "-Infinity", "0.5", "true",
    "2", "3", "16", "0.25", "0.001",
)  # fmt: skip
_VALUES = (
    *_NUMBERS, "null", '""', '"x"', r'"\ud800"', r'"\u0000"', r'"\u001b[2J"', '"../../x"',
    '"' + "a" * 5000 + '"', "[]", "{}", "[[[[[[[[]]]]]]]]", '{"a":' * 30 + "1" + "}" * 30,
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A damaged copy: some bytes changed, or a number or a value of a JSON document."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        content = chance.choice((_change_bytes, _change_number, _change_json))(content, chance)
    return content


def _change_bytes(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    end = min(len(content), start + chance.choice((1, 1, 2, 8, 64, 4096)))
    part = content[start:end]
    new: Callable[[], bytes] = chance.choice(
        (
            lambda: bytes(byte ^ 1 << chance.randrange(8) for byte in part[:1]) + part[1:],
            lambda: bytes([chance.choice(_BYTES)]) * len(part),
            lambda: b"",
            lambda: part + part,
            lambda: part + chance.randbytes(chance.choice((1, 4, 16))),
            lambda: chance.randbytes(len(part)),
            lambda: part + b"\0" * chance.choice((1, 512, 4096)),
        )
    )
    if chance.random() < 0.1:
        return content[:start]
    return content[:start] + new() + content[end:]


def _change_number(content: bytes, chance: random.Random) -> bytes:
    places = list(_NUMBER.finditer(content))
    if not places:
        return _change_bytes(content, chance)
    place = chance.choice(places)
    return content[: place.start()] + chance.choice(_NUMBERS).encode() + content[place.end() :]


def _change_json(content: bytes, chance: random.Random) -> bytes:
    """Replace, remove or repeat a value of a document, or of one of its lines."""
    lines = content.split(b"\n")
    at = chance.randrange(len(lines)) if lines[0].endswith(b"}") and len(lines) > 1 else None
    try:
        table = json.loads(content if at is None else lines[at])
    except (ValueError, RecursionError):
        return _change_number(content, chance)
    mark = "\x00value\x00"
    if not _mark(table, mark, chance):
        return _change_bytes(content, chance)
    text = json.dumps(table).replace(json.dumps(mark), chance.choice(_VALUES))
    if at is None:
        return text.encode()
    lines[at] = text.encode()
    return b"\n".join(lines)


def _mark(table: Any, mark: str, chance: random.Random) -> bool:
    """Put a mark in the place of some value; whether there was one. May remove it instead."""
    while isinstance(table, dict | list) and table:
        key = chance.choice(list(table) if isinstance(table, dict) else range(len(table)))
        inner = table[key]
        if not (isinstance(inner, dict | list) and inner) or chance.random() < 0.1:
            if chance.random() < 0.1:
                del table[key]
            else:
                table[key] = mark
            return True
        table = inner
    return False
