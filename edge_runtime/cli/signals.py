"""Signals that end a program: an exception, or a function that returns whether to stop."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# SIGHUP is sent when the connection to a board breaks.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupt_on_signals() -> Iterator[Callable[[], bool]]:
    """The first signal raises `KeyboardInterrupt`, so that every context cleans up.

    Returns:
        A function that returns whether that has happened.
    """
    received = []

    def interrupt() -> None:
        received.append(True)
        raise KeyboardInterrupt

    with _at_first_signal(interrupt):
        yield lambda: bool(received)


@contextmanager
def stop_on_signals(notice: str) -> Iterator[Callable[[], bool]]:
    """A function that returns whether a signal was received.

    Args:
        notice: printed at the first signal, such as `stopping after this step`.
    """
    received = []
    line = f"\nedge-train: {notice}; send it again to stop at once\n".encode()

    def note() -> None:
        received.append(True)
        with suppress(OSError):
            os.write(2, line)  # print is not safe inside a signal handler

    with _at_first_signal(note):
        yield lambda: bool(received)


@contextmanager
def _at_first_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` at the first signal; the second one kills.

    Ignored signals stay ignored, as `nohup` and background jobs of a shell expect.
    """

    def handle(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        act()

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    before = {each: old for each, old in before.items() if old is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
