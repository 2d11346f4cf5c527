"""Views: crop boxes, resizing, and which operations are used when."""

import math
from itertools import permutations

import numpy as np
import pytest
from data_pictures import PLAIN, RICH, smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.data import colour
from edge_runtime.data.augmentation import (
    NUMBERS,
    augment,
    centre_view,
    crop_box,
)
from edge_runtime.data.resize import Box
from edge_runtime.package.manifest import AugmentationSpec

unit = st.floats(0, 1, exclude_max=True)
crop_numbers = st.lists(unit, min_size=22, max_size=22)
sides = st.integers(1, 700)

# Positions in the numbers of a view
FLIP, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER = range(22, 29)
GREY, BLUR, SIGMA, SOLARIZE = range(29, 33)


def spec_of(**changes) -> AugmentationSpec:
    nothing = {"min_area": 1.0, "flip": 0.0, "jitter": 0.0, "grayscale": 0.0}
    return AugmentationSpec(**(nothing | changes))


def view_of(picture, spec, numbers, size=16) -> np.ndarray:
    view = np.empty((size, size, 3), dtype=np.uint8)
    augment(picture, spec, numbers, view, np.empty((2, size, size, 3), dtype=np.float32))
    return view


def middle(**changes: float) -> list[float]:
    numbers = [0.5] * NUMBERS
    for name, number in changes.items():
        numbers[globals()[name.upper()]] = number
    return numbers


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.floats(0.01, 1), st.floats(0.01, 1), crop_numbers)
def test_a_crop_is_inside_the_picture(width, height, a, b, numbers) -> None:
    spec = spec_of(min_area=min(a, b), max_area=max(a, b))
    box = crop_box(width, height, spec, numbers)
    assert box.width >= 1
    assert box.height >= 1
    assert 0 <= box.left <= width - box.width
    assert 0 <= box.top <= height - box.height


@settings(max_examples=200, deadline=None)
@given(st.integers(50, 700), st.floats(0.75, 4 / 3), st.floats(0.05, 0.5), crop_numbers)
def test_a_crop_has_the_asked_area_and_aspect(width, aspect, min_area, numbers) -> None:
    height = round(width / aspect)
    spec = spec_of(min_area=min_area, max_area=min_area + 0.1)
    box = crop_box(width, height, spec, numbers)
    # each side is rounded to whole pixels: half a pixel on each
    slack = 0.5 / box.width + 0.5 / box.height + 0.001
    share = box.width * box.height / (width * height)
    assert min_area * (1 - slack) <= share <= (min_area + 0.1) * (1 + slack)
    assert 3 / 4 * (1 - slack) <= box.width / box.height <= 4 / 3 * (1 + slack)


@settings(deadline=None)
@given(sides, sides, crop_numbers)
def test_without_a_fitting_try_the_centre_is_used(width, height, numbers) -> None:
    numbers[:10] = [0.999] * 10
    spec = spec_of(min_area=1.0, max_area=1000.0)  # no try fits
    box = crop_box(width, height, spec, numbers)
    assert abs(2 * box.left + box.width - width) <= 1
    assert abs(2 * box.top + box.height - height) <= 1
    assert box.width == width or box.height == height
    if 3 / 4 <= width / height <= 4 / 3:
        assert box == Box(0, 0, width, height)


def test_the_first_try_that_fits_counts() -> None:
    numbers = [0.5] * 22
    numbers[10] = 0.0  # aspect 3/4 of the whole area is taller than the picture
    numbers[20:] = [0.0, 0.999999]
    assert crop_box(90, 90, spec_of(min_area=1.0), numbers) == Box(0, 0, 90, 90)
    numbers[0] = 0.0
    box = crop_box(90, 90, spec_of(min_area=0.25), numbers)
    assert box == Box(0, 90 - 52, 39, 52)  # sqrt(2025 * 3/4), sqrt(2025 * 4/3)


@pytest.mark.parametrize("wide", [True, False])
def test_the_centre_view_is_the_middle_square(wide) -> None:
    picture = np.zeros((10, 30, 3), dtype=np.uint8)
    picture[:, 10:20] = smooth_picture(10, 10)
    view = np.empty((10, 10, 3), dtype=np.uint8)
    centre_view(picture if wide else picture.transpose(1, 0, 2), view)
    expected = smooth_picture(10, 10)
    np.testing.assert_array_equal(view, expected if wide else expected.transpose(1, 0, 2))


