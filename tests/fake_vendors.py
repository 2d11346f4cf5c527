"""Stand-ins for the libraries of vendors, with the names that the sensors use."""

import types
from collections.abc import Callable
from typing import Any

import pytest


class Clock:
    """A monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class FakeJtop:
    """The client of jetson-stats: a thread that calls observers. Tests call `send`."""

    clients: list["FakeJtop"]
    refusal: Exception | None
    first: dict[str, Any]  # what a service sends on connection

    def __init__(self, interval: float) -> None:
        assert 0 < interval <= 1
        self._power: dict[str, Any] | None = None
        self._observers: set[Callable[[Any], None]] = set()
        self.alive = False

    def attach(self, observer: Callable[[Any], None]) -> None:
        self._observers.add(observer)

    def detach(self, observer: Callable[[Any], None]) -> None:
        self._observers.discard(observer)

    def start(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.clients.append(self)
        self.alive = True
        self.send(self.first)

    def is_alive(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.alive = False

    @property
    def power(self) -> dict[str, Any]:
        if self._power is None:
            raise KeyError("power")
        return self._power

    def send(self, power: dict[str, Any] | None) -> None:
        self._power = power
        for observer in set(self._observers):
            observer(self)


def jtop_rail(power_w: float, **more: Any) -> dict[str, Any]:
    power_mw = round(power_w * 1000)
    return {"power": power_mw, "avg": power_mw * 3, "online": True, **more}


def install_jtop(monkeypatch: pytest.MonkeyPatch, first: dict[str, Any]) -> type[FakeJtop]:
    """A service that sends `first`; the class has its clients, the newest last."""

    class Service(FakeJtop):
        pass

    Service.clients, Service.refusal, Service.first = [], None, first
    module = types.ModuleType("jtop")
    module.jtop = Service  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "jtop", module)
    return Service


class NVMLError(Exception):
    pass


class FakeNvml(types.ModuleType):
    """The module pynvml with a few GPUs. `None` in place of a number is not supported."""

    NVMLError = NVMLError

    def __init__(self, *, energy_j: list[float | None], power_w: list[float | None]) -> None:
        super().__init__("pynvml")
        self.energy_j, self.power_w = energy_j, power_w
        self.is_lost = False
        self.opened = 0

    def _alive(self) -> None:
        if self.is_lost:
            raise NVMLError("GPU is lost")

    def nvmlInit(self) -> None:  # noqa: N802
        self._alive()
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.energy_j)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:  # noqa: N802
        return self._thousandths(self.energy_j[gpu])

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:  # noqa: N802
        return self._thousandths(self.power_w[gpu])

    def _thousandths(self, value: float | None) -> int:
        self._alive()
        if value is None:
            raise NVMLError("Not Supported")
        return round(value * 1000)


def install_nvml(monkeypatch: pytest.MonkeyPatch, module: FakeNvml) -> FakeNvml:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", module)
    return module
