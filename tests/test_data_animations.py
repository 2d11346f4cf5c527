"""The first frame of animated pictures, whatever OpenCV makes of them."""

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from data_pictures import smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.data import UnreadablePicture
from edge_runtime.data.decode import decode_picture
from edge_runtime.data.header import header_of

FIRST, SECOND = (Image.fromarray(smooth_picture(24, 36, seed)) for seed in (0, 1))


def animated(kind: str, first: Image.Image = FIRST, **options) -> bytes:
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=[SECOND], **options)
    return file.getvalue()


KINDS = {
    "GIF": animated("GIF"),
    "PNG": animated("PNG"),
    "WEBP": animated("WEBP", lossless=True),
    "TIFF": animated("TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_frame_is_read(kind) -> None:
    expected = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    picture = decode_picture(KINDS[kind])
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)
    # a GIF has 256 colours
    assert np.abs(picture.astype(int) - np.asarray(FIRST)).mean() < (9 if kind == "GIF" else 1)
    assert header_of(KINDS[kind]).is_animated == (kind != "TIFF")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_transparency_becomes_white(kind) -> None:
    first = FIRST.convert("RGBA")
    first.paste((0, 0, 0, 0), (0, 0, 10, 10))
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = decode_picture(animated(kind, first, **options))
    assert (picture[:9, :9] == 255).all()
    assert picture[12:].min() < 200


def test_a_deep_grey_animation_keeps_its_range() -> None:
    levels = np.linspace(0, 65535, 24 * 36).reshape(24, 36).astype(np.uint16)
    file = io.BytesIO()
    deep = [Image.fromarray(levels), Image.fromarray(levels[::-1].copy())]
    deep[0].save(file, "PNG", save_all=True, append_images=deep[1:])
    assert header_of(file.getvalue()).is_animated
    expected = np.repeat(levels[:, :, None] / 257, 3, axis=2)
    np.testing.assert_allclose(decode_picture(file.getvalue()), expected, rtol=0, atol=0.51)


@pytest.mark.parametrize("way", [3, 6])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_turned_upright(kind, way) -> None:
    exif = Image.Exif()
    exif[0x0112] = way
    options = {"lossless": True} if kind == "WEBP" else {}
    turned = decode_picture(animated(kind, exif=exif, **options))
    expected = np.rot90(np.asarray(FIRST), {3: 2, 6: 3}[way])
    np.testing.assert_array_equal(turned, expected)


def test_a_frame_larger_than_its_gif_is_refused() -> None:
    """It would take 17 GB, of a file that announces one pixel."""
    content = bytearray(KINDS["GIF"])
    content[6:10] = struct.pack("<HH", 1, 1)
    frame = content.index(b"\x2c\0\0\0\0")
    content[frame + 5 : frame + 9] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(UnreadablePicture, match="its first frame: Image size"):
        decode_picture(bytes(content))


def test_a_frame_of_another_size_than_its_gif_is_refused() -> None:
    content = bytearray(KINDS["GIF"])
    content[6:10] = struct.pack("<HH", 36, 20)
    with pytest.raises(UnreadablePicture, match="frame is larger than the picture"):
        decode_picture(bytes(content))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_a_cut_animation_is_unreadable(kind) -> None:
    with pytest.raises(UnreadablePicture):
        decode_picture(KINDS[kind][: len(KINDS[kind]) // 4])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_damaged_animation_gives_a_picture_or_the_error(kind, data) -> None:
    content = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnreadablePicture):
        decode_picture(bytes(content))
