"""Headers: what they say of real pictures, and that hostile ones are only unreadable."""

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from data_pictures import encoded, jpeg, smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.data import UnreadablePicture
from edge_runtime.data.decode import decode_picture
from edge_runtime.data.header import MAX_PIXELS, header_of

HEIGHT, WIDTH = 24, 36


def photo() -> Image.Image:
    return Image.fromarray(smooth_picture(HEIGHT, WIDTH))


def deep(extension: str, channels: int) -> bytes:
    array = np.full((HEIGHT, WIDTH, channels), 40_000, dtype=np.uint16)
    return cv2.imencode(extension, array)[1].tobytes()


RGBA = photo().convert("RGBA")
PICTURES = {
    "JPEG": encoded(photo(), "JPEG"),
    "progressive JPEG": encoded(photo(), "JPEG", progressive=True),
    "CMYK JPEG": encoded(photo().convert("CMYK"), "JPEG"),
    "grey PNG": encoded(photo().convert("L"), "PNG"),
    "1-bit PNG": encoded(photo().convert("1"), "PNG"),
    "palette PNG": encoded(photo().convert("P"), "PNG"),
    "transparent palette PNG": encoded(photo().convert("P"), "PNG", transparency=3),
    "RGBA PNG": encoded(RGBA, "PNG"),
    "16-bit grey PNG": deep(".png", 1),
    "16-bit RGBA PNG": deep(".png", 4),
    "animated PNG": encoded(photo(), "PNG", save_all=True, append_images=[photo().rotate(90)]),
    "lossy WebP": encoded(photo(), "WEBP"),
    "lossless WebP": encoded(RGBA, "WEBP", lossless=True),
    "WebP with EXIF": encoded(photo(), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "lossy WebP with alpha": encoded(RGBA, "WEBP"),
    "grey TIFF": encoded(photo().convert("L"), "TIFF"),
    "RGBA TIFF": encoded(RGBA, "TIFF"),
    "16-bit TIFF": deep(".tiff", 3),
    "palette TIFF": encoded(photo().convert("P"), "TIFF"),
    "compressed TIFF": encoded(photo(), "TIFF", compression="tiff_lzw"),
    "BMP": encoded(photo(), "BMP"),
    "palette BMP": encoded(photo().convert("P"), "BMP"),
    "RGBA BMP": encoded(RGBA, "BMP"),
    "PPM": encoded(photo(), "PPM"),
    "PGM": encoded(photo().convert("L"), "PPM"),
    "16-bit PGM": deep(".pgm", 1),
    "PBM": encoded(photo().convert("1"), "PPM"),
    "PGM with comments": b"P5 #a\n# b 9 9\n2 # c\n 3\n255\n" + bytes(6),
    "text PGM": b"P2\n2 2\n300\n1 2 3 300\n",
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_header_is_what_opencv_decodes(name) -> None:
    header = header_of(PICTURES[name])
    content = np.frombuffer(PICTURES[name], dtype=np.uint8)
    flags = cv2.IMREAD_COLOR if header.kind == "JPEG" else cv2.IMREAD_UNCHANGED
    array = cv2.imdecode(content, flags)
    assert (header.height, header.width) == array.shape[:2]
    assert header.sample_bytes == array.itemsize
    assert (1 if array.ndim == 2 else array.shape[2]) <= header.channels
    assert name.partition("-")[2] or header.kind in name or header.kind == "PNM"


def test_only_jpegs_in_several_scans_hold_coefficients() -> None:
    assert header_of(PICTURES["JPEG"]).working_bytes == 0
    # Two bytes for each of 64 coefficients: of 3 x 5 blocks of luma, in whole blocks of
    # chroma of half the resolution, and of 2 x 3 blocks of each chroma.
    assert header_of(PICTURES["progressive JPEG"]).working_bytes == 128 * (4 * 6 + 2 * 2 * 3)


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png_of(width: int, height: int, bits: int, *before: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    start = b"\x89PNG\r\n\x1a\n" + header + b"".join(before)
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_over_the_cap_is_refused_before_it_is_decoded() -> None:
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(3751 * 1000)) for _ in range(30)) + rows.flush()
    content = png_of(30_000, 30_000, 1, data=data)
    assert len(content) < 3_000_000
    start_s = time.monotonic()
    message = "it has 30000 x 30000 pixels, more than the 200 megapixels that are decoded"
    with pytest.raises(UnreadablePicture, match=message):
        decode_picture(content)
    assert time.monotonic() - start_s < 0.1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"P6\n20001 10000\n255\n", id="PNM"),
        pytest.param(
            b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 10, -(1 << 31), 1, 24), id="BMP"
        ),
        pytest.param(
            b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(9),
            id="WebP",
        ),
        pytest.param(
            PICTURES["JPEG"].replace(
                struct.pack(">HH", HEIGHT, WIDTH), b"\xff\xff\xff\xff", 1
            ),
            id="JPEG",
        ),
    ],
)
def test_every_kind_has_the_cap(content) -> None:
    assert MAX_PIXELS == 200_000_000
    with pytest.raises(UnreadablePicture, match="more than the 200 megapixels"):
        header_of(content)


