"""Picture files to uint8 (H, W, 3) RGB, upright.

JPEG (also grayscale and CMYK), PNG, WebP, TIFF, BMP and PNM, recognised by their content.
Choices:

- Transparent pictures are put on white, the usual background of cut-out objects.
- 16-bit samples are scaled by 1/257, so that the full range is kept.
- Floating-point pictures are unreadable, because their range is unknown.
- A JPEG without its end marker is unreadable. OpenCV before 5 silently fills the missing part
  with grey, and the picture would be used for training. A picture that lacks nothing but the
  marker is refused, too, because it cannot be distinguished.
- OpenCV rotates JPEG and TIFF pictures itself. It does not rotate PNG and WebP when alpha is
  requested, and older versions never do, so their EXIF block is read here.
"""

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.sources import Image, UnreadablePicture

_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_FILL = 0xFF
_TIFF = (b"II*\0", b"MM\0*")
_PNG = b"\x89PNG\r\n\x1a\n"
_UPRIGHT = 1
_ORIENTATION_TAG = 0x0112


def decode_picture(content: bytes) -> Image:
    """Decode the bytes of a picture file.

    Raises:
        UnreadablePicture: it is empty, truncated, damaged, or of an unknown kind.
    """
    if not content:
        raise UnreadablePicture("the file is empty")
    if content.startswith(_JPEG):
        if not _jpeg_is_complete(content):
            raise UnreadablePicture("the JPEG is truncated: its end marker is missing")
        return to_rgb(_decode(content, cv2.IMREAD_COLOR))
    picture = _decode(content, cv2.IMREAD_UNCHANGED)
    if content.startswith(_TIFF):
        picture = _tiff_on_white(picture)
    return _upright(to_rgb(picture), exif_orientation(content))


def to_rgb(picture: NDArray[Any]) -> Image:
    """RGB of an OpenCV picture: grey, BGR or BGRA, 8 or 16 bits.

    Raises:
        UnreadablePicture: other samples or another number of channels.
    """
    if picture.dtype == np.uint16:
        picture = cv2.convertScaleAbs(picture, alpha=1 / 257)
    if picture.dtype != np.uint8:
        raise UnreadablePicture(f"it has {picture.dtype} samples; expected 8 or 16 bits")
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if channels == 1:
        return _uint8(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB))
    if channels == 3:
        return _uint8(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    if channels == 4:
        return _on_white(_uint8(cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)))
    raise UnreadablePicture(f"it has {channels} channels; expected 1, 3 or 4")


def _decode(content: bytes, flags: int) -> NDArray[Any]:
    try:
        picture = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:
        raise UnreadablePicture(f"OpenCV refused it: {error.err}") from error
    if picture is None:
        raise UnreadablePicture(
            "it is damaged, truncated or not a picture that OpenCV can read"
        )
    return picture


def _jpeg_is_complete(content: bytes) -> bool:
    if content.endswith(_JPEG_END):
        return True
    # Phones append a second picture or a video, and a thumbnail before the scan has its own
    # end marker: search after the start of the first scan.
    return content.find(_JPEG_END, _scan_start(content)) >= 0


def _scan_start(content: bytes) -> int:
    """Where the first scan of a JPEG starts; the end of the file if it has none."""
    position = 2
    while position + 4 <= len(content) and content[position] == _FILL:
        marker = content[position + 1]
        if marker == _START_OF_SCAN:
            return position
        if marker == _FILL:
            position += 1
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content)


def _on_white(rgba: Image) -> Image:
    colour = rgba[:, :, :3].astype(np.uint16)
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return _uint8((colour * alpha + 255 * (255 - alpha) + 127) // 255)


def _tiff_on_white(picture: NDArray[Any]) -> NDArray[Any]:
    """Undo that libtiff multiplies colours with alpha, in 8-bit pictures only."""
    if picture.dtype != np.uint8 or picture.shape[2:] != (4,):
        return picture
    mixed = picture[:, :, :3].astype(np.uint16) + (255 - picture[:, :, 3:])
    return _uint8(np.minimum(mixed, 255))


def _upright(picture: Image, exif: int) -> Image:
    """Undo an EXIF orientation: 2 to 4 mirror or turn it around, 5 to 8 swap its axes."""
    if exif >= 5:
        picture = _uint8(cv2.transpose(picture))
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(exif)
    return picture if flip is None else _uint8(cv2.flip(picture, flip))


def _uint8(array: NDArray[Any]) -> Image:
    return np.asarray(array, dtype=np.uint8)


def exif_orientation(content: bytes) -> int:
    """EXIF orientation, 1 to 8, of a PNG or WebP file; 1 without one, and for other files."""
    try:
        block = _exif_block(content)
        value = _orientation_of(block.removeprefix(b"Exif\0\0")) if block else _UPRIGHT
    except struct.error:  # the block is truncated; the picture may still be fine
        return _UPRIGHT
    return value if 1 <= value <= 8 else _UPRIGHT


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
    return _UPRIGHT
