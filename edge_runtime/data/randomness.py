"""All random numbers of the data part, independent of threads and order.

A number is a pure function of (seed, purpose, epoch, picture, view, position): Philox4x64-10
with the seed and the purpose as its key and the rest as its counter, as `numpy.random.Philox`
computes it. It is implemented over arrays because constructing a generator per view takes ten
times as long as the numbers.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_MASK_64 = (1 << 64) - 1
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], dtype=np.uint64)
_MULTIPLIERS_LOW = _MULTIPLIERS & _LOW_32
_MULTIPLIERS_HIGH = _MULTIPLIERS >> _SHIFT_32
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_WORDS_PER_BLOCK = 4


def purpose_key(purpose: str) -> int:
    """The half of the key that distinguishes purposes: 64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def random_words(
    seed: int, purpose: str, *, epoch: int, pictures: Sequence[int], views: int, count: int
) -> Words:
    """Random 64-bit words.

    Args:
        seed: of the run; its low 64 bits are used.
        purpose: what the numbers are for; other purposes get other numbers.
        epoch: pass over the data set.
        pictures: B picture indices, or running frame numbers.
        views: V, how many views of each picture.
        count: N, numbers per view and picture.

    Returns:
        (V, B, N) uint64; row [v, b] does not depend on other pictures or views.
    """
    blocks = -(-count // _WORDS_PER_BLOCK)
    shape = (views, len(pictures), blocks)
    counter = np.empty((4, *shape), dtype=np.uint64)
    counter[0] = np.arange(1, blocks + 1, dtype=np.uint64)  # as numpy's
    counter[1] = np.arange(views, dtype=np.uint64)[:, None, None]
    counter[2] = np.asarray(pictures, dtype=np.uint64)[:, None]
    counter[3] = epoch
    words = _philox(counter.reshape(4, -1), seed & _MASK_64, purpose_key(purpose))
    return words.T.reshape(views, len(pictures), blocks * _WORDS_PER_BLOCK)[..., :count]


def uniforms(
    seed: int, purpose: str, *, epoch: int, pictures: Sequence[int], views: int, count: int
) -> NDArray[np.float64]:
    """(V, B, N) float64 in [0, 1), 53 random bits each; arguments of `random_words`."""
    words = random_words(
        seed, purpose, epoch=epoch, pictures=pictures, views=views, count=count
    )
    return unit_interval(words)


def unit_interval(words: Words) -> NDArray[np.float64]:
    """Words as numbers in [0, 1), from their high 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def epoch_order(seed: int, epoch: int, pictures: int) -> NDArray[np.int64]:
    """(pictures,) int64, a random permutation of `range(pictures)`, another in each epoch."""
    words = random_words(seed, "order", epoch=epoch, pictures=[0], views=1, count=pictures)
    return np.argsort(words[0, 0], kind="stable").astype(np.int64, copy=False)


def _philox(counter: Words, *key: int) -> Words:
    """Ten rounds of Philox over (4, n) counters; gives (4, n) words."""
    even, odd = counter[0::2], counter[1::2]  # (2, n): words 0 and 2, words 1 and 3
    for round_number in range(_ROUNDS):
        keys = [
            (half + round_number * step) & _MASK_64
            for half, step in zip(key, _KEY_STEPS, strict=True)
        ]
        high, low = _multiply(even)
        even = high[::-1] ^ odd ^ np.array(keys, dtype=np.uint64)[:, None]
        odd = low[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def _multiply(factor: Words) -> tuple[Words, Words]:
    """High and low words of the 128-bit products with Philox's multipliers."""
    low, high = factor & _LOW_32, factor >> _SHIFT_32
    low_high = low * _MULTIPLIERS_HIGH
    high_low = high * _MULTIPLIERS_LOW
    carried = (
        ((low * _MULTIPLIERS_LOW) >> _SHIFT_32) + (low_high & _LOW_32) + (high_low & _LOW_32)
    )
    top = (
        high * _MULTIPLIERS_HIGH
        + (low_high >> _SHIFT_32)
        + (high_low >> _SHIFT_32)
        + (carried >> _SHIFT_32)
    )
    return top, factor * _MULTIPLIERS
