"""Programs that keep the machine busy during a measurement."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PERIOD_S = 0.02  # of a program that uses a part of a processor
_START_S = 0.5
_PROGRAM = """
import sys, time
busy_s, idle_s = map(float, sys.argv[1:])
while True:
    until_s = time.monotonic() + busy_s
    while time.monotonic() < until_s:
        pass
    if idle_s:
        time.sleep(idle_s)
"""


@contextmanager
def other_programs(processors: float) -> Iterator[None]:
    """Programs that want that many processors, as long as the block runs."""
    whole, part = divmod(processors, 1.0)
    shares = [1.0] * int(whole) + [part] * (part > 0)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *(f"{s * _PERIOD_S}" for s in (share, 1 - share))]
        )
        for share in shares
    ]
    try:
        if programs:
            time.sleep(_START_S)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()
