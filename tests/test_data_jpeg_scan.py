"""JPEGs whose scans lack data: refused; complete ones, whatever their colour: read."""

import io
from contextlib import suppress

import numpy as np
import pytest
from data_pictures import smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.data import UnreadablePicture
from edge_runtime.data.decode import decode_picture
from edge_runtime.data.header import PictureHeader, header_of
from edge_runtime.data.jpeg_scan import lacks_data

END = b"\xff\xd9"
GREY = 128


def encoded(picture: np.ndarray | Image.Image, **options) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


KINDS = {
    "plain": encoded(noise(120, 160)),
    "4:4:4": encoded(noise(120, 160), subsampling=0),
    "grey": encoded(Image.fromarray(noise(120, 160)).convert("L")),
    "CMYK": encoded(Image.fromarray(noise(120, 160)).convert("CMYK")),
    "optimised": encoded(smooth_picture(120, 160), optimize=True),
    "intervals": encoded(noise(120, 160), restart_marker_rows=1),
    "short intervals": encoded(noise(120, 160), restart_marker_blocks=2),
    "progressive": encoded(noise(120, 160), progressive=True),
}
exif = Image.Exif()
exif[0x0112] = 6
KINDS["turned"] = encoded(noise(120, 160), exif=exif)


def cut(content: bytes, share: float) -> bytes:
    """Only this share of the scans, with an end marker."""
    start = header_of(content).scan_start
    return content[: start + round(share * (len(content) - start - 2))] + END


@pytest.mark.parametrize("share", [0.05, 0.34, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_without_a_part_of_its_scan_is_unreadable(kind, share) -> None:
    """It was trained on: grey, with an end marker."""
    with pytest.raises(UnreadablePicture, match="truncated: its scan has no data for a part"):
        decode_picture(cut(KINDS[kind], share))


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_it_is_found_at_every_reduction(reduction) -> None:
    with pytest.raises(UnreadablePicture, match="truncated"):
        decode_picture(cut(KINDS["plain"], 0.9), reduction=reduction)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted({*KINDS} - {"progressive"})), st.floats(0.02, 0.93))
def test_most_of_a_scan_is_not_enough(kind, share) -> None:
    with pytest.raises(UnreadablePicture, match="truncated"):
        decode_picture(cut(KINDS[kind], share))


@pytest.mark.parametrize(
    "appended", [b"", bytes(100), KINDS["plain"], b"\xff\xd8\xff\xe1rest"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_jpegs_are_read_with_anything_behind(kind, appended) -> None:
    picture = decode_picture(KINDS[kind] + appended)
    np.testing.assert_array_equal(picture, decode_picture(KINDS[kind]))


@pytest.mark.parametrize("level", [64, 65, GREY])
@pytest.mark.parametrize(
    "options",
    [{}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}, {"progressive": True}],
)
def test_grey_pictures_and_grey_corners_are_read(level, options) -> None:
    flat = np.full((97, 131, 3), level, dtype=np.uint8)
    framed = noise(97, 131)
    framed[48:, 48:] = level
    for picture in (flat, framed):
        decoded = decode_picture(encoded(picture, quality=95, **options))
        assert decoded.shape == picture.shape
    assert (decode_picture(encoded(flat, **options)) == level).all()


def test_a_progressive_jpeg_without_its_last_scans_is_unreadable() -> None:
    content = KINDS["progressive"]
    scans = [place for place in range(len(content)) if content.startswith(b"\xff\xda", place)]
    assert len(scans) > 5
    for scan in scans[1:]:
        with pytest.raises(UnreadablePicture, match="truncated"):
            decode_picture(content[:scan] + END)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_damaged_jpeg_gives_a_picture_or_the_error(kind, data) -> None:
    content = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnreadablePicture):
        decode_picture(bytes(content))


@pytest.mark.parametrize(("components", "lacks"), [(b"\1", True), (b"\1\2\3", False)])
def test_a_component_without_a_scan_is_missing_data(components, lacks) -> None:
    """Each in a scan of its own, as some scanners write them."""
    scans = b"".join(b"\xff\xda\0\x08\1%c\0\0\x3f\0data" % one for one in components)
    header = PictureHeader("JPEG", 8, 8, 3, scan_start=4, components=3)
    content = b"\xff\xd8" + scans + END
    assert lacks_data(content, header, np.zeros((8, 8, 3), np.uint8)) is lacks
