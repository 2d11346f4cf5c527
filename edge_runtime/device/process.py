"""This process: how long it has run, and what the kernel shall do with it."""

import os
import time
from contextlib import suppress
from pathlib import Path

_START_FIELD = 19  # of /proc/self/stat behind the name: start in clock ticks since boot


def process_elapsed_s() -> float:
    """Seconds since this process was started; the interpreter's own start-up counts."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def be_first_to_be_killed() -> None:
    """Ask the kernel to choose this process, and no other one, when memory runs out."""
    with suppress(OSError):  # a hardened container may forbid it
        Path("/proc/self/oom_score_adj").write_text("1000")
