"""Picture files to uint8 (H, W, 3) RGB, upright.

JPEG (also grayscale and CMYK), PNG, WebP, GIF, TIFF, BMP and PNM, recognised by their content.
Choices:

- Of animations, the first frame is used. Pillow decodes it: OpenCV's versions differ in which
  animations they read, and how.
- Transparent pictures are put on white, the usual background of cut-out objects.
- 16-bit samples are scaled by 1/257, so that the full range is kept.
- Floating-point pictures are unreadable, because their range is unknown.
- A JPEG without its end marker, or whose scan lacks data (`jpeg_scan`), is unreadable. OpenCV
  silently fills the missing part with grey, and the picture would be used for training. A
  picture that lacks nothing but the marker is refused, too.
- OpenCV rotates JPEG and TIFF pictures itself. It does not rotate PNG and WebP when alpha is
  requested, and older versions never do, so their EXIF block is read here.

A large picture is changed in place or in strips: whole temporary copies would often take more
memory than training.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError
from PIL.Image import Image as PillowImage
from PIL.ImageFile import ImageFile

from edge_runtime.data.header import PNG_SIGNATURE, PictureHeader, header_of
from edge_runtime.data.jpeg_scan import lacks_data
from edge_runtime.data.sources import Image, UnreadablePicture

_JPEG_END = b"\xff\xd9"
_JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_STRIP_BYTES = 1 << 18  # stays in the processor's cache


def decode_picture(
    content: bytes, *, header: PictureHeader | None = None, reduction: int = 1
) -> Image:
    """Decode the bytes of a picture file.

    Args:
        content: of the file.
        header: of this content, if it was read before.
        reduction: 1, 2, 4 or 8: a JPEG is decoded at this fraction of its width and height,
            rounded up. Only the needed frequencies are transformed, which takes less time and
            memory. Other kinds are not reduced.

    Raises:
        UnreadablePicture: it is empty, truncated, damaged, too large or of an unknown kind.
    """
    header = header or header_of(content)
    if header.kind == "JPEG":
        if not _jpeg_is_complete(content, header.scan_start):
            raise UnreadablePicture("the JPEG is truncated: its end marker is missing")
        picture = _decode(content, _JPEG_FLAGS[reduction])
        if lacks_data(content, header, picture):
            raise UnreadablePicture(
                "the JPEG is truncated: its scan has no data for a part of it"
            )
        return to_rgb(picture)
    if header.is_animated:
        picture = _first_frame(content, header)
    else:
        picture = _decode(content, cv2.IMREAD_UNCHANGED)
    picture = _upright(picture, exif_orientation(content))
    if header.kind == "TIFF":
        _put_tiff_on_white(picture)
    return to_rgb(picture)


def to_rgb(picture: NDArray[Any]) -> Image:
    """RGB of an OpenCV picture: grey, BGR or BGRA, 8 or 16 bits.

    Its memory is reused where possible, so `picture` must not be used afterwards.

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
        for rows in _strips(picture):
            picture[rows] = cv2.cvtColor(picture[rows], cv2.COLOR_BGR2RGB)
        return _uint8(picture)
    if channels == 4:
        return _on_white(picture)
    raise UnreadablePicture(f"it has {channels} channels; expected 1, 3 or 4")


def _strips(picture: NDArray[Any]) -> Iterator[slice]:
    """Successive rows of a picture, together all of it."""
    rows = max(1, _STRIP_BYTES // picture[0].nbytes)
    for start in range(0, len(picture), rows):
        yield slice(start, start + rows)


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


def _first_frame(content: bytes, header: PictureHeader) -> NDArray[Any]:
    """BGRA, or grey with 16 bits."""
    frame = _frame(content, header)
    if frame.mode != "RGBA":
        return np.array(frame, dtype=np.uint16)
    rgba = np.array(frame)
    return cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA, dst=rgba)


def _frame(content: bytes, header: PictureHeader) -> PillowImage:
    """The first frame alone: the reader, with its canvases, is gone when this returns."""
    try:
        with _animation(header.kind)(io.BytesIO(content)) as frames:
            if frames.size != (header.width, header.height):
                raise UnreadablePicture("its first frame is larger than the picture")
            return frames.copy() if frames.mode.startswith("I") else frames.convert("RGBA")
    except (DecompressionBombError, EOFError, OSError, SyntaxError, ValueError) as error:
        raise UnreadablePicture(f"Pillow cannot read its first frame: {error}") from error


def _animation(kind: str) -> type[ImageFile]:
    """Pillow's reader; each loads a library of its own."""
    if kind == "GIF":
        from PIL.GifImagePlugin import GifImageFile

        return GifImageFile
    if kind == "PNG":
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile


def _jpeg_is_complete(content: bytes, scan_start: int) -> bool:
    if content.endswith(_JPEG_END):
        return True
    # Phones append a second picture or a video, and a thumbnail before the scan has its own
    # end marker: search after the start of the first scan.
    return content.find(_JPEG_END, scan_start) >= 0


def _on_white(bgra: NDArray[Any]) -> Image:
    rgb = np.empty((*bgra.shape[:2], 3), dtype=np.uint8)
    for rows in _strips(bgra):
        rgba = cv2.cvtColor(bgra[rows], cv2.COLOR_BGRA2RGBA).astype(np.uint16)
        colour, alpha = rgba[:, :, :3], rgba[:, :, 3:]
        rgb[rows] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return rgb


def _put_tiff_on_white(picture: NDArray[Any]) -> None:
    """Undo that libtiff multiplies colours with alpha, in 8-bit pictures only; in place."""
    if picture.dtype != np.uint8 or picture.shape[2:] != (4,):
        return
    for rows in _strips(picture):
        strip = picture[rows]
        mixed = strip[:, :, :3].astype(np.uint16) + (255 - strip[:, :, 3:])
        strip[:, :, :3] = np.minimum(mixed, 255)
        strip[:, :, 3] = 255


def _upright(picture: NDArray[Any], exif: int) -> NDArray[Any]:
    """Undo an EXIF orientation: 2 to 4 mirror or turn it around, 5 to 8 swap its axes."""
    if exif >= 5:
        picture = cv2.transpose(picture)
    if (flip := {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(exif)) is not None:
        cv2.flip(picture, flip, dst=picture)
    return picture


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
    if content.startswith(PNG_SIGNATURE):
        return _png_exif(content)
    return _webp_exif(content) if content[8:12] == b"WEBP" else None


def _png_exif(content: bytes) -> bytes | None:
    position = len(PNG_SIGNATURE)
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
