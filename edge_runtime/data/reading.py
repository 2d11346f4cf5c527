"""Reads pictures for views: as small as the views allow, within a limit on memory."""

import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from edge_runtime.data.decoding_cost import Resolution, decoding_peak_bytes, reduction_of
from edge_runtime.data.files import PictureFiles
from edge_runtime.data.pipeline import CancelFlag
from edge_runtime.data.sources import Image, PictureSource, UnreadablePicture

SHARED_BYTES = 64 << 20  # for pictures that are decoded at the same time
KEPT_BYTES = 16 << 20  # of freed memory, per thread, in a run with a limit
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE_BUFFER_BYTES = 4 << 20
_POLL_S = 0.05


class MemoryGate:
    """Lets threads hold memory, as long as all of them together hold at most a limit.

    One that needs more than the limit waits until no other holds any. A thread that already
    holds some must not ask for more, or two could wait for each other.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, bytes_: int, flag: CancelFlag) -> Iterator[None]:
        """Wait until `bytes_` are free and hold them during the block.

        Raises:
            Cancelled: the flag was set while it waited.
        """
        with self._changed:
            while self._held_bytes and self._held_bytes + bytes_ > self._limit_bytes:
                flag.check()
                self._changed.wait(_POLL_S)
            self._held_bytes += bytes_
        try:
            yield
        finally:
            with self._changed:
                self._held_bytes -= bytes_
                self._changed.notify_all()


class PictureReader:
    """Reads the pictures of one source; any thread may use it."""

    def __init__(
        self,
        source: PictureSource,
        resolutions: Iterable[Resolution],
        *,
        limit_bytes: int | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: of pictures.
            resolutions: what the views need.
            limit_bytes: what all threads together may hold while they decode and augment. A
                picture that needs more is unreadable. `None`: it is read while no other is.
        """
        self._source = source
        self._resolutions = tuple(resolutions)
        self._limit_bytes = limit_bytes
        self._gate = MemoryGate(SHARED_BYTES if limit_bytes is None else limit_bytes)

    def read(self, index: int, flag: CancelFlag, use: Callable[[Image], None]) -> None:
        """Read a picture and use it; a JPEG is reduced as far as its views allow.

        Args:
            index: of the picture.
            flag: of the pipeline.
            use: gets the picture and must not keep it, or its memory would not be counted.

        Raises:
            UnreadablePicture: it is damaged or gone, or needs more memory than the limit.
            Cancelled: the flag was set while it waited for memory.
        """
        if not isinstance(self._source, PictureFiles):
            use(self._source.read(index))
            return
        with self._source.open(index) as encoded:
            reduction = reduction_of(encoded.header, self._resolutions)
            peak_bytes = decoding_peak_bytes(encoded.header, encoded.file_bytes, reduction)
            self._check(peak_bytes)
            with self._gate.hold(peak_bytes, flag):
                use(encoded.decode(reduction))

    def _check(self, peak_bytes: int) -> None:
        if self._limit_bytes is not None and peak_bytes > self._limit_bytes:
            raise UnreadablePicture(
                f"it needs {peak_bytes / 2**20:.0f} MiB to be decoded, more than the "
                f"{self._limit_bytes / 2**20:.0f} MiB that this run has for decoding; make it "
                "smaller or raise the limit on memory"
            )


def return_freed_memory() -> None:
    """Let the C library return large buffers to the system when they are freed.

    For the rest of this process. By default it keeps up to 64 MiB per thread, which no limit
    would count; but returning costs time, so runs without a limit do not.
    """
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BUFFER_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
