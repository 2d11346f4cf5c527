"""SIGINT and SIGTERM as a question: shall we stop?"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(notice: str) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGINT or SIGTERM came; a second one kills.

    Args:
        notice: told to the user when the first one comes, such as `stopping after this step`.
    """
    came = []
    line = f"\nedge-train: {notice}; once more stops at once\n".encode()

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, line)  # print is not safe inside a signal handler

    before = {each: signal.signal(each, note) for each in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
