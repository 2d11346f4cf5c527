"""Signals that end a program as a question: shall we stop?"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# The last one comes when a connection to a board breaks.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signals(notice: str) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether one of them came; a second one kills.

    What is ignored stays so: `nohup` and the background of a shell want that.

    Args:
        notice: told to the user when the first one comes, such as `stopping after this step`.
    """
    came = []
    line = f"\nedge-train: {notice}; once more stops at once\n".encode()

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, line)  # print is not safe inside a signal handler

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    before = {each: old for each, old in before.items() if old is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, note)
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
