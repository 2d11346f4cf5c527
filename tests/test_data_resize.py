"""Resizing against the definition of the triangle filter, and against Pillow."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.data import resize
from edge_runtime.data.augmentation import centre_view
from edge_runtime.data.resize import Box, resize_into

# Both passes of an 8-bit implementation round to the nearest level: half a level each.
LEVELS = 1.001


def view_of(picture: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """A view of width and height `size`; default: of the whole picture."""
    view = np.empty((size[1], size[0], 3), dtype=np.uint8)
    resize_into(view, picture, box or Box(0, 0, picture.shape[1], picture.shape[0]))
    return view


def weights(start: int, length: int, result_px: int, available: int) -> np.ndarray:
    """(result_px, available): how much of each pixel is in each pixel of the result."""
    step = length / result_px
    centres = start + (np.arange(result_px) + 0.5) * step
    distances = np.abs(np.arange(available) + 0.5 - centres[:, None])
    triangle = np.maximum(0, 1 - distances / max(1, step))
    return triangle / triangle.sum(1, keepdims=True)


def slowly(picture: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """The definition. Never optimise this."""
    down = weights(box.top, box.height, size[1], picture.shape[0])
    across = weights(box.left, box.width, size[0], picture.shape[1])
    return np.einsum("yr,rcd,xc->yxd", down, picture.astype(float), across)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def cases(draw):
    """A picture, a part of it, and the size of a view."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = Box(
        left, top, draw(st.integers(1, width - left)), draw(st.integers(1, height - top))
    )
    size = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    return noise(height, width, draw(st.integers(0, 99))), size, box


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_view_follows_the_definition(case) -> None:
    picture, size, box = case
    view = view_of(picture, size, box)
    np.testing.assert_allclose(view, slowly(picture, size, box), rtol=0, atol=LEVELS)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_view_equals_pillow_of_the_whole_picture(case) -> None:
    picture, size, (left, top, width, height) = case
    box = left, top, left + width, top + height
    expected = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, box=box)
    view = view_of(picture, size, Box(left, top, width, height))
    np.testing.assert_allclose(view.astype(int), np.asarray(expected), rtol=0, atol=1)


@pytest.mark.parametrize("strip_bytes", [1, 2000])
def test_strips_change_nothing(monkeypatch, strip_bytes) -> None:
    picture, box = noise(83, 97), Box(5, 9, 80, 70)
    whole = view_of(picture, (16, 24), box)
    monkeypatch.setattr(resize, "_STRIP_BYTES", strip_bytes)
    np.testing.assert_array_equal(view_of(picture, (16, 24), box), whole)


@settings(max_examples=100, deadline=None)
@given(cases(), st.tuples(*[st.integers(0, 255)] * 3))
def test_constants_stay_constant(case, colour) -> None:
    picture, size, box = case
    flat = np.empty_like(picture)
    flat[:] = colour
    assert (view_of(flat, size, box) == colour).all()


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([0, 1]))
def test_flips_commute(case, axis) -> None:
    picture, size, box = case
    if axis == 0:
        mirrored = box._replace(top=picture.shape[0] - box.top - box.height)
    else:
        mirrored = box._replace(left=picture.shape[1] - box.left - box.width)
    flipped = view_of(np.ascontiguousarray(np.flip(picture, axis)), size, mirrored)
    expected = np.flip(view_of(picture, size, box), axis)
    # what is exactly between two levels is rounded up on both sides
    np.testing.assert_allclose(flipped.astype(int), expected, rtol=0, atol=1)


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 240), st.integers(4, 100))
def test_a_ramp_is_not_shifted(width, wide) -> None:
    picture = np.empty((8, width, 3), dtype=np.uint8)
    picture[:] = np.arange(width, dtype=np.uint8)[:, None]
    view = view_of(picture, (wide, 8))[:, :, 0]
    step = width / wide
    positions = (np.arange(wide) + 0.5) * step - 0.5
    reach = max(1, step)
    inside = (positions >= reach) & (positions <= width - 1 - reach)
    assert inside.any()
    expected = np.broadcast_to(positions, view.shape)[:, inside]
    np.testing.assert_allclose(view[:, inside], expected, rtol=0, atol=LEVELS)


@pytest.mark.parametrize("size", [31, 33, 64, 101, 224, 447, 600])
def test_a_centred_dot_stays_centred(size) -> None:
    picture = np.zeros((447, 447, 3), dtype=np.uint8)
    picture[216:231, 216:231] = 255
    levels = view_of(picture, (size, size)).astype(int)
    assert levels.max() > 20
    for axis in (0, 1):
        # what is exactly between two levels is rounded up on both sides
        np.testing.assert_allclose(levels, np.flip(levels, axis), rtol=0, atol=1)


def test_stripes_of_3_px_turn_into_grey() -> None:
    """Plain bilinear interpolation turned them into stripes of 10 px."""
    picture = np.zeros((447, 596, 3), dtype=np.uint8)
    picture[:, ::3] = 255
    plain = cv2.resize(picture, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert plain.std() > 60
    view = view_of(picture, (224, 224))
    assert view.std() < 4
    assert view.mean() == pytest.approx(85, abs=1)


@pytest.mark.parametrize("factor", [2.01, 2.5, 2.67, 3.3, 7.2])
def test_stripes_finer_than_a_view_turn_into_grey(factor) -> None:
    side_px = round(224 * factor)
    picture = np.zeros((side_px, side_px, 3), dtype=np.uint8)
    picture[:, ::2] = 255
    view = np.empty((224, 224, 3), dtype=np.uint8)
    centre_view(picture, view)
    inside = view[8:-8, 8:-8]
    assert inside.std() < 8
    assert inside.mean() == pytest.approx(127.5, abs=2)
