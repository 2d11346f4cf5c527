"""Video files, cameras and the pool that mixes their frames."""

import os
import struct
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_pictures import FlatFrames

from edge_runtime.data import FrameSource, PictureSource, SourceLostError, open_source
from edge_runtime.data.live import Camera, VideoFile
from edge_runtime.data.pool import FramePool
from edge_runtime.errors import DataError

FRAMES = 12


@pytest.fixture
def video(tmp_path) -> str:
    """Frame i is grey of level 20 * i with a blue left half."""
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(FRAMES):
        frame = np.full((48, 64, 3), 20 * number, dtype=np.uint8)
        frame[:, :32] = (255, 0, 0)  # BGR
        writer.write(frame)
    writer.release()
    return path


class FakeCapture:
    """Gives BGR frames, then fails, as a camera whose cable is pulled."""

    def __init__(self, frames: int) -> None:
        self.left, self.released = frames, False

    def read(self):
        self.left -= 1
        if self.left < 0:
            return False, None
        return True, np.full((6, 8, 3), (30, 20, 10), dtype=np.uint8)

    def release(self) -> None:
        self.released = True


def test_a_video_gives_rgb_frames_and_starts_again(video) -> None:
    source = open_source(video)
    assert isinstance(source, VideoFile)
    assert isinstance(source, FrameSource)
    assert not isinstance(source, PictureSource)
    assert source.frame_count == FRAMES
    frames = source.frames()
    levels = []
    for _ in range(2 * FRAMES + 3):
        frame = next(frames)
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        # a blue half, and a compressed one
        np.testing.assert_allclose(frame[:, :24].mean((0, 1)), (0, 0, 255), atol=8)
        levels.append(round(frame[:, 40:].mean() / 20))
    frames.close()
    once = list(range(FRAMES))
    assert levels == once + once + once[:3]


