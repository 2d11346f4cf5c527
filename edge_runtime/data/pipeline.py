"""Work on threads, results in order: bounded, stopped promptly, no error lost."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_MOST_BY_DEFAULT = 4


def worker_count(asked: int | None) -> int:
    """Threads to use: as asked, or half of the processors and at most four.

    The other half trains. Small pictures gain nothing from a second thread; large ones do.
    """
    if asked is not None:
        return asked
    return max(1, min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)) // 2))


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Ends a part of a job that nobody waits for any more. Never leaves the worker threads."""


class StopFlag:
    """Raised once by whoever leaves; workers look at it between two pictures."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask all workers to end."""
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` once the flag is set."""
        if self._event.is_set():
            raise Stopped


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """Parts that may run at once on any thread; the consumer's thread makes the result."""

    parts: Sequence[Callable[[], Any]]
    finish: Callable[[list[Any]], T]


@contextmanager
def in_order(
    make_jobs: Callable[[StopFlag], Iterator[Job[T]]], *, threads: int, ahead: int
) -> Iterator[Iterator[T]]:
    """Run jobs on threads and give their results in the order of the jobs.

    While the consumer works on one result, at most `ahead` more are made or kept. An error of
    a part is raised to the consumer when it comes to that job. Leaving the context sets the
    flag, forgets what has not started and waits for the threads to end.
    """
    flag = StopFlag()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="edge-train-data")
    try:
        yield _results(executor, make_jobs(flag), ahead)
    finally:
        flag.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _results(executor: ThreadPoolExecutor, jobs: Iterator[Job[T]], ahead: int) -> Iterator[T]:
    waiting: deque[tuple[Job[T], list[Future[Any]]]] = deque()
    while True:
        while len(waiting) <= ahead and (job := next(jobs, None)) is not None:
            waiting.append((job, [executor.submit(part) for part in job.parts]))
        if not waiting:
            return
        job, futures = waiting.popleft()
        yield job.finish([future.result() for future in futures])
