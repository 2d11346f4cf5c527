"""Whether the runtime's threads may spin while they wait for each other.

ONNX Runtime's threads wait for the next part of a step by spinning. On a board that does
nothing else this saves 6 to 17 % of a step. Beside another program it costs 30 to 40 %:
threads that wait hold the processors that those with work need (docs/results.md). Under a
container's quota they use it up. Clock: monotonic seconds.
"""

import os
import time
from collections.abc import Callable

from edge_runtime.device import BackgroundLoad, usable_cpus

BUSY = 0.5  # processors with other work: about where spinning stops to pay
QUIET = 0.3
_LOOK_S = 2.0  # between two measurements
_FIRST_S = 0.3  # the first measurement may be shorter
_CALM_S = 30.0  # without other work, before threads spin again: a change reloads the graph


class SpinPolicy:
    """Follows the other work of the processors during a run."""

    def __init__(
        self,
        other: BackgroundLoad | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to measure; without a quota, threads may spin until there is other work."""
        self._other, self._clock = other or BackgroundLoad(), clock
        self._looked_s = clock()
        self._until_s = _FIRST_S  # next measurement, after the last
        self._busy_s = self._looked_s - _CALM_S  # when there was other work
        self._has_quota = usable_cpus() < len(os.sched_getaffinity(0))
        self._is_allowed = not self._has_quota

    def is_allowed(self) -> bool:
        """Whether threads may spin from now on; unchanged where other work is unknown.

        To be called before every step: it measures since the last call.
        """
        now_s = self._clock()
        if self._has_quota or now_s - self._looked_s < self._until_s:
            return self._is_allowed
        self._looked_s, self._until_s = now_s, _LOOK_S
        processors = self._other.processors()
        if processors is None:
            return self._is_allowed
        if processors > QUIET:
            self._busy_s = now_s
        if processors >= BUSY:
            self._is_allowed = False
        elif now_s - self._busy_s >= _CALM_S:
            self._is_allowed = True
        return self._is_allowed
