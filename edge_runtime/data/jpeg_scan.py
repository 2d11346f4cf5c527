"""Whether the scans of a JPEG have data for the whole picture.

libjpeg puts grey where data is missing, and only prints a warning. So a picture with a grey
corner is suspect, and one experiment decides: it is decoded again with noise after its data.
The noise changes it only if data was missing, because decoders ignore what follows a complete
scan. Damage in the middle of a scan cannot be told from a picture with more detail.
"""

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from edge_runtime.data.header import PictureHeader
from edge_runtime.data.sources import Image

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # of a segment: it ends a scan
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_COEFFICIENTS = 64
_NOT_SENT = 255
_NOISE = bytes(97 * number % 251 for number in range(1024))  # without 0xff
# Missing data, decoded: 128 in all components; two kinds of CMYK become other grey levels.
_GREY = ([64] * 3, [65] * 3, [128] * 3)
_REDUCTION = 8


def lacks_data(content: bytes, header: PictureHeader, decoded: Image) -> bool:
    """Whether a part of a JPEG with an end marker is missing.

    Args:
        content: of the file.
        header: of it.
        decoded: (h, w, 3) by OpenCV, of any reduction and orientation.
    """
    try:
        if header.components:
            return not _sends_all(content, header)
    except struct.error:  # its segments end too early
        return True
    corners = decoded[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
    return any(corner in _GREY for corner in corners) and _noise_changes_it(
        content, header.scan_start
    )


def _noise_changes_it(content: bytes, scan: int) -> bool:
    start = scan + _length(content, scan)
    found = _MARKER.search(content, start)
    end = found.start() if found else len(content)
    # If the data is in intervals, the decoder waits for the marker of the next one.
    intervals = sum(1 for _ in _RESTART.finditer(content, start, end))
    marker = b"\xff%c" % (0xD0 + intervals % 8)
    noisy = content[:end] + _NOISE + marker + _NOISE + content[end:]
    try:
        return not np.array_equal(_decoded(content), _decoded(noisy))
    except (OSError, SyntaxError, ValueError):
        return False  # Pillow understands the file differently: it cannot tell


def _decoded(content: bytes) -> NDArray[np.uint8]:
    """The picture at an eighth of its size, by Pillow, which prints no warnings."""
    picture = JpegImageFile(io.BytesIO(content))
    size = picture.width // _REDUCTION, picture.height // _REDUCTION
    picture.draft(None, (max(1, size[0]), max(1, size[1])))
    return np.asarray(picture)


def _sends_all(content: bytes, header: PictureHeader) -> bool:
    """Whether all bits of all coefficients are sent, in any number of scans."""
    lowest_bits: dict[int, NDArray[np.uint8]] = {}
    for components, first, last, bit in _scans(content, header.scan_start):
        for component in components:
            bits = lowest_bits.setdefault(
                component, np.full(_COEFFICIENTS, _NOT_SENT, dtype=np.uint8)
            )
            bits[first : last + 1] = bit
    is_complete = all(not bits.any() for bits in lowest_bits.values())
    return is_complete and len(lowest_bits) == header.components


def _scans(content: bytes, position: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Of each scan: its components, its first and last coefficient, its lowest bit."""
    while True:
        end = position + _length(content, position)
        (count,) = struct.unpack_from("B", content, position + 2)
        first, last, bits = struct.unpack_from("BBB", content, position + 3 + 2 * count)
        yield content[position + 3 : position + 3 + 2 * count : 2], first, last, bits & 15
        while True:
            found = _MARKER.search(content, end)
            if found is None or found[1][0] == _END_OF_IMAGE:
                return
            position = found.end()
            if found[1][0] == _START_OF_SCAN:
                break
            end = position + _length(content, position)


def _length(content: bytes, segment: int) -> int:
    return int(struct.unpack_from(">H", content, segment)[0])
