"""Pictures as phones and cameras make them, for the memory that decoding takes."""

from pathlib import Path

import cv2
import numpy as np

PHOTO_PX = (3024, 4032)  # 12 megapixels, as of a phone
VIDEO_PX = (2160, 3840)  # 4K
FRAMES, FRAMES_PER_S = 48, 24.0


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """A colourful picture with structures of many sizes, uint8 (height, width, 3)."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = generator.random((cells, cells, 3), np.float32) / cells**0.5
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(255 * total / total.max(), np.uint8)


def write_photos(folder: Path, count: int) -> None:
    """That many JPEG files."""
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.jpg"), scene(*PHOTO_PX, number))


def write_video(path: Path) -> None:
    """A video that pans over one scene."""
    height, width = VIDEO_PX
    codec = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
    writer = cv2.VideoWriter(str(path), codec, FRAMES_PER_S, (width, height))
    wide = scene(height, width + 8 * FRAMES, 0)
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(wide[:, 8 * number : 8 * number + width]))
    writer.release()
