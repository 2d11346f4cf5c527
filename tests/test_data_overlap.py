"""What a view shows of its picture, and how much of it another view's patches show, too."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.data.augmentation import NUMBERS, augment
from edge_runtime.data.overlap import Crop, uncovered
from edge_runtime.package.manifest import AugmentationSpec

length = st.integers(1, 40)
crops = st.builds(
    Crop, st.integers(0, 30), st.integers(0, 30), length, length, flipped=st.booleans()
)


def rectangle(crop: Crop, patch: int, side: int) -> tuple[Fraction, ...]:
    """Left, top, right and bottom of a patch in the picture."""
    row, column = divmod(patch, side)
    if crop.flipped:
        column = side - 1 - column
    left = crop.left + Fraction(crop.width * column, side)
    top = crop.top + Fraction(crop.height * row, side)
    return left, top, left + Fraction(crop.width, side), top + Fraction(crop.height, side)


def uncovered_slowly(first: Crop, second: Crop, kept: list[int], side: int) -> list[float]:
    """Rectangle by rectangle, in whole numbers. Never optimise this."""
    shares = []
    for patch in range(side * side):
        left, top, right, bottom = rectangle(second, patch, side)
        area = (right - left) * (bottom - top)
        covered = Fraction(0)
        for other in kept:
            a, b, c, d = rectangle(first, other, side)
            across, down = min(right, c) - max(left, a), min(bottom, d) - max(top, b)
            covered += max(across, Fraction(0)) * max(down, Fraction(0))
        shares.append(float(1 - covered / area))
    return shares


def uncovered_of(pairs: list[tuple[Crop, Crop]], kept: list[list[int]], side: int):
    both = np.array(pairs, dtype=np.int32).swapaxes(0, 1)  # (2, B, 5)
    return uncovered(both, np.array(kept, dtype=np.int32), side)


@settings(max_examples=200, deadline=None)
@given(crops, crops, st.integers(1, 4), st.data())
def test_shares_are_those_of_rectangles(first, second, side, data) -> None:
    count = data.draw(st.integers(1, side * side))
    kept = data.draw(st.permutations(range(side * side)))[:count]
    actual = uncovered_of([(first, second)], [kept], side)[0]
    wanted = uncovered_slowly(first, second, kept, side)
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-6)
    assert ((actual == 0) == (np.array(wanted) < 1e-6)).all()


def test_pictures_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    rows = [[Crop(*rng.integers(1, 20, 4), flipped=bool(f)) for f in (0, 1)] for _ in "abc"]
    kept = [[0, 1, 2], [3, 5, 8], [2, 4, 6]]
    together = uncovered_of(rows, kept, 3)
    for row in range(3):
        np.testing.assert_array_equal(
            together[row], uncovered_of(rows[row : row + 1], kept[row : row + 1], 3)[0]
        )


WHOLE = Crop(0, 0, 32, 32, flipped=False)


@pytest.mark.parametrize("side", [2, 3, 7])
def test_equal_crops_share_exactly_the_kept_patches(side) -> None:
    kept = [0, side, side * side - 1]
    shares = uncovered_of([(WHOLE, WHOLE)], [kept], side)[0]
    assert np.flatnonzero(shares == 0).tolist() == kept
    assert set(shares.tolist()) == {0.0, 1.0}


def test_a_flip_of_either_view_mirrors_the_columns() -> None:
    """Patch 0 of a flipped view is at the top right."""
    flipped = WHOLE._replace(flipped=True)
    for pair, covered in (
        ((WHOLE, flipped), 2),
        ((flipped, WHOLE), 2),
        ((flipped, flipped), 0),
    ):
        assert np.flatnonzero(uncovered_of([pair], [[0]], 3)[0] == 0).tolist() == [covered]


def test_crops_apart_share_nothing_and_a_part_is_shared_whole() -> None:
    left, right = Crop(0, 0, 16, 32, flipped=False), Crop(16, 0, 16, 32, flipped=False)
    everything = list(range(16))
    assert (uncovered_of([(left, right)], [everything], 4) == 1).all()
    assert (uncovered_of([(WHOLE, right)], [everything], 4) == 0).all()


def test_rounding_leaves_no_share_of_a_covered_patch() -> None:
    """Many small patches cover a large one; their shares add up to 1 only nearly."""
    first = Crop(154, 52, 74, 24, flipped=False)
    second = Crop(35, 17, 358, 106, flipped=False)
    everything = list(range(13 * 13))
    shares = uncovered_of([(first, second)], [everything], 13)[0]
    wanted = uncovered_slowly(first, second, everything, 13)
    assert (shares == 0).tolist() == [share == 0 for share in wanted]
    assert 0 < (shares == 0).sum() < 13 * 13


@pytest.mark.parametrize("seed", range(4))
def test_a_crop_says_where_the_pixels_of_a_view_are_from(seed) -> None:
    """Red grows to the right, green down: they show the places of pixels."""
    places = np.arange(0, 256, 2, dtype=np.uint8)
    picture = np.zeros((128, 128, 3), dtype=np.uint8)
    picture[..., 0], picture[..., 1] = places, places[:, None]
    spec = AugmentationSpec(min_area=0.3, max_area=0.5, jitter=0.0, grayscale=0.0)
    numbers = np.random.default_rng(seed).random(NUMBERS).tolist()
    view = np.empty((8, 8, 3), dtype=np.uint8)
    crop = augment(picture, spec, numbers, view, np.empty((2, 8, 8, 3), dtype=np.float32))
    assert crop.flipped == (numbers[22] < 0.5)
    for pixel, (left, top, right, bottom) in enumerate(
        rectangle(crop, patch, 8) for patch in range(64)
    ):
        red, green, _ = view.reshape(64, 3)[pixel] / 2
        # The value of a pixel belongs to its middle, and is rounded to 8 bits twice.
        assert red == pytest.approx(float(left + right) / 2 - 0.5, abs=1)
        assert green == pytest.approx(float(top + bottom) / 2 - 0.5, abs=1)
