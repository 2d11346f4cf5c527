"""Tasks on threads with results in order: bounded, promptly cancelled, no error lost."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar

from edge_runtime.device import usable_cpus

T = TypeVar("T")

_MOST_BY_DEFAULT = 4


def worker_count(requested: int | None) -> int:
    """Number of threads: as requested, or half of the processors and at most four.

    The processors are those that this process may use; a container may have less than one. The
    other half trains. A second thread helps with large pictures only.
    """
    if requested is not None:
        return requested
    return max(1, min(_MOST_BY_DEFAULT, int(usable_cpus() / 2)))


class Cancelled(Exception):  # noqa: N818 - not an error
    """Ends a part of a task that is no longer needed. Never leaves the worker threads."""


class CancelFlag:
    """Set once when the consumer leaves; workers check it between two pictures."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Cancel all workers."""
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` if the flag is set."""
        if self._event.is_set():
            raise Cancelled


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """Parts that may run in parallel; the consumer's thread makes the result of them."""

    parts: Sequence[Callable[[], Any]]
    finish: Callable[[list[Any]], T] = itemgetter(0)  # the result of the only part


@contextmanager
def in_order(
    make_tasks: Callable[[CancelFlag], Iterator[Task[T]]], *, threads: int, ahead: int
) -> Iterator[Iterator[T]]:
    """Run tasks on threads and yield their results in the order of the tasks.

    While the consumer works on one result, at most `ahead` more are made or stored. The error
    of a part is raised when the consumer reaches that task. Leaving the context sets the flag,
    drops what has not started and waits for the threads to end.
    """
    flag = CancelFlag()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="edge-train-data")
    try:
        yield _results(executor, make_tasks(flag), ahead)
    finally:
        flag.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _results(
    executor: ThreadPoolExecutor, tasks: Iterator[Task[T]], ahead: int
) -> Iterator[T]:
    waiting: deque[tuple[Task[T], list[Future[Any]]]] = deque()
    while True:
        while len(waiting) <= ahead and (task := next(tasks, None)) is not None:
            waiting.append((task, [executor.submit(part) for part in task.parts]))
        if not waiting:
            return
        task, futures = waiting.popleft()
        yield task.finish([future.result() for future in futures])