def tiff_of(*entries: tuple[int, int, int, int]) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PICTURES["JPEG"][:30], id="cut JPEG"),
        pytest.param(b"\xff\xd8" + b"\xff\xd0" * 100_000, id="JPEG of markers"),
        pytest.param(b"\xff\xd8\xff\xe0" + b"\0\0" * 100_000, id="JPEG segments of no length"),
        pytest.param(
            b"\xff\xd8\xff\xc2\0\x0b\x08\0\1\0\1\1\1\0\0\xff\xda\0\3\1",
            id="JPEG without samples",
        ),
        pytest.param(b"\xff\xd8\xff\xda\0\x08\3" + bytes(9), id="JPEG without a frame"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(40), id="PNG without a header"),
        pytest.param(png_of(1, 1, 8, chunk(b"tEXt", b"") * 5000), id="PNG of chunks"),
        pytest.param(png_of(1, 1, 8)[:40], id="PNG without pixels"),
        pytest.param(b"RIFF\0\0\0\0WEBPJUNK" + bytes(40), id="WebP"),
        pytest.param(b"RIFF\0\0\0\0WEBPVP8X", id="cut WebP"),
        pytest.param(b"II*\0\xff\xff\xff\xff", id="TIFF directory outside"),
        pytest.param(tiff_of((256, 4, 1, 9)), id="TIFF without a height"),
        pytest.param(tiff_of((256, 16, 1, 9), (257, 4, 1, 9)), id="TIFF with an unknown type"),
        pytest.param(tiff_of((256, 4, 9, 1 << 31), (257, 4, 1, 9)), id="TIFF value outside"),
        pytest.param(
            tiff_of(
                (256, 4, 1, 9), (257, 4, 1, 9), (322, 4, 1, 1 << 16), (323, 4, 1, 1 << 16)
            ),
            id="TIFF of a huge tile",
        ),
        pytest.param(b"BM\0\0\0", id="cut BMP"),
        pytest.param(b"P6\n" + b"9" * 5000 + b" 1\n255\n", id="PNM of digits"),
        pytest.param(b"P6\n" + b"#" * 10_000, id="PNM of a comment"),
        pytest.param(b"P5\n3 3\n", id="PNM without a maximum"),
    ],
)
def test_a_hostile_header_is_unreadable_at_once(content) -> None:
    start_s = time.monotonic()
    with pytest.raises(UnreadablePicture, match=r"header of this \w+ is truncated or damaged"):
        header_of(content)
    assert time.monotonic() - start_s < 0.2


@pytest.mark.parametrize("content", [png_of(0, 5, 8), b"P6\n0 4\n255\n", png_of(0, 0, 8)])
def test_a_picture_without_pixels_is_unreadable(content) -> None:
    with pytest.raises(UnreadablePicture, match="it has no pixels"):
        header_of(content)


@pytest.mark.parametrize("content", [b"GIF88a" + bytes(40), b"P7\nWIDTH 4\n", b"no picture"])
def test_other_kinds_are_refused(content) -> None:
    with pytest.raises(UnreadablePicture, match="it is not a JPEG, PNG, WebP, GIF, TIFF, BMP"):
        decode_picture(content)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(PICTURES)), st.data())
def test_damage_gives_no_other_error(name, data) -> None:
    content = bytearray(PICTURES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        try:
            header = header_of(damaged)
        except UnreadablePicture:
            continue
        assert 0 < header.width * header.height <= MAX_PIXELS


def test_bytes_between_segments_are_skipped_as_libjpeg_does() -> None:
    content = jpeg(smooth_picture(HEIGHT, WIDTH))
    first = 4 + int.from_bytes(content[4:6], "big")
    padded = content[:first] + b"\0\0\xff\0" + content[first:]
    assert header_of(padded)[:4] == ("JPEG", WIDTH, HEIGHT, 3)
    np.testing.assert_array_equal(decode_picture(padded), decode_picture(content))
