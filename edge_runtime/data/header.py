"""What the header of a picture file says, read before the picture is decoded.

JPEG, PNG, WebP, GIF, TIFF, BMP and PNM, recognised by their content. Headers are not trusted:
no size in them is allocated or looped over, and a header that cannot be understood or
announces too large a picture makes the picture unreadable. Units: pixels and bytes.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from edge_runtime.data.sources import UnreadablePicture

ReadAt: TypeAlias = Callable[[int, int], bytes]  # (position, count); fewer bytes at the end

MAX_PIXELS = 200_000_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
_START_BYTES = 32  # enough to recognise every kind
_MOST_SEGMENTS = 4096  # of a JPEG or PNG before its pixels

_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_MARKER_WITHIN_BYTES = 256  # decoders skip other bytes between two segments
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_SCAN = 0xDA
_COEFFICIENT_BYTES = 2
_BLOCK_PX = 8

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}  # of the decoded picture, by colour type
_PNG_MAY_BECOME_TRANSPARENT = (2, 3)

_PNM_NUMBER = rb"\s(?:\s|#[^\r\n]*[\r\n])*(\d{1,10})"  # after a space and comments
_PNM = re.compile(rb"P([1-6])%b%b(?:%b)?\s" % (_PNM_NUMBER, _PNM_NUMBER, _PNM_NUMBER))
_PNM_BITMAPS = (1, 4)
_PNM_HEADER_BYTES = 4096

_TIFF_FORMATS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
# Width, height, bits per sample, photometric, samples per pixel, rows per strip, tile size.
_TIFF_TAGS = frozenset({256, 257, 258, 262, 277, 278, 322, 323})
_TIFF_GREY = (0, 1)
_ANIMATION_RASTERS = {"GIF": 3, "PNG": 4, "WebP": 4}  # canvases, copies of the first frame
_RASTER_BYTES = 4  # per pixel of the strips into which 8-bit TIFF pictures are decoded


class PictureHeader(NamedTuple):
    """Size of a picture as it is stored, and what its decoder will allocate, at most."""

    kind: str  # "JPEG", "PNG", ...
    width: int
    height: int
    channels: int  # of OpenCV's result; at most
    sample_bytes: int = 1
    working_bytes: int = 0  # held by the decoder beside the picture: coefficients, a strip
    scan_start: int = 0  # position of a JPEG's first scan
    components: int = 0  # of a JPEG, if it is in several scans
    is_animated: bool = False  # it may have several frames


def read_header(read_at: ReadAt) -> PictureHeader:
    """Read a picture's header.

    Args:
        read_at: reads bytes of the file.

    Raises:
        UnreadablePicture: it is empty, of an unknown kind, its header cannot be understood, or
            it has more than `MAX_PIXELS`.
    """
    start = read_at(0, _START_BYTES)
    if not start:
        raise UnreadablePicture("the file is empty")
    kind = _kind(start)
    if kind is None:
        raise UnreadablePicture(
            "it is not a JPEG, PNG, WebP, GIF, TIFF, BMP or PNM picture, or it is truncated"
        )
    try:
        header = _READERS[kind](read_at)
    except (struct.error, ValueError, KeyError) as error:
        raise UnreadablePicture(
            f"the header of this {kind} is truncated or damaged"
        ) from error
    return _checked(header)


def header_of(content: bytes) -> PictureHeader:
    """The header of a picture file in memory; errors of `read_header`."""
    return read_header(lambda position, count: content[position : position + count])


def _kind(start: bytes) -> str | None:
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(PNG_SIGNATURE):
        return "PNG"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WebP"
    if start.startswith(GIF_SIGNATURES):
        return "GIF"
    if start.startswith(TIFF_SIGNATURES):
        return "TIFF"
    if start.startswith(b"BM"):
        return "BMP"
    return "PNM" if re.match(rb"P[1-6]\s", start) else None


def _checked(header: PictureHeader) -> PictureHeader:
    if min(header.width, header.height) < 1:
        raise UnreadablePicture(f"it has no pixels: {header.width} x {header.height}")
    if header.width * header.height > MAX_PIXELS:
        raise UnreadablePicture(
            f"it has {header.width} x {header.height} pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} megapixels that are decoded; make it smaller"
        )
    return header


def _unpack(layout: str, read_at: ReadAt, position: int) -> tuple[Any, ...]:
    return struct.unpack(layout, read_at(position, struct.calcsize(layout)))


def _jpeg(read_at: ReadAt) -> PictureHeader:
    frame = None
    for marker, position in _jpeg_segments(read_at):
        if marker in _FRAMES:
            frame = marker, position
        elif marker == _START_OF_SCAN and frame is not None:
            return _jpeg_header(read_at, *frame, position)
    raise ValueError("no scan after a frame")


def _jpeg_header(read_at: ReadAt, frame: int, at: int, scan: int) -> PictureHeader:
    height, width, components = _unpack(">3xHHB", read_at, at)
    sampling = read_at(at + 8, 3 * components)[1::3]
    (in_scan,) = _unpack(">2xB", read_at, scan)
    # Only a picture in a single scan is decoded row by row.
    whole = frame in _PROGRESSIVE or in_scan < components
    return PictureHeader(
        kind="JPEG",
        width=width,
        height=height,
        channels=3,
        working_bytes=_coefficient_bytes(width, height, sampling) if whole else 0,
        scan_start=scan,
        components=components if whole else 0,
    )


def _jpeg_segments(read_at: ReadAt) -> Iterator[tuple[int, int]]:
    """Marker of every segment, and the position of its length, as libjpeg finds them."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        start = read_at(position, _MARKER_WITHIN_BYTES)
        found = _JPEG_MARKER.search(start)
        if found is None:
            raise ValueError("no marker")
        position += found.end()
        if (marker := start[found.end() - 1]) not in _WITHOUT_LENGTH:
            yield marker, position
            position += struct.unpack_from(">H", start, found.end())[0]
    raise ValueError("too many segments")