def test_nothing_asked_is_the_picture_itself() -> None:
    picture = smooth_picture(16, 16)
    before = picture.copy()
    np.testing.assert_array_equal(view_of(picture, PLAIN, [0.0] * NUMBERS), picture)
    view_of(picture, RICH, [0.0] * NUMBERS)
    np.testing.assert_array_equal(picture, before)


def jittered(picture, strength: str) -> np.ndarray:
    """One colour operation alone at number 0.75: factor 1.2, or 0.05 turns."""
    expected = picture.copy()
    if strength == "hue":
        colour.adjust_hue(expected, 0.05, np.empty((2, 16, 16, 3), dtype=np.float32))
    else:
        getattr(colour, f"adjust_{strength}")(expected, 1.2)
    return expected


@pytest.mark.parametrize("strength", ["brightness", "contrast", "saturation", "hue"])
def test_each_strength_belongs_to_its_operation(strength) -> None:
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    spec = spec_of(jitter=0.8, **off | {strength: 0.1 if strength == "hue" else 0.4})
    picture = smooth_picture(16, 16)
    view = view_of(picture, spec, middle(**{strength: 0.75}, jitter=0.79))
    np.testing.assert_array_equal(view, jittered(picture, strength))
    skipped = view_of(picture, spec, middle(**{strength: 0.75}, jitter=0.81))
    np.testing.assert_array_equal(skipped, picture)


def test_jitter_uses_every_order() -> None:
    picture = smooth_picture(16, 16, seed=3)
    spec = spec_of(jitter=1.0)
    factors = {"brightness": 0.9, "contrast": 0.1, "saturation": 0.9, "hue": 0.9}

    def slowly(order) -> bytes:
        view, scratch = picture.copy(), np.empty((2, 16, 16, 3), dtype=np.float32)
        for name in order:
            if name == "hue":
                colour.adjust_hue(view, -0.1 + 0.9 * 0.2, scratch)
            else:
                factor = 0.6 + factors[name] * 0.8
                getattr(colour, f"adjust_{name}")(view, factor)
        return view.tobytes()

    expected = {slowly(order) for order in permutations(factors)}
    got = {
        view_of(picture, spec, middle(**factors, jitter=0.0, order=place / 24)).tobytes()
        for place in range(24)
    }
    assert len(expected) > 12  # orders do matter on this picture
    assert got == expected


@pytest.mark.parametrize(
    ("number", "chances", "operation"),
    [
        ("flip", {"flip": 0.3}, lambda view: view[:, ::-1].copy()),
        ("grey", {"grayscale": 0.3}, lambda view: in_place(colour.make_grey, view)),
        ("blur", {"blur": 0.3}, lambda view: in_place(colour.blur, view, 1.05)),
        ("solarize", {"solarize": 0.3}, lambda view: in_place(colour.solarize, view)),
    ],
)
def test_an_operation_happens_below_its_chance(number, chances, operation) -> None:
    picture, spec = smooth_picture(16, 16), spec_of(**chances)
    used = view_of(picture, spec, middle(**{number: 0.29}))
    np.testing.assert_array_equal(used, operation(picture))
    left_out = view_of(picture, spec, middle(**{number: 0.31}))
    np.testing.assert_array_equal(left_out, picture)


def in_place(operation, view, *arguments) -> np.ndarray:
    changed = view.copy()
    operation(changed, *arguments)
    return changed


def test_blur_reaches_from_a_tenth_to_two_pixels() -> None:
    picture, spec = smooth_picture(64, 64), spec_of(blur=1.0)
    for number, sigma_px in [(0.0, 0.1), (1.0, 2.0)]:
        view = view_of(picture, spec, middle(sigma=number), size=64)
        np.testing.assert_array_equal(view, in_place(colour.blur, picture, sigma_px))


def test_areas_and_aspects_have_the_documented_distribution() -> None:
    numbers = np.random.default_rng(0).random((2000, 22)).tolist()
    boxes = [crop_box(400, 400, spec_of(min_area=0.1, max_area=0.5), one) for one in numbers]
    areas = np.array([box.width * box.height for box in boxes]) / 400**2
    log_aspects = np.log([box.width / box.height for box in boxes])
    # six standard errors of the means of uniform variables
    assert abs(areas.mean() - 0.3) < 6 * 0.4 / math.sqrt(12 * 2000)
    assert abs(log_aspects.mean()) < 6 * 2 * math.log(4 / 3) / math.sqrt(12 * 2000)
