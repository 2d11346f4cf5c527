"""A run's status for Prometheus, over HTTP, by the official client library.

The run folder is read for each request, by a thread of the server: without requests it costs
nothing. An unknown value has no sample. Names and units: docs/watching.md.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from edge_runtime.errors import ConfigError, EdgeRuntimeError, how_to_install
from edge_runtime.facts import Budget
from edge_runtime.live.follower import Follower
from edge_runtime.live.status import Status
from edge_runtime.records import RunInfo, open_run
from edge_runtime.records.run import RUN_FILE

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOOPBACK = "127.0.0.1"
_Labels: TypeAlias = Mapping[str, str]
_NO_LABELS: _Labels = {}

logger = logging.getLogger(__name__)


@contextmanager
def serve_metrics(run_dir: Path, port: int, address: str = LOOPBACK) -> Iterator[int]:
    """Answer `GET /metrics` with what a run is doing, until the context ends.

    Args:
        run_dir: the run folder; while there is none, there are no samples.
        port: to listen on; 0: any that is free.
        address: of this machine; `0.0.0.0` is all of them.

    Returns:
        The port.

    Raises:
        ConfigError: the client library is missing, or the port cannot be opened.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise ConfigError(
            f"--metrics-port needs prometheus-client: {how_to_install('metrics')}."
        ) from error
    registry = CollectorRegistry()
    registry.register(_Collector(run_dir))
    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(
            f"--metrics-port {port}: cannot listen on {address}: {error}. Choose another "
            "port, or an address of this machine."
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector:
    """Gives the library a run's metrics."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._follower: Follower | None = None
        self._lock = Lock()  # several may ask at once

    def describe(self) -> list["Metric"]:
        """None in advance: the library would call `collect` for them."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """What is known now."""
        with self._lock:
            try:
                status = self._status()
            except EdgeRuntimeError as error:
                logger.warning("no metrics: %s", error)
                self._follower, status = None, None
            if status is not None:
                yield from metrics_of(status)

    def _status(self) -> Status | None:
        if self._follower is None:
            if not (self._run_dir / RUN_FILE).exists():
                return None
            self._follower = Follower(open_run(self._run_dir))
        self._follower.poll()
        return self._follower.status


def metrics_of(status: Status) -> Iterator["Metric"]:
    """All that is known of a run."""
    yield _info("run", "What is trained, and on what.", _facts(status.info))
    yield from _training(status)
    yield from _spending(status)
    yield from _limits(status.budget)


def _facts(info: RunInfo) -> dict[str, str]:
    found = {
        "package_digest": info.settings.package_digest,
        "source": info.source,
        "engine": info.engine,
        "device": info.device,
        "gpu": info.gpu,
        "board": info.board,
        "power_mode": info.power_mode,
        "sensor": info.sensor,
    }
    return {name: value for name, value in found.items() if value is not None}


def _training(status: Status) -> Iterator["Metric"]:
    yield from _gauge("step", "Training steps done.", status.steps_done)
    yield from _gauge("final_step", "Training steps of the run.", status.info.total_steps)
    yield from _counter("images", "Pictures trained.", status.images_done)
    if last := status.last_step:
        yield from _gauge("epoch", "The epoch of the last step, from 0.", last.epoch)
        yield from _gauge("loss", "The loss of the last step.", last.loss)
        yield from _gauge("learning_rate", "The learning rate of the last step.", last.lr)
        yield from _gauge("keep_ratio", "The share of tokens kept.", last.keep_ratio)
        yield _info("rung", "The rung in training.", {"rung": last.rung})
    pace = status.pace
    yield from _gauge("images_per_second", "Over the last minute.", pace.images_per_s)
    yield from _gauge("remaining_seconds", "Until the last step, guessed.", status.left_s)


def _spending(status: Status) -> Iterator["Metric"]:
    sample, mark = status.sample, {"estimate": str(status.is_estimate).lower()}
    yield from _counter("time_seconds", "Spent, of all processes.", status.spent_s)
    yield from _counter("energy_joules", "Spent, gross.", status.spent_j, mark)
    yield from _gauge("power_watts", "Of the whole board.", status.power_w, mark)
    yield from _gauge("resident_bytes", "Of all processes.", status.rss_bytes)
    if status.info.sensor is not None:
        lost = status.sensor_lost is not None
        yield from _gauge("power_sensor_lost", "1: power is not measured now.", lost)
    if sample is None:
        return
    rails = [(power_w, {"rail": rail, **mark}) for rail, power_w in sample.rails_w.items()]
    yield from _gauges("rail_power_watts", "Of one rail of the board.", rails)
    hottest = "Of the hottest zone of the board."
    yield from _gauge("temperature_celsius", hottest, sample.temperature_c)
    yield from _gauge("throttled", "1: the board slows down to cool down.", sample.throttled)


def _limits(budget: Budget) -> Iterator["Metric"]:
    yield from _gauge("budget_time_seconds", "The limit.", budget.time_s)
    yield from _gauge("budget_energy_joules", "The limit.", budget.energy_j)
    yield from _gauge("budget_power_watts", "The limit of the mean.", budget.power_w)
    yield from _gauge("budget_resident_bytes", "The limit.", budget.memory_bytes)
    yield from _gauge("budget_temperature_celsius", "The limit.", budget.temperature_c)


def _info(name: str, text: str, labels: _Labels) -> "Metric":
    from prometheus_client.core import InfoMetricFamily

    return InfoMetricFamily(f"edge_train_{name}", text, value=dict(labels))


def _counter(
    name: str, text: str, value: float | None, labels: _Labels = _NO_LABELS
) -> Iterator["Metric"]:
    """One of a known value, or none. Its samples are called `..._total`."""
    from prometheus_client.core import CounterMetricFamily

    if value is not None:
        found = CounterMetricFamily(f"edge_train_{name}", text, labels=list(labels))
        found.add_metric(list(labels.values()), value)
        yield found


def _gauge(
    name: str, text: str, value: float | None, labels: _Labels = _NO_LABELS
) -> Iterator["Metric"]:
    """One of a known value, or none."""
    return _gauges(name, text, [(value, labels)])


def _gauges(
    name: str, text: str, values: Sequence[tuple[float | None, _Labels]]
) -> Iterator["Metric"]:
    """One with a sample for each known value, or none; all have the same labels."""
    from prometheus_client.core import GaugeMetricFamily

    known = [(value, labels) for value, labels in values if value is not None]
    if known:
        found = GaugeMetricFamily(f"edge_train_{name}", text, labels=list(known[0][1]))
        for value, labels in known:
            found.add_metric(list(labels.values()), value)
        yield found
