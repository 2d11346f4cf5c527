"""The EXIF orientation of a PNG or WebP picture.

OpenCV rotates JPEG and TIFF pictures itself. It does not rotate PNG and WebP when alpha is
requested, and older versions never do, so their EXIF block is read here.
"""

import struct

UPRIGHT = 1
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112


def orientation(content: bytes) -> int:
    """EXIF orientation, 1 to 8, of a PNG or WebP file; 1 without one, and for other files."""
    try:
        block = _exif_block(content)
        value = _orientation_of(block.removeprefix(b"Exif\0\0")) if block else UPRIGHT
    except struct.error:  # the block is truncated; the picture may still be fine
        return UPRIGHT
    return value if 1 <= value <= 8 else UPRIGHT


def _exif_block(content: bytes) -> bytes | None:
    if content.startswith(_PNG):
        return _png_exif(content)
    return _webp_exif(content) if content[8:12] == b"WEBP" else None


def _png_exif(content: bytes) -> bytes | None:
    position = len(_PNG)
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"eXIf":
            return content[position + 8 : position + 8 + size]
        position += 12 + size  # size, kind and checksum around the data
    return None


def _webp_exif(content: bytes) -> bytes | None:
    position = 12  # "RIFF", size, "WEBP"
    while position < len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        if kind == b"EXIF":
            return content[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return None


def _orientation_of(block: bytes) -> int:
    """The tag's value in the first directory of a TIFF block."""
    order = ">" if block.startswith(b"MM") else "<"
    (directory,) = struct.unpack_from(f"{order}I", block, 4)
    (entries,) = struct.unpack_from(f"{order}H", block, directory)
    for entry in range(entries):
        tag, _, _, value = struct.unpack_from(
            f"{order}HHIH", block, directory + 2 + 12 * entry
        )
        if tag == _ORIENTATION_TAG:
            return int(value)
    return UPRIGHT
