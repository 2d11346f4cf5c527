"""A sensor that replays a recorded trace, for tests of programs that measure energy.

Units: watts, seconds since the start of the trace. Each value holds until the next one; the
trace is repeated at its end.
"""

import bisect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from edge_runtime.device.sensors.base import PowerSensor
from edge_runtime.errors import SensorError
from edge_runtime.reading import parse_json, read_file

Trace = Sequence[tuple[float, Mapping[str, float | None]]]

_MAX_TRACE_BYTES = 1 << 28  # a day at ten samples per second
_MOST = 1e9  # seconds, watts


class ReplaySensor(PowerSensor):
    """Watts by rail, as recorded. Public: users test their own code with it."""

    name = "replay"
    is_estimate = False
    counts_energy = False
    period_s = 0.0

    def __init__(
        self,
        trace: Trace,
        *,
        total: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        source: str = "values given by the program",
    ) -> None:
        """Start with the first value, now.

        Args:
            trace: seconds, growing, and watts by rail from then on.
            total: the rails whose sum is the board's input.
            clock: monotonic seconds; with its own clock, a test decides what is read.
            source: where the trace comes from, for the description.

        Raises:
            SensorError: the trace is empty or goes back in time, or lacks a rail of the total.
        """
        self._times_s = [t_s for t_s, _ in trace]
        self._watts = [dict(watts) for _, watts in trace]
        if not trace or self._times_s != sorted(set(self._times_s)):
            raise SensorError(
                "replay: expected a trace of at least one value with growing times"
            )
        self.rails = tuple(dict.fromkeys(rail for watts in self._watts for rail in watts))
        self.total = tuple(total)
        if missing := [rail for rail in total if rail not in self.rails]:
            raise SensorError(
                f"replay: total needs rail {', '.join(missing)}; the trace has "
                f"{', '.join(self.rails) or 'none'}"
            )
        self.description = f"replay of {source}"
        self._clock, self._start_s = clock, clock()
        self._first_s = self._times_s[0]
        # The last value lasts as long as the one before it.
        steps_s = [b - a for a, b in zip(self._times_s, self._times_s[1:], strict=False)]
        self._length_s = self._times_s[-1] - self._first_s + (steps_s[-1] if steps_s else 1.0)

    @override
    def read(self) -> dict[str, float | None]:
        t_s = self._first_s + (self._clock() - self._start_s) % self._length_s
        watts = self._watts[bisect.bisect_right(self._times_s, t_s) - 1]
        return {rail: watts.get(rail) for rail in self.rails}

    @override
    def close(self) -> None:
        pass


def read_trace(path: Path) -> Trace:
    """The trace of a file with a JSON object per line, such as a run's `power.jsonl`.

    Each has `t_s` (seconds) and `rails_w` (watts by rail); other keys are ignored.

    Raises:
        SensorError: the file cannot be read, or a line is not a reading; the first is named.
    """
    try:
        lines = read_file(path, _MAX_TRACE_BYTES).splitlines()
    except OSError as error:
        raise SensorError(f"replay: {path} cannot be read ({error.strerror})") from error
    return [_entry(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _entry(line: bytes, where: str) -> tuple[float, dict[str, float | None]]:
    try:
        record: Any = parse_json(line)
        return _number(record["t_s"]), {
            str(rail): None if power_w is None else _number(power_w)
            for rail, power_w in record["rails_w"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise SensorError(
            f"replay: {where} is not a reading such as "
            '{"t_s": 0.1, "rails_w": {"VDD_IN": 5.0}}'
        ) from error


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _MOST:  # also NaN
        raise ValueError(f"{number} is no time and no power")
    return number
