"""How far the features of an engine may be from those of engine `ort`."""

import numpy as np

from edge_runtime.state import Array

# The largest error of an image's features, relative to their norm. Chosen before any
# measurement on a GPU: both TF32, in which float32 products may be computed, and float16 have
# 10 bits of mantissa, so that a product is off by up to 2^-11; in float16, sums between the
# products are rounded, too.
FLOAT_TOLERANCE, HALF_TOLERANCE = 0.01, 0.03
_SEED = 0


def noise_images(shape: tuple[int, ...]) -> Array:
    """Images of noise, uint8, on which engines are compared."""
    return np.random.default_rng(_SEED).integers(0, 256, shape, np.uint8)


def largest_error(features: Array, expected: Array) -> float:
    """The largest distance of an image's features from the expected, by their norm.

    Infinite or NaN if a feature is not finite.
    """
    with np.errstate(all="ignore"):
        distance = np.linalg.norm(features - expected, axis=1)
        norm = np.linalg.norm(expected, axis=1)
        errors = np.where(distance == 0, 0.0, distance / norm)
    return float(errors.max())
