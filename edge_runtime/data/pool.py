"""Mixed batches from a stream whose successive frames are similar."""

from collections.abc import Iterator

import numpy as np

from edge_runtime.data.randomness import random_words
from edge_runtime.data.resize import Box, resize_into
from edge_runtime.data.sources import Image, SourceLostError

BATCHES = 4  # a batch is mixed from the frames of four, if they fit
MIN_BATCHES = 2
BYTES = 128 << 20


class FramePool:
    """Mixes a stream, so that a batch does not consist of successive frames.

    A bounded buffer of recent frames: it is filled, then a random part of it is drawn. Every
    frame is drawn once. Frames much larger than needed are stored at a smaller size.
    """

    def __init__(
        self,
        frames: Iterator[Image],
        *,
        batch_size: int,
        short_side_px: int,
        seed: int,
        limit_bytes: int = BYTES,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            frames: a stream.
            batch_size: frames per draw.
            short_side_px: frames are shrunk until their short side is this long.
            seed: of the run; decides which frames are drawn.
            limit_bytes: for the frames; two batches of them are held in any case.
        """
        self._numbered = enumerate(_shrunk(frames, short_side_px))
        self._batch_size = batch_size
        self._seed = seed
        self._limit_bytes = limit_bytes
        self._draws = 0
        self._pool: list[tuple[int, Image]] = []

    def draw(self) -> list[tuple[int, Image]]:
        """Draw `batch_size` pairs of running number and frame.

        Raises:
            SourceLostError: the stream ended. Other errors of the stream are passed on.
        """
        self._fill()
        words = random_words(
            self._seed, "pool", epoch=0, pictures=[self._draws], views=1, count=len(self._pool)
        )
        self._draws += 1
        order = np.argsort(words[0, 0], kind="stable").tolist()
        mixed = [self._pool[place] for place in order]
        self._pool = mixed[self._batch_size :]
        return mixed[: self._batch_size]

    def _fill(self) -> None:
        if not self._pool:
            self._pool.append(next(self._numbered))
        frame_bytes = self._pool[0][1].nbytes
        frames = frames_held(frame_bytes, self._batch_size, self._limit_bytes)
        while len(self._pool) < frames:
            self._pool.append(next(self._numbered))


def frames_held(frame_bytes: int, batch_size: int, limit_bytes: int = BYTES) -> int:
    """How many frames a full pool has."""
    fitting = limit_bytes // (frame_bytes * batch_size)
    return batch_size * min(BATCHES, max(MIN_BATCHES, fitting))


def shrunk_size(size: tuple[int, int], short_side_px: int) -> tuple[int, int]:
    """Width and height of a frame in the pool, of its width and height before."""
    width, height = size
    scale = min(1.0, short_side_px / min(size))
    return round(width * scale), round(height * scale)


def _shrunk(frames: Iterator[Image], short_side_px: int) -> Iterator[Image]:
    seen = 0
    for frame in frames:
        seen += 1
        height, width = frame.shape[:2]
        size = shrunk_size((width, height), short_side_px)
        if size != (width, height):
            smaller = np.empty((size[1], size[0], 3), np.uint8)
            resize_into(smaller, frame, Box(0, 0, width, height))
            frame = smaller
        yield frame
    raise SourceLostError(f"the stream of pictures ended after {seen} frames.")
