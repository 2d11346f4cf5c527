"""This process and its descendants."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_runtime.device.files import text
from edge_runtime.errors import DeviceError

_START_FIELD = 19  # of /proc/self/stat, counted after the name: clock ticks since boot


def process_elapsed_s() -> float:
    """Seconds since this process was started; the interpreter's own start-up counts."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def prefer_oom_kill() -> None:
    """Ask the kernel to kill this process before any other when memory runs out."""
    with suppress(OSError):  # a hardened container may forbid it
        Path("/proc/self/oom_score_adj").write_text("1000")


def process_tree() -> list[int]:
    """Process ids of this process and of its descendants, itself first."""
    own = os.getpid()
    if not Path(f"/proc/self/task/{own}/children").exists():
        # A kernel without CONFIG_PROC_CHILDREN: psutil reads every process of the machine,
        # which takes fifty times as long.
        import psutil

        return [own, *(child.pid for child in psutil.Process().children(recursive=True))]
    tree = [own]
    for pid in tree:  # grows while it is read
        for thread in _thread_ids(pid):
            children = text(Path(f"/proc/{pid}/task/{thread}/children")) or ""
            tree += map(int, children.split())
    return tree


def _thread_ids(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:  # it ended after its parent had listed it
        return []


def python_command(code: str, *arguments: str) -> list[str]:
    """The command line of a Python that runs `code` and finds the modules this one finds."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:] = {sys.path!r}; {code}",
        *arguments,
    ]


@contextmanager
def start_errors() -> Iterator[None]:
    """Raise `DeviceError` where a `python_command` cannot be started."""
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"cannot start another process of {sys.executable}: {error.strerror}. This user "
            "must be allowed to run it, and there must be room for one more process."
        ) from error
