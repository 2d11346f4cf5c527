"""How much memory the pictures of a source take while a run decodes and augments them.

Predicted before the run, for planning; the run is then held to it. Unit: bytes.
"""

from collections.abc import Sequence

import cv2

from edge_runtime.data.decoding_cost import (
    Resolution,
    decoding_peak_bytes,
    reduction_of,
    resolutions_of,
)
from edge_runtime.data.files import PictureFiles
from edge_runtime.data.live import VideoFile
from edge_runtime.data.pipeline import worker_count
from edge_runtime.data.pool import BYTES, frames_held, shrunk_size
from edge_runtime.data.reading import KEPT_BYTES, SHARED_BYTES
from edge_runtime.data.sources import FrameSource, PictureSource, UnreadablePicture
from edge_runtime.package.manifest import ViewGroup
from edge_runtime.planning.decoding_limit import LEAST_BYTES

CODE_BYTES = (24 if int(cv2.__version__.split(".")[0]) >= 5 else 6) << 20
_LARGEST_FILES = 64  # whose headers are read
_SAMPLED_FILES = 192  # the same of others, evenly distributed
_FRAME_OVERSIZE = 2  # frames in the pool are this much larger than the largest view
_CAMERA_SIZE = 1920, 1080  # assumed before a camera is opened
_CAMERA_FRAMES = 6  # that its driver, its decoder and OpenCV hold


def decoding_bytes(
    source: PictureSource | FrameSource,
    groups: Sequence[ViewGroup],
    *,
    batch_size: int,
    threads: int | None,
) -> int:
    """The most memory that decoding adds to a run, compared with tiny pictures.

    Of files, the headers of the largest and of a sample are read; a file that needs more than
    is returned is unreadable for a run with this limit. A video was measured when it was
    opened; a camera is taken to give 1080p. Of other sources, one picture is read.

    Args:
        source: of pictures.
        groups: of the training package.
        batch_size: pictures per step.
        threads: workers, as of `view_batches`.

    Returns:
        A value for `decoding_limit_bytes` of `view_batches`.
    """
    if isinstance(source, FrameSource):
        return _decoder_bytes(source) + _pool_bytes(source, groups, batch_size)
    return _pictures_bytes(source, resolutions_of(groups), worker_count(threads))


def decoder_code_bytes(source: PictureSource | FrameSource) -> int:
    """What the decoders' own code takes, which is loaded at the first picture.

    It comes on top of `decoding_bytes`, and is not part of a limit.
    """
    return CODE_BYTES if isinstance(source, PictureFiles | VideoFile) else 0


def centred_decoding_bytes(
    source: PictureSource | FrameSource, size_px: int, *, threads: int | None
) -> int:
    """The same for `centred_batches`; arguments as there."""
    if isinstance(source, FrameSource):
        return _decoder_bytes(source)
    return _pictures_bytes(
        source, frozenset([Resolution(size_px, None)]), worker_count(threads)
    )


def _pictures_bytes(
    source: PictureSource, resolutions: frozenset[Resolution], workers: int
) -> int:
    if not isinstance(source, PictureFiles):
        return workers * _picture_bytes(source)
    peaks = _peaks_bytes(source, resolutions)[:workers]
    # Large pictures are decoded one by one, beside what other threads keep.
    alone = peaks[0] + (workers - 1) * min(peaks[0], KEPT_BYTES)
    return max(LEAST_BYTES, alone, min(SHARED_BYTES, sum(peaks)))


def pool_limit_bytes(source: FrameSource, decoding_limit_bytes: int | None) -> int:
    """What is left for the frames that are mixed, of a limit on all decoding."""
    if decoding_limit_bytes is None:
        return BYTES
    return max(0, min(BYTES, decoding_limit_bytes - _decoder_bytes(source)))


def pooled_short_side_px(largest_view_px: int) -> int:
    """The short side of frames that are mixed."""
    return _FRAME_OVERSIZE * largest_view_px


def _peaks_bytes(source: PictureFiles, resolutions: frozenset[Resolution]) -> list[int]:
    """Of the largest files and of a sample, the largest first; at least one number."""
    peaks = [0]
    for index in _sample(source.file_sizes()):
        try:
            with source.open(index) as encoded:
                reduction = reduction_of(encoded.header, resolutions)
                peak = decoding_peak_bytes(encoded.header, encoded.file_bytes, reduction)
        except UnreadablePicture:  # the run will report it
            continue
        peaks.append(peak)
    return sorted(peaks, reverse=True)


def _sample(file_sizes: Sequence[int]) -> set[int]:
    indices = range(len(file_sizes))
    largest = sorted(indices, key=lambda index: -file_sizes[index])[:_LARGEST_FILES]
    return {*largest, *indices[:: max(1, len(indices) // _SAMPLED_FILES)]}


def _picture_bytes(source: PictureSource) -> int:
    try:
        return int(source.read(0).nbytes)
    except UnreadablePicture:
        return 0


def _decoder_bytes(source: FrameSource) -> int:
    if isinstance(source, VideoFile):
        return source.decoder_bytes
    return _CAMERA_FRAMES * 3 * _CAMERA_SIZE[0] * _CAMERA_SIZE[1]


def _pool_bytes(source: FrameSource, groups: Sequence[ViewGroup], batch_size: int) -> int:
    size = source.frame_size if isinstance(source, VideoFile) else _CAMERA_SIZE
    largest_px = max(group.size_px for group in groups)
    width, height = shrunk_size(size, pooled_short_side_px(largest_px))
    frame_bytes = 3 * width * height
    return frame_bytes * frames_held(frame_bytes, batch_size)
