"""Worker of energy_truth.py: the meter, in a process that loads the processors in a pattern.

The load comes from threads of this process, so that the sampling thread shares the processors
with them, as during training. Clock: `time.monotonic`.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_runtime.device import Meter, load_board, open_sensor
from parts.common import Job, answer

PERIOD_S = 0.02  # of being busy and idle
CHUNK = bytes(256 * 1024)  # hashed in less than a millisecond, without Python's lock
SETTLE_S = 1.0  # before the window


def work(job: Job) -> dict[str, Any]:
    """Measure one window of a load; returns its energy and the meter's CPU time."""
    sensor = open_sensor(load_board(None))
    if sensor is None or sensor.name != job["sensor"]:
        best = "none" if sensor is None else sensor.name
        raise SystemExit(f"the best sensor is {best}, not {job['sensor']}")
    window_s, level = job["window_s"], PATTERNS[job["load"]](**job["pattern"])
    with Meter(sensor) as meter, busy_processors(lambda t_s: level(t_s / window_s, t_s)):
        time.sleep(SETTLE_S)
        begin_cpu_s, begin_meter_s = time.process_time(), meter.sampling_cpu_s
        with meter.window(job["load"]) as window:
            time.sleep(window_s)
        meter_s = meter.sampling_cpu_s - begin_meter_s
        cpu_s = time.process_time() - begin_cpu_s
    energy = window.energy
    return {
        "start_s": energy.start_s,
        "window_s": energy.duration_s,
        "reported_j": energy.gross_j,
        "samples": energy.samples,
        "missed": energy.missed,
        "largest_gap_s": energy.largest_gap_s,
        "meter_cpu_share": meter_s / cpu_s,
        "cpus_busy": cpu_s / energy.duration_s,
    }


Level = Callable[[float, float], float]  # of share of the window and of seconds: 0 to 1


def constant(level: float) -> Level:
    """A constant level."""
    return lambda share, t_s: level


def ramp(first: float, last: float) -> Level:
    """A straight line over the window."""
    return lambda share, t_s: first + (last - first) * min(1.0, share)


def square(low: float, high: float, period_s: float, phase: float) -> Level:
    """High in one half of each period, low in the other."""
    return lambda share, t_s: high if (t_s / period_s + phase) % 1 < 0.5 else low


PATTERNS: dict[str, Callable[..., Level]] = {
    "constant": constant,
    "ramp": ramp,
    "square": square,
}


@contextmanager
def busy_processors(level: Callable[[float], float]) -> Iterator[None]:
    """Keep every processor busy for a share of the time, by the seconds since the window."""
    stop, start_s = threading.Event(), time.monotonic() + SETTLE_S

    def be_busy() -> None:
        begin_s = time.monotonic()
        while not stop.is_set():
            until_s = begin_s + PERIOD_S * level(max(0.0, begin_s - start_s))
            while time.monotonic() < until_s:
                hashlib.sha256(CHUNK)
            time.sleep(max(0.0, begin_s + PERIOD_S - time.monotonic()))
            begin_s = max(begin_s + PERIOD_S, time.monotonic() - PERIOD_S)

    threads = [threading.Thread(target=be_busy) for _ in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    answer(work)