def _coefficient_bytes(width: int, height: int, sampling: bytes) -> int:
    """The coefficients of all components, in whole blocks."""
    factors: list[tuple[int, int]] = [divmod(byte, 16) for byte in sampling]
    across, down = max(wide for wide, _ in factors), max(high for _, high in factors)
    if not across * down:
        raise ValueError("components without samples")
    columns = -(-width // (across * _BLOCK_PX))
    rows = -(-height // (down * _BLOCK_PX))
    blocks = sum(columns * wide * rows * high for wide, high in factors)
    return blocks * _BLOCK_PX * _BLOCK_PX * _COEFFICIENT_BYTES


def _png(read_at: ReadAt) -> PictureHeader:
    name, width, height, bits, colour = _unpack(">8x4x4sIIBB", read_at, 0)
    if name != b"IHDR" or colour not in _PNG_CHANNELS:
        raise ValueError("no PNG header")
    chunks = set(_png_chunks(read_at))
    transparent = b"tRNS" in chunks and colour in _PNG_MAY_BECOME_TRANSPARENT
    if b"acTL" in chunks:
        return _animated("PNG", width, height)
    return PictureHeader(
        kind="PNG",
        width=width,
        height=height,
        channels=4 if transparent else _PNG_CHANNELS[colour],
        sample_bytes=2 if bits == 16 else 1,
    )


def _png_chunks(read_at: ReadAt) -> Iterator[bytes]:
    """Names of the chunks before the pixels."""
    position = len(PNG_SIGNATURE)
    for _ in range(_MOST_SEGMENTS):
        size, name = _unpack(">I4s", read_at, position)
        if name == b"IDAT":
            return
        yield name
        position += 12 + size  # size, name and checksum around the data
    raise ValueError("too many chunks")


def _webp(read_at: ReadAt) -> PictureHeader:
    (chunk,) = _unpack("4s", read_at, 12)
    if chunk == b"VP8 ":
        width, height = _unpack("<3x3xHH", read_at, 20)  # two bits of each are a scale
        return _webp_header(width & 0x3FFF, height & 0x3FFF)
    if chunk == b"VP8L":
        (bits,) = _unpack("<xI", read_at, 20)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return _webp_header(width, height, alpha=bool(bits >> 28 & 1), rasters=1)
    if chunk != b"VP8X":
        raise ValueError("no WebP header")
    flags, *size = _unpack("<B3xHBHB", read_at, 20)
    width, height = (low + (high << 16) + 1 for low, high in (size[:2], size[2:]))
    if flags & 0x02:
        return _animated("WebP", width, height)
    # The pixels may be lossless.
    return _webp_header(width, height, alpha=bool(flags & 0x10), rasters=1)


def _webp_header(
    width: int, height: int, *, alpha: bool = False, rasters: int = 0
) -> PictureHeader:
    return PictureHeader(
        kind="WebP",
        width=width,
        height=height,
        channels=4 if alpha else 3,
        working_bytes=rasters * width * height * _RASTER_BYTES,
    )


def _gif(read_at: ReadAt) -> PictureHeader:
    return _animated("GIF", *_unpack("<6xHH", read_at, 0))


def _animated(kind: str, width: int, height: int) -> PictureHeader:
    return PictureHeader(
        kind=kind,
        width=width,
        height=height,
        channels=4,
        working_bytes=_ANIMATION_RASTERS[kind] * width * height * _RASTER_BYTES,
        is_animated=True,
    )


def _tiff(read_at: ReadAt) -> PictureHeader:
    order = ">" if read_at(0, 2) == b"MM" else "<"
    tags = _tiff_tags(read_at, order)
    width, height, samples = tags[256], tags[257], tags.get(277, 1)
    sample_bytes = _sample_bytes(tags.get(258, 1))
    grey = tags.get(262) in _TIFF_GREY and samples <= 2
    return PictureHeader(
        kind="TIFF",
        width=width,
        height=height,
        channels=1 if grey else max(3, samples),
        sample_bytes=sample_bytes,
        working_bytes=_tiff_strip_bytes(tags, width, height),
    )


def _tiff_tags(read_at: ReadAt, order: str) -> dict[int, int]:
    """The tags of the first directory that matter; of several values, the first."""
    (directory,) = _unpack(f"{order}I", read_at, 4)
    (count,) = _unpack(f"{order}H", read_at, directory)
    entries = read_at(directory + 2, 12 * count)
    tags: dict[int, int] = {}
    for tag, kind, values, field in struct.iter_unpack(f"{order}HHI4s", entries):
        if tag in _TIFF_TAGS:
            layout = order + _TIFF_FORMATS[kind]
            size = struct.calcsize(layout)
            if values * size > len(field):
                field = read_at(struct.unpack(f"{order}I", field)[0], size)
            tags.setdefault(tag, struct.unpack(layout, field[:size])[0])
    return tags


def _tiff_strip_bytes(tags: dict[int, int], width: int, height: int) -> int:
    """What is decoded at once: a strip or a tile, as it is stored and as a raster."""
    columns = tags.get(322, width)
    rows = tags.get(323, min(tags.get(278, height), height))
    if columns * rows > MAX_PIXELS:
        raise ValueError("too large a strip or tile")
    bits = tags.get(258, 1) * max(3, tags.get(277, 1))
    return columns * rows * (_RASTER_BYTES + -(-bits // 8))


def _sample_bytes(bits: int) -> int:
    return next((size for size in (1, 2, 4) if bits <= 8 * size), 8)


def _bmp(read_at: ReadAt) -> PictureHeader:
    (size,) = _unpack("<I", read_at, 14)
    old = size == 12
    width, height, bits = _unpack("<HH2xH" if old else "<ii2xH", read_at, 18)
    return PictureHeader(
        kind="BMP", width=width, height=abs(height), channels=4 if bits == 32 else 3
    )


def _pnm(read_at: ReadAt) -> PictureHeader:
    found = _PNM.match(read_at(0, _PNM_HEADER_BYTES))
    if found is None:
        raise ValueError("no size")
    number, width, height = map(int, found.groups()[:3])
    # The number that follows the size of a bitmap is a pixel.
    maximum = 1 if number in _PNM_BITMAPS else int(found[4] or b"")
    return PictureHeader(
        kind="PNM",
        width=width,
        height=height,
        channels=3 if number in (3, 6) else 1,
        sample_bytes=2 if maximum > 255 else 1,
    )


_READERS: dict[str, Callable[[ReadAt], PictureHeader]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "GIF": _gif,
    "TIFF": _tiff,
    "BMP": _bmp,
    "PNM": _pnm,
}
