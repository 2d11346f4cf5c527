"""Colour operations on one view, with torchvision's meaning, in place.

A view is uint8 (S, S, 3) RGB, contiguous. Every operation rounds to the nearest grey level
and clips to 0..255. Working in place saves more time than the arithmetic takes: new memory
for a 224 px view costs page faults.
"""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.data.sources import Image

HueScratch: TypeAlias = NDArray[np.float32]  # (2, S, S, 3)

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_IDENTITY = np.eye(3, dtype=np.float32)
_TURN_DEGREES = 360.0
_SOLARIZED = np.minimum(np.arange(256), 255 - np.arange(256)).astype(np.uint8)


def adjust_brightness(view: Image, factor: float) -> None:
    """Multiply by `factor`."""
    cv2.convertScaleAbs(view, alpha=factor, dst=view)


def adjust_contrast(view: Image, factor: float) -> None:
    """Blend with the mean of the view's luma; 0 gives a flat grey, 1 no change."""
    red, green, blue, _ = cv2.mean(view)
    mean = 0.299 * red + 0.587 * green + 0.114 * blue
    cv2.addWeighted(view, factor, view, 0.0, (1 - factor) * mean, dst=view)


def adjust_saturation(view: Image, factor: float) -> None:
    """Blend each pixel with its luma; 0 gives a grey picture, 1 no change."""
    cv2.transform(view, factor * _IDENTITY + (1 - factor) * _LUMA, dst=view)


def adjust_hue(view: Image, turns: float, scratch: HueScratch) -> None:
    """Turn the hue by `turns` of the colour circle, -0.5 to 0.5.

    In float32, because a hue of 8 bits is wrong by up to 10 grey levels.
    """
    rgb, hsv = scratch
    np.copyto(rgb, view)
    cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV, dst=hsv)
    hsv[:, :, 0] += np.float32(
        turns % 1 * _TURN_DEGREES
    )  # OpenCV wraps above 360, not below 0
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=rgb)
    cv2.convertScaleAbs(rgb, dst=view)


def make_grey(view: Image) -> None:
    """Put each pixel's luma into all three channels."""
    adjust_saturation(view, 0.0)


def solarize(view: Image) -> None:
    """Invert what is 128 or brighter."""
    cv2.LUT(view, _SOLARIZED, dst=view)


def blur(view: Image, sigma_px: float) -> None:
    """Gaussian blur with a kernel of about a tenth of the view's size.

    The kernel ends at four sigma; weights beyond it are below a tenth of a grey level.
    """
    tenth = max(3, len(view) // 10 | 1)
    taps = min(tenth, 2 * int(np.ceil(4 * sigma_px)) + 1)
    kernel = cv2.getGaussianKernel(taps, sigma_px, cv2.CV_32F)
    # not GaussianBlur, whose kernel is rounded to 8 bits and which is half as fast
    cv2.sepFilter2D(view, -1, kernel, kernel, dst=view)