def turned_mp4(path: Path, *matrix: int) -> str:
    """64 x 48, with a blue left half, and a display matrix as phones write it."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    frame = np.full((48, 64, 3), 30, dtype=np.uint8)
    frame[:, :32] = (255, 0, 0)  # BGR
    for _ in range(5):
        writer.write(frame)
    writer.release()
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # of nine fixed-point numbers
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return str(path)


ONE, LAST = 1 << 16, 1 << 30


@pytest.mark.parametrize(
    ("matrix", "blue"),
    [
        ((ONE, 0, 0, 0, ONE, 0, 0, 0, LAST), np.s_[:, :24]),
        ((0, ONE, 0, -ONE, 0, 0, 48 * ONE, 0, LAST), np.s_[:24]),
        ((-ONE, 0, 0, 0, -ONE, 0, 64 * ONE, 48 * ONE, LAST), np.s_[:, -24:]),
        ((0, -ONE, 0, ONE, 0, 0, 0, 64 * ONE, LAST), np.s_[-24:]),
    ],
)
def test_a_video_of_a_phone_is_upright(tmp_path, matrix, blue) -> None:
    source = open_source(turned_mp4(tmp_path / "phone.mp4", *matrix))
    frames = source.frames()
    frame = next(frames)
    frames.close()
    is_turned = matrix[0] == 0
    assert frame.shape == ((64, 48, 3) if is_turned else (48, 64, 3))
    assert source.frame_size == frame.shape[1::-1]
    np.testing.assert_allclose(frame[blue].mean((0, 1)), (0, 0, 255), atol=8)
    assert frame[..., 2].mean() == pytest.approx((255 + 30) / 2, abs=8)


def test_a_video_with_a_name_that_is_not_utf8_says_what_to_do(video, tmp_path) -> None:
    name = tmp_path / os.fsdecode(b"\xff.avi")
    Path(video).rename(name)
    with pytest.raises(DataError, match=r"\\xff\.avi: OpenCV opens only names in UTF-8"):
        open_source(str(name))


def test_a_video_that_vanishes_is_lost(video, tmp_path) -> None:
    frames = open_source(video).frames()
    (tmp_path / "film.avi").write_bytes(b"")
    with pytest.raises(SourceLostError, match=r"film\.avi: the video cannot be read any more"):
        next(frames)


def test_a_lost_camera_is_reported_and_released() -> None:
    capture = FakeCapture(frames=3)
    opened = []
    camera = Camera(2, open_capture=lambda number: opened.append(number) or capture)
    frames = camera.frames()
    assert [next(frames)[0, 0].tolist() for _ in range(3)] == [[10, 20, 30]] * 3
    with pytest.raises(
        SourceLostError, match="camera:2 gives no more pictures after 3 frames"
    ):
        next(frames)
    assert opened == [2]
    assert capture.released


def test_a_camera_without_a_picture_is_a_specific_error() -> None:
    camera = Camera(0, open_capture=lambda _: FakeCapture(frames=0))
    with pytest.raises(DataError, match=r"camera:0 gives no pictures\. Check that") as error:
        next(camera.frames())
    assert not isinstance(error.value, SourceLostError)  # nothing to lose


def test_leaving_a_camera_releases_it() -> None:
    capture = FakeCapture(frames=100)
    frames = Camera(0, open_capture=lambda _: capture).frames()
    next(frames)
    frames.close()
    assert capture.released


def test_a_camera_is_known_by_its_number_and_opened_late() -> None:
    camera = open_source("camera:7")
    assert isinstance(camera, FrameSource)
    assert camera.name == "camera:7"


def pool_of(source: FlatFrames, batch_size: int = 16, seed: int = 0, **sizes) -> FramePool:
    return FramePool(
        source.frames(), batch_size=batch_size, seed=seed, **({"short_side_px": 64} | sizes)
    )


def test_every_frame_is_taken_once() -> None:
    pool = pool_of(FlatFrames())
    taken = [number for _ in range(30) for number, _ in pool.draw()]
    assert len(set(taken)) == len(taken)
    # what is left is what the pool still holds: no frame is dropped for good
    assert max(taken) < len(taken) + 48


def test_a_frame_keeps_its_number() -> None:
    for number, frame in pool_of(FlatFrames()).draw():
        assert frame[0, 0, 0] == number


def test_neighbours_do_not_fill_a_batch() -> None:
    pool = pool_of(FlatFrames())
    for _ in range(50):
        numbers = sorted(number for number, _ in pool.draw())
        # 16 of 64: spread over at least two batches' worth of frames, few direct neighbours
        assert numbers[-1] - numbers[0] >= 32
        assert sum(b - a == 1 for a, b in pairwise(numbers)) <= 10


def test_every_batch_is_mixed_differently() -> None:
    pool = pool_of(FlatFrames())
    drawn = [sorted(number for number, _ in pool.draw()) for _ in range(20)]
    ages = {
        tuple(16 * draw - number for number in numbers) for draw, numbers in enumerate(drawn)
    }
    assert len(ages) == 20


def test_the_pool_is_bounded_and_recent() -> None:
    source = FlatFrames()
    pool = pool_of(source)
    for draw in range(1, 40):
        pool.draw()
        assert source.given == 48 + 16 * draw


def test_the_pool_is_bounded_in_bytes() -> None:
    source = FlatFrames()
    pool_of(source, limit_bytes=3 * 16 * 40 * 60 * 3).draw()
    assert source.given == 3 * 16
    source = FlatFrames()
    pool_of(source, limit_bytes=1).draw()
    assert source.given == 2 * 16  # never less, or nothing would be mixed


def test_large_frames_are_kept_small() -> None:
    _, frame = pool_of(FlatFrames(), short_side_px=10).draw()[0]
    assert frame.shape == (10, 15, 3)
    _, frame = pool_of(FlatFrames(), short_side_px=400).draw()[0]
    assert frame.shape == (40, 60, 3)


def test_the_seed_decides_what_is_mixed() -> None:
    def numbers(seed):
        pool = pool_of(FlatFrames(), seed=seed)
        return [[number for number, _ in pool.draw()] for _ in range(3)]

    assert numbers(1) == numbers(1) != numbers(2)


def test_a_stream_that_ends_is_lost() -> None:
    pool = pool_of(FlatFrames(end=70))
    pool.draw()
    with pytest.raises(SourceLostError, match="ended after 70 frames"):
        pool.draw()
