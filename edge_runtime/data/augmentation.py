"""One view of one picture, as an `AugmentationSpec` describes it.

Crop, flip, colour jitter, grey, blur, solarize, with torchvision's meaning and order. All
random numbers are arguments.
"""

import math
from collections.abc import Sequence
from itertools import permutations

import cv2

from edge_runtime.data import colour
from edge_runtime.data.overlap import Crop
from edge_runtime.data.resize import Box, resize_into
from edge_runtime.data.sources import Image
from edge_runtime.package.manifest import AugmentationSpec

NUMBERS = 33  # uniform random numbers per view
MAX_ASPECT = 4 / 3  # of a crop: width / height is from 3/4 to 4/3
_TRIES = 10
_LOG_MAX_ASPECT = math.log(MAX_ASPECT)
_MIN_SIGMA_PX, _MAX_SIGMA_PX = 0.1, 2.0
_JITTER_ORDERS = tuple(permutations(range(4)))


def augment(
    picture: Image,
    spec: AugmentationSpec,
    numbers: Sequence[float],
    view: Image,
    scratch: colour.HueScratch,
) -> Crop:
    """Make a view.

    Args:
        picture: (H, W, 3) uint8; not changed.
        spec: what to do.
        numbers: `NUMBERS` floats in [0, 1), uniform.
        view: (S, S, 3) uint8, contiguous; written.
        scratch: (2, S, S, 3) float32, for this thread alone.

    Returns:
        What the view shows of the picture.
    """
    crop, (flip, jitter, *jitters, grey, blur, sigma, solarize) = numbers[:22], numbers[22:]
    box = crop_box(picture.shape[1], picture.shape[0], spec, crop)
    resize_into(view, picture, box)
    is_flipped = flip < spec.flip
    if is_flipped:
        cv2.flip(view, 1, dst=view)
    if jitter < spec.jitter:
        _jitter(view, spec, jitters, scratch)
    if grey < spec.grayscale:
        colour.make_grey(view)
    if blur < spec.blur:
        colour.blur(view, _between(sigma, _MIN_SIGMA_PX, _MAX_SIGMA_PX))
    if solarize < spec.solarize:
        colour.solarize(view)
    return Crop(*box, flipped=is_flipped)


def crop_box(width: int, height: int, spec: AugmentationSpec, numbers: Sequence[float]) -> Box:
    """Choose a random part of a picture of `width` x `height` pixels.

    Its share of the area is uniform in [min_area, max_area], its aspect log-uniform in
    [3/4, 4/3]. If none of ten tries fits inside, it is the largest centred part with an aspect
    in this range.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        spec: the area.
        numbers: 22 floats in [0, 1): ten areas, ten aspects, two for the position.
    """
    areas, aspects, (across, down) = numbers[:_TRIES], numbers[_TRIES:-2], numbers[-2:]
    for area, aspect in zip(areas, aspects, strict=True):
        pixels = width * height * _between(area, spec.min_area, spec.max_area)
        ratio = math.exp(_between(aspect, -_LOG_MAX_ASPECT, _LOG_MAX_ASPECT))
        wide, high = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return Box(
                int(across * (width - wide + 1)), int(down * (height - high + 1)), wide, high
            )
    return _centre_box(width, height, MAX_ASPECT)


def centre_view(picture: Image, view: Image) -> None:
    """The largest centred square of a picture, resized into `view` (S, S, 3)."""
    resize_into(view, picture, _centre_box(picture.shape[1], picture.shape[0], 1.0))


def _centre_box(width: int, height: int, max_aspect: float) -> Box:
    wide = min(width, max(1, round(height * max_aspect)))
    high = min(height, max(1, round(width * max_aspect)))
    return Box((width - wide) // 2, (height - high) // 2, wide, high)


def _jitter(
    view: Image,
    spec: AugmentationSpec,
    numbers: Sequence[float],
    scratch: colour.HueScratch,
) -> None:
    """Change brightness, contrast, saturation and hue in a random order."""
    brightness, contrast, saturation, hue, order = numbers
    for operation in _JITTER_ORDERS[int(order * len(_JITTER_ORDERS))]:
        if operation == 0 and spec.brightness:
            colour.adjust_brightness(view, _factor(brightness, spec.brightness))
        elif operation == 1 and spec.contrast:
            colour.adjust_contrast(view, _factor(contrast, spec.contrast))
        elif operation == 2 and spec.saturation:
            colour.adjust_saturation(view, _factor(saturation, spec.saturation))
        elif operation == 3 and spec.hue:
            colour.adjust_hue(view, _between(hue, -spec.hue, spec.hue), scratch)


def _factor(number: float, strength: float) -> float:
    return _between(number, max(0.0, 1 - strength), 1 + strength)


def _between(number: float, low: float, high: float) -> float:
    return low + number * (high - low)
