"""Processors that do something else than the calling thread's computation.

That is other programs, the host of a virtual machine, and this process's own Python threads,
such as those that decode pictures. Unit: processors; 0.5 is one of them half of the time.
Clock: monotonic seconds.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device.files import text

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6, 7)  # of /proc/stat: user, nice, system, irq, softirq, steal
_THREAD_BUSY = (11, 12)  # of /proc/PID/stat after the name: user, system


class BackgroundLoad:
    """Measures it from one call to the next.

    Threads that native libraries have started do not count: they compute for the caller.
    Those of a video decoder are not told apart from them.
    """

    def __init__(
        self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to measure.

        Args:
            root: where /proc/stat is.
            clock: in seconds.
        """
        self._root, self._clock = root, clock
        self._last = self._read()

    def processors(self) -> float | None:
        """Mean since the last call, or since the start.

        Only processors that this process may use count. `None` where the kernel does not
        count them one by one.
        """
        before, now = self._last, self._read()
        self._last = now
        if before.all_s is None or now.all_s is None or now.at_s <= before.at_s:
            return None
        engine_s = now.process_s - before.process_s - now.in_threads_since(before)
        other_s = now.all_s - before.all_s - engine_s
        return max(0.0, other_s / (now.at_s - before.at_s))

    def _read(self) -> "_Counters":
        return _Counters(
            at_s=self._clock(),
            all_s=_used_s(self._root),
            process_s=time.process_time(),
            threads_s=_python_threads_s(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counters:
    """Processor time until now."""

    at_s: float
    all_s: float | None  # of all programs on our processors
    process_s: float
    threads_s: dict[int, float]  # of each other Python thread of this process

    def in_threads_since(self, before: "_Counters") -> float:
        """Of Python threads that still run, since then."""
        return sum(
            max(0.0, now_s - before.threads_s.get(thread, 0.0))
            for thread, now_s in self.threads_s.items()
        )


def _used_s(root: Path) -> float | None:
    """Time that all programs have used on the processors this process may use."""
    names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in (text(root / "proc/stat") or "").splitlines()]
    ours = [row[1:] for row in rows if row[0] in names]
    if len(ours) < len(names):
        return None
    return sum(_seconds(row, _BUSY) for row in ours)


def _python_threads_s() -> dict[int, float]:
    """Processor time of each Python thread of this process, except the calling one."""
    caller, times_s = threading.get_native_id(), {}
    for thread in threading.enumerate():
        if thread.native_id in (None, caller):
            continue
        stat = text(Path(f"/proc/self/task/{thread.native_id}/stat")) or ""
        if fields := stat.rpartition(")")[2].split():  # else it has just ended
            times_s[int(thread.native_id or 0)] = _seconds(fields, _THREAD_BUSY)
    return times_s


def _seconds(fields: Sequence[str], places: Sequence[int]) -> float:
    return sum(int(fields[place]) for place in places) / _TICKS_PER_S
