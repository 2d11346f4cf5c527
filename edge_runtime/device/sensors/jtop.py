"""jtop: the power rails of a Jetson from the service of jetson-stats, which is optional.

For containers that cannot read the board's own files. The service reads them about twice per
second and sends everything it knows; only `power` of each rail is used. Its `avg` is not an
average (half the new value and half the last `avg`), and its `tot` is a rail or the sum of
all, which counts some twice: the total is the sum of the rails that the board's profile names.

Readings of the service have no time: each holds from its arrival to the next. They are added
up when they arrive, so that each is counted exactly once.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from edge_runtime.device.board import Board
from edge_runtime.device.files import sysfs
from edge_runtime.device.plausibility import RAIL, Reading, SensorKind, judge
from edge_runtime.device.sensors.base import PowerSensor, total_rails
from edge_runtime.device.sensors.ina3221 import find_rails
from edge_runtime.errors import SensorError

# Requested; the first client of the service decides. The service works for some ms after each
# reading of the power and never sees its own share: a long interval keeps that small.
_INTERVAL_S = 0.5
_WATTS = SensorKind(frozen_s=30.0)  # of what the service sends
_FULL_SCALE_MA = 32_760  # of an INA3221 with the usual shunt
_SILENCE_S = 3.0  # the service's slowest usual interval is a second


def open_jtop(board: Board, root: Path) -> "Jtop":
    """Connect to the service, whose socket has a fixed path.

    The service knows rails by their label only.
    """
    chips = Counter(found.label for found in find_rails(sysfs(root)))
    if twice := [rail for rail in board.power.total if chips[rail] > 1]:
        raise SensorError(f"jtop: several chips of this board have a rail {', '.join(twice)}")
    return Jtop(board)


class Jtop(PowerSensor):
    """Joules by rail, from the watts that the service has sent."""

    name = "jtop"
    description = "jtop service of jetson-stats"
    is_estimate = False
    counts_energy = True
    period_s = 0.0
    kind = SensorKind(frozen_s=_SILENCE_S)  # of what it counts

    def __init__(self, board: Board, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect and wait for the first reading.

        Raises:
            SensorError: no jetson-stats, no service, no permission, or no rails.
        """
        try:
            from jtop import jtop
        except ImportError as error:
            raise SensorError(
                "jetson-stats is not installed: pip install jetson-stats, in the version of "
                "the jtop service"
            ) from error
        self._make_client: Callable[..., Any] = jtop
        self._clock = clock
        self._lock = threading.Lock()  # of the five below
        self._arrival_s = self._counted_s = self._equal_since_s = clock()
        self._watts: dict[str, float] = {}
        self._sums_j: dict[str, float] = {}
        self._problem = "the service has gone"
        self._why: str | None = None  # the total of the last reading was unknown
        self._connecting: threading.Thread | None = None
        self._client = self._connect()
        self.rails = tuple(self._watts)
        try:
            if not self.rails:
                raise SensorError("jtop: its service has no power rails")
            self.total = total_rails(board, self.rails)
        except SensorError:
            self.close()
            raise

    @override
    def read(self) -> dict[str, float | None]:
        with self._lock:
            now_s = self._clock()
            silence_s = now_s - self._arrival_s
            if self._client.is_alive() and silence_s <= _SILENCE_S:
                self._why = self._doubt(now_s)
                self._count(now_s, self._watts)
                return {
                    rail: None if self._is_unknown(rail) else self._sums_j[rail]
                    for rail in self.rails
                }
        if self._connecting is None or not self._connecting.is_alive():
            # In another thread: a service that hangs must not block the reader.
            self._connecting = threading.Thread(target=self._connect_again, daemon=True)
            self._connecting.start()
        raise SensorError(f"jtop: no reading for {silence_s:.1f} s: {self._problem}")

    def _is_unknown(self, rail: str) -> bool:
        return rail not in self._watts or (self._why is not None and rail in self.total)

    @override
    def why_unknown(self, rail: str) -> str | None:
        return self._why if rail in self.total else None

    @override
    def untrue_s(self) -> float:
        is_equal = self._why is not None and judge(Reading(self._total_w()), _WATTS) is None
        return self._clock() - self._equal_since_s if is_equal else 0.0

    def _total_w(self) -> float | None:
        """The total that the service sends; `None` if it lacks a rail of it."""
        parts = [self._watts.get(rail) for rail in self.total]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None

    def _doubt(self, now_s: float) -> str | None:
        """Why the total that the service sends cannot be true."""
        total_w = self._total_w()
        if total_w is None:
            return None  # no total, or unknown anyway
        return judge(Reading(total_w, now_s - self._equal_since_s), _WATTS)

    def _connect(self) -> Any:
        """A client that has received its first reading."""
        try:
            client = self._make_client(interval=_INTERVAL_S)
            client.attach(self._take)
            client.start()
        except Exception as error:  # also those of sockets, queues and pickles
            why = " ".join(str(error).split()) or type(error).__name__
            raise SensorError(f"jtop: {why}") from error
        return client

    def _connect_again(self) -> None:
        self._disconnect(self._client)
        try:
            self._client = self._connect()
        except SensorError as error:
            self._problem = str(error).removeprefix("jtop: ")

    def _take(self, client: Any) -> None:
        """Store a reading. Called in the client's thread, which an error would end."""
        with suppress(KeyError), self._lock:  # a reading without power
            watts, now_s = rails_w(client.power), self._clock()
            is_back = now_s - self._counted_s > _SILENCE_S
            self._count(now_s, watts if is_back else self._watts)
            if watts != self._watts:
                self._equal_since_s = now_s
            self._arrival_s, self._watts = now_s, watts

    def _count(self, now_s: float, watts: Mapping[str, float]) -> None:
        """Add the energy since the last count: half at these watts, half at the previous."""
        half_s = (now_s - self._counted_s) / 2
        self._counted_s = now_s
        for rail, power_w in watts.items():
            mean_j = half_s * (power_w + self._watts.get(rail, power_w))
            self._sums_j[rail] = self._sums_j.get(rail, 0.0) + mean_j

    def _disconnect(self, client: Any) -> None:
        client.detach(self._take)
        # It waits for a thread of its own that searches for libraries.
        threading.Thread(target=client.close, daemon=True).start()

    @override
    def close(self) -> None:
        self._disconnect(self._client)


def rails_w(power: Mapping[str, Any]) -> dict[str, float]:
    """Watts by rail of jtop's `power`. A `tot` with a name is a rail that `rail` lacks."""
    rails = dict(power.get("rail") or {})
    total = power.get("tot") or {}
    if total.get("name"):
        rails[total["name"]] = total
    return {
        name: rail["power"] / 1e3
        for name, rail in rails.items()
        if isinstance(rail.get("power"), int | float)
        and rail.get("online", True)
        and judge(Reading(rail["power"] / 1e3, scale=_scale(rail)), RAIL) is None
    }


def _scale(rail: Mapping[str, Any]) -> float | None:
    """The current as a share of what the chip can measure."""
    current_ma = rail.get("curr")
    return current_ma / _FULL_SCALE_MA if isinstance(current_ma, int | float) else None
