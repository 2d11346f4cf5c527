"""Decoding against Pillow: turned, grey, palette, transparent, CMYK, 16-bit, damaged."""

import io
import struct

import cv2
import numpy as np
import pytest
from data_pictures import encoded, jpeg, png, smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edge_runtime.data import UnreadablePicture
from edge_runtime.data.decode import decode_picture, exif_orientation, to_rgb

ORIENTATION_TAG = 0x0112
# Two JPEG decoders differ by roundings of the transform and of the colour conversion.
JPEG_LEVELS = 4


def pillow_rgb(content: bytes) -> np.ndarray:
    """Pillow's result: upright, on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def photo() -> Image.Image:
    return Image.fromarray(smooth_picture(24, 36))


def see_through() -> Image.Image:
    image = photo().convert("RGBA")
    alpha = np.linspace(0, 255, 24 * 36).reshape(24, 36).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("way", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(kind, way) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = way
    options = {"tiffinfo": exif} if kind == "TIFF" else {"exif": exif}
    if kind == "WEBP":
        options["lossless"] = True
    content = encoded(photo(), kind, **options)
    picture = decode_picture(content)
    assert picture.shape == ((36, 24, 3) if way >= 5 else (24, 36, 3))
    levels = JPEG_LEVELS if kind == "JPEG" else 0
    np.testing.assert_allclose(
        picture.astype(int), pillow_rgb(content).astype(int), rtol=0, atol=levels
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_is_read_in_both_byte_orders(order, prefix) -> None:
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 2)
    block += struct.pack(f"{order}HHII", 0x0100, 3, 1, 0)
    block += struct.pack(f"{order}HHIHH", ORIENTATION_TAG, 3, 1, 3, 0)
    content = encoded(photo(), "PNG", exif=prefix + block)
    expected = np.asarray(photo())[::-1, ::-1]
    np.testing.assert_array_equal(decode_picture(content), expected)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("before", [b"", b"XMP \3\0\0\0abc\0"])
def test_exif_of_webp_is_found_with_and_without_its_prefix(prefix, before) -> None:
    block = prefix + b"II*\0" + struct.pack("<IHHHII", 8, 1, ORIENTATION_TAG, 3, 1, 8)
    chunk = b"EXIF" + struct.pack("<I", len(block)) + block
    assert exif_orientation(b"RIFF\0\0\0\0WEBP" + before + chunk) == 8
    assert exif_orientation(b"RIFF\0\0\0\0WEBP" + before) == 1


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09"]
)
def test_a_broken_exif_block_does_not_cost_the_picture(block) -> None:
    content = encoded(photo(), "PNG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(decode_picture(content), np.asarray(photo()))


def palette(transparent: bool) -> bytes:
    image = photo().convert("P", palette=Image.Palette.ADAPTIVE, colors=7)
    chosen = {"transparency": image.getpixel((3, 3))} if transparent else {}
    return encoded(image, "PNG", **chosen)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(photo().convert("L"), "PNG"), id="grey"),
        pytest.param(encoded(photo().convert("1"), "PNG"), id="one-bit"),
        pytest.param(palette(transparent=False), id="palette"),
        pytest.param(palette(transparent=True), id="palette-with-hole"),
        pytest.param(encoded(see_through(), "PNG"), id="alpha"),
        pytest.param(encoded(see_through().convert("LA"), "PNG"), id="grey-alpha"),
        pytest.param(
            encoded(see_through(), "WEBP", lossless=True, exact=True), id="webp-alpha"
        ),
        pytest.param(encoded(see_through(), "TIFF"), id="tiff-alpha"),
        pytest.param(encoded(photo(), "BMP"), id="bmp"),
        pytest.param(encoded(photo(), "PPM"), id="ppm"),
        pytest.param(encoded(photo().convert("L"), "PPM"), id="pgm"),
    ],
)
def test_lossless_kinds_equal_pillow(content) -> None:
    picture = decode_picture(content)
    assert picture.dtype == np.uint8
    # one level: both round after mixing with white
    np.testing.assert_allclose(
        picture.astype(int), pillow_rgb(content).astype(int), rtol=0, atol=1
    )


def test_full_and_no_alpha_are_exact() -> None:
    image = photo().convert("RGBA")
    image.putpixel((0, 0), (9, 9, 9, 0))
    picture = decode_picture(encoded(image, "PNG"))
    assert picture[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(picture[1:], np.asarray(photo())[1:])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_kinds_equal_pillow(mode, progressive) -> None:
    content = encoded(photo().convert(mode), "JPEG", quality=95, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    np.testing.assert_allclose(decode_picture(content), expected, rtol=0, atol=JPEG_LEVELS)


def test_the_fourth_byte_of_a_bmp_is_not_alpha() -> None:
    content = bytearray(encoded(photo().convert("RGBA"), "BMP"))
    start = int.from_bytes(content[10:14], "little")
    content[start + 3 :: 4] = bytes(len(content[start + 3 :: 4]))  # as many programs leave it
    np.testing.assert_array_equal(decode_picture(bytes(content)), np.asarray(photo()))


@pytest.mark.parametrize(
    ("extension", "channels"),
    [
        (".png", 1),
        (".png", 3),
        (".png", 4),
        (".tiff", 1),
        (".tiff", 3),
        (".tiff", 4),
        (".pgm", 1),
    ],
)
def test_16_bits_keep_their_range(extension, channels) -> None:
    levels = np.linspace(0, 65535, 20 * 30 * channels).reshape(20, 30, channels)
    deep = levels.astype(np.uint16)
    if channels == 4:
        deep[:, :, 3] = 65535
    content = cv2.imencode(extension, deep)[1].tobytes()
    shallow = deep[:, :, :3] / 257
    expected = np.broadcast_to(shallow, (20, 30, 3))[:, :, ::-1]
    np.testing.assert_allclose(decode_picture(content), expected, rtol=0, atol=0.51)


def test_the_content_decides_not_the_name() -> None:
    picture = smooth_picture(8, 9)
    np.testing.assert_array_equal(decode_picture(png(picture)), picture)


def test_floating_point_pictures_are_refused() -> None:
    content = encoded(photo().convert("F"), "TIFF")
    with pytest.raises(UnreadablePicture, match="float32 samples; expected 8 or 16 bits"):
        decode_picture(content)


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(UnreadablePicture, match="5 channels; expected 1, 3 or 4"):
        to_rgb(np.zeros((3, 3, 5), dtype=np.uint8))


def with_thumbnail(content: bytes) -> bytes:
    thumbnail = jpeg(smooth_picture(8, 8))
    segment = b"Exif\0\0" + bytes(8) + thumbnail
    return (
        content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    )


WHOLE = with_thumbnail(jpeg(smooth_picture(40, 48)))
PROGRESSIVE = encoded(photo(), "JPEG", progressive=True)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([WHOLE, PROGRESSIVE]), st.floats(0, 1, exclude_max=True))
def test_a_jpeg_that_is_cut_anywhere_is_unreadable(content, share) -> None:
    with pytest.raises(UnreadablePicture, match=r"truncated|damaged|empty"):
        decode_picture(content[: int(share * len(content))])


def test_a_cut_jpeg_is_refused_by_its_marker_not_by_its_thumbnail() -> None:
    assert WHOLE.count(b"\xff\xd9") >= 2  # the thumbnail has an end marker, too
    with pytest.raises(UnreadablePicture, match="end marker is missing"):
        decode_picture(WHOLE[:-40])


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 5000, jpeg(smooth_picture(8, 8))[:100]])
def test_data_that_phones_append_to_a_jpeg_is_ignored(tail) -> None:
    np.testing.assert_array_equal(decode_picture(WHOLE + tail), decode_picture(WHOLE))


def test_fill_bytes_before_a_marker_are_skipped() -> None:
    filled = WHOLE[:2] + b"\xff\xff" + WHOLE[2:] + b"\0"
    np.testing.assert_array_equal(decode_picture(filled), decode_picture(WHOLE))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_other_kinds_that_are_cut_are_unreadable(kind) -> None:
    content = encoded(photo(), kind)
    with pytest.raises(UnreadablePicture, match="damaged, truncated or not a picture"):
        decode_picture(content[: len(content) * 3 // 4])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"no picture at all", "not a JPEG, PNG, WebP, GIF, TIFF")],
)
def test_a_file_without_a_picture_is_unreadable(content, message) -> None:
    with pytest.raises(UnreadablePicture, match=message):
        decode_picture(content)
