"""Work on a second thread, so that signals reach the first one while TensorRT works.

Python raises `KeyboardInterrupt` in its main thread only, at the next line of Python there. If
TensorRT works in that thread, the next line is often in one of our callbacks, whose exceptions
its bindings swallow: Ctrl-C would be lost.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

_LOOK_S = 0.2  # how long a signal may wait

T = TypeVar("T")


def interruptible(work: Callable[[Callable[[], bool]], T]) -> T:
    """Do some work, and wait for it.

    Args:
        work: gets a function that returns whether it should end early. After an interruption
            this waits until it has.

    Returns:
        Its result; what it raises is raised.
    """
    begins, interrupted, finished = threading.Event(), threading.Event(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        begins.wait()
        try:
            if not interrupted.is_set():
                results.append(work(interrupted.is_set))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=run, name="tensorrt")
    try:
        thread.start()
        begins.set()
        # Not `join`: one that is interrupted takes the thread for ended (Python 3.10 to 3.12)
        while not finished.wait(_LOOK_S):
            pass
    except BaseException:
        interrupted.set()
        if begins.is_set():  # otherwise nothing was begun, and nothing will be
            finished.wait()
        begins.set()
        raise
    if errors:
        raise errors[0]
    return results[0]
