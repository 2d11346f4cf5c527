"""Signals that end a program, as a function that returns whether to stop."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# SIGHUP is sent when the connection to a board breaks.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signals(notice: str) -> Iterator[Callable[[], bool]]:
    """A function that returns whether a signal was received; the second signal kills.

    Ignored signals stay ignored, as `nohup` and background jobs of a shell expect.

    Args:
        notice: printed at the first signal, such as `stopping after this step`.
    """
    received = []
    line = f"\nedge-train: {notice}; send it again to stop at once\n".encode()

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, line)  # print is not safe inside a signal handler

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    before = {each: old for each, old in before.items() if old is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, handle)
    try:
        yield lambda: bool(received)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
