"""Colour operations against their definitions in float64."""

import colorsys

import numpy as np
import pytest

from edge_runtime.data import colour

# One rounding to whole grey levels is off by a half; the rest is float32.
ROUNDED = 0.51
# `cv2.transform` keeps its three weights to 10 bits: 3 * 255 / 2048 more.
TRANSFORMED = 0.9
SIZES = [1, 5, 16, 33]  # with and without the tails of vector loops


def view_of(size: int, seed: int = 0) -> np.ndarray:
    view = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    view[: size // 3] = view[: size // 3, :, :1]  # some pixels without colour
    return view


def luma(view: np.ndarray) -> np.ndarray:
    return view @ np.array([0.299, 0.587, 0.114])


def clipped(levels: np.ndarray) -> np.ndarray:
    return np.clip(levels, 0, 255)


def brightness_slowly(view, factor):
    return clipped(view.astype(float) * factor)


def contrast_slowly(view, factor):
    return clipped(
        factor * view.astype(float) + (1 - factor) * luma(view.astype(float)).mean()
    )


def saturation_slowly(view, factor):
    levels = view.astype(float)
    return clipped(factor * levels + (1 - factor) * luma(levels)[:, :, None])


def hue_slowly(view, turns):
    turned = np.empty(view.shape)
    for pixel in np.ndindex(view.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(view[pixel] / 255))
        turned[pixel] = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
    return turned * 255


def blur_slowly(view, sigma_px, taps):
    half = taps // 2
    weights = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma_px**2))
    weights /= weights.sum()
    size = len(view)
    padded = np.pad(view.astype(float), ((half, half), (half, half), (0, 0)), "reflect")
    rows = sum(weight * padded[tap : tap + size] for tap, weight in enumerate(weights))
    return sum(weight * rows[:, tap : tap + size] for tap, weight in enumerate(weights))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("operation", "slowly", "tolerance"),
    [
        (colour.adjust_brightness, brightness_slowly, ROUNDED),
        (colour.adjust_contrast, contrast_slowly, ROUNDED),
        (colour.adjust_saturation, saturation_slowly, TRANSFORMED),
    ],
)
def test_a_factor_is_its_definition(operation, slowly, tolerance, factor, size) -> None:
    view = view_of(size)
    expected = slowly(view, factor)
    operation(view, factor)
    np.testing.assert_allclose(view, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("turns", [-0.5, -0.07, 0.0, 0.1, 0.5])
def test_hue_is_its_definition(turns, size) -> None:
    view = view_of(size)
    expected = hue_slowly(view, turns)
    colour.adjust_hue(view, turns, np.empty((2, size, size, 3), dtype=np.float32))
    np.testing.assert_allclose(view, expected, rtol=0, atol=ROUNDED)


def test_grey_is_the_luma_in_all_channels() -> None:
    view = view_of(33)
    expected = luma(view.astype(float))
    colour.make_grey(view)
    assert (view == view[:, :, :1]).all()
    np.testing.assert_allclose(view[:, :, 0], expected, rtol=0, atol=TRANSFORMED)


def test_solarize_inverts_from_128_on() -> None:
    view = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    colour.solarize(view)
    expected = [level if level < 128 else 255 - level for level in range(256)]
    assert view[:, :, 0].ravel().tolist() == expected


@pytest.mark.parametrize(("size", "tenth"), [(16, 3), (32, 3), (64, 7), (224, 23)])
@pytest.mark.parametrize("sigma_px", [0.1, 0.5, 1.3, 2.0])
def test_blur_is_its_definition(size, tenth, sigma_px) -> None:
    view = view_of(size)
    expected = blur_slowly(view, sigma_px, tenth)
    colour.blur(view, sigma_px)
    # the kernel ends at four sigma: less than a tenth of a level on top of the rounding
    np.testing.assert_allclose(view, expected, rtol=0, atol=ROUNDED + 0.1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda view: colour.adjust_brightness(view, 0.5),
        lambda view: colour.adjust_contrast(view, 0.5),
        lambda view: colour.adjust_saturation(view, 0.5),
        lambda view: colour.adjust_hue(view, 0.3, np.empty((2, 9, 9, 3), np.float32)),
        colour.make_grey,
        colour.solarize,
        lambda view: colour.blur(view, 1.0),
    ],
)
def test_operations_write_into_their_view_and_nowhere_else(operation) -> None:
    batch = np.stack([view_of(9, seed) for seed in range(3)])
    before = batch.copy()
    operation(batch[1])
    assert (batch[1] != before[1]).any()
    np.testing.assert_array_equal(batch[[0, 2]], before[[0, 2]])
