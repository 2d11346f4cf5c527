"""Pictures of noise, where it does not matter what is on them."""

from pathlib import Path

import numpy as np
from PIL import Image

_SIDE_PX = 24


def write_pictures(folder: Path, count: int) -> None:
    """Write `count` PNG files into a new folder, always the same."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
