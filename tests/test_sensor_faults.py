"""What a run reports for each of twelve faults of a power sensor: never a wrong joule that is
called measured.

The sensors are real files of an emulated board. The meter's clock is 25 times as fast as
the real one, and so are the readings.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fake_board
import pytest
from boards import board
from test_training_budget import SlowEngine, profile
from training_fakes import FakePictures, options, write_package

from edge_runtime.device import Meter, PowerSensor, SensorEvent, choose_sensor
from edge_runtime.errors import SensorError
from edge_runtime.facts import Budget, WindowEnergy
from edge_runtime.records import events
from edge_runtime.training import Metering, train

FASTER = 25
TRUE_W = 7.0
BOARD = board(total=("VDD_IN",))


def ina3221(root: Path, **changes: float) -> Path:
    return fake_board.ina3221(root, {"VDD_IN": TRUE_W, "VDD_SOC": 1.5})


def live(folder: Path, number: int) -> None:
    """The chip measures: the last digit changes, and the mean is true."""
    fake_board.put(folder / "curr1_input", 1400 + (1 if number % 2 else -1))


def current(value: object) -> Callable[[Path, int], None]:
    return lambda folder, _: fake_board.put(folder / "curr1_input", value)


def spike(folder: Path, number: int) -> None:
    """Full scale in 1 of 25 readings."""
    live(folder, number)
    if number % 25 == 10:
        fake_board.put(folder / "curr1_input", 32_760)


def update_at_1_hz(folder: Path, number: int) -> None:
    if number % 10 == 0:
        live(folder, number // 10)


def vanish(folder: Path, _: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def fail_with_eio(folder: Path, _: int) -> None:
    path = folder / "curr1_input"
    if not path.is_symlink():
        path.unlink()
        path.symlink_to("/proc/self/mem")  # reading its first byte is an error of input/output


def forbid(folder: Path, _: int) -> None:
    path = folder / "curr1_input"
    if not path.is_dir():
        path.unlink()
        path.mkdir()  # root may read every file, but no folder


def double(folder: Path, number: int) -> None:
    """A carrier board's chip with the same label, at a tenth of the power."""
    live(folder, number)
    root = folder.parents[5]
    fake_board.ina3221(root, {"VDD_IN": 0.7}, number=10, device="7-0041")


@dataclass(frozen=True)
class Fault:
    """A fault, what is reported if it is there at the start, and in mid-run."""

    apply: Callable[[Path, int], None]
    at_start: str | None  # why the sensor is not chosen; None: it is
    in_run: str | None  # why its power is unknown; None: it is measured


FAULTS = {
    "dead": Fault(current(""), "curr1_input is empty", "curr1_input is empty"),
    "doubled": Fault(double, "occurs 2 times, as VDD_IN@7-0041, VDD_IN@1-0040", None),
    "negative": Fault(
        current(-1400), "holds -1400: -7.000 W is not above", "-7.000 W is not above -1 W"
    ),
    "zero": Fault(
        current(0), "VDD_IN: 0.000 W is not above zero", "VDD_IN: 0.000 W is not above zero"
    ),
    "frozen": Fault(current(1400), None, "VDD_IN: exactly 7.000 W for "),
    "spiking": Fault(spike, None, None),
    "slow": Fault(update_at_1_hz, None, None),
    "vanishing": Fault(vanish, "hwmon3 leads to", "files have vanished"),
    "text": Fault(current("offline"), "holds 'offline'", "curr1_input holds 'offline'"),
    "EIO": Fault(fail_with_eio, "Input/output error", "curr1_input cannot be read (Input/out"),
    "permission": Fault(forbid, "curr1_input cannot be read", "curr1_input cannot be read"),
}  # "wrap" is that of counters, below


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(each.apply, each.at_start) for each in FAULTS.values() if each.at_start],
    ids=[name for name, each in FAULTS.items() if each.at_start],
)
def test_at_the_start_the_sensor_is_not_chosen(tmp_path, fault, reason) -> None:
    """The next sensor is; here the estimate, which is marked as one."""
    fault(ina3221(tmp_path), 0)
    own = board(total=("VDD_IN",), idle_w=3.0, full_w=9.0)
    choice = choose_sensor(own, root=tmp_path)
    assert choice.sensor
    assert choice.sensor.is_estimate
    assert reason in choice.refused["ina3221"]
    choice.sensor.close()


@dataclass
class Measured:
    energy: WindowEnergy
    events: list[SensorEvent]
    unknown_because: str | None
    unknown_s: float  # until the end


def measure(
    sensor: PowerSensor,
    change: Callable[[int], None],
    *,
    seconds: float,
    root: Path,
    faster: float = FASTER,
) -> Measured:
    """Read while files change, for some seconds of the fast clock."""
    reported: list[SensorEvent] = []

    def clock() -> float:
        return faster * time.monotonic()

    with (
        Meter(
            sensor, rate_hz=10 * faster, clock=clock, on_event=reported.append, root=root
        ) as meter,
        meter.window("run") as window,
    ):
        end_s, number = clock() + seconds, 0
        while clock() < end_s:
            change(number)
            number += 1
            time.sleep(0.1 / faster)
        unknown = meter.power_unknown()
    because, for_s = (unknown.reason, unknown.for_s) if unknown else (None, 0.0)
    return Measured(window.energy, reported, because, for_s)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_in_a_run_it_is_measured_or_unknown(tmp_path, fault) -> None:
    folder = ina3221(tmp_path)
    sensor = choose_sensor(BOARD, root=tmp_path).sensor
    assert sensor

    def change(number: int) -> None:
        live(folder, number) if number < 40 else fault.apply(folder, number)

    found = measure(sensor, change, seconds=50.0, root=tmp_path)
    energy, kinds = found.energy, [event.kind for event in found.events]
    # The last power that was true is assumed where it is unknown.
    assert energy.gross_j == pytest.approx(TRUE_W * energy.duration_s, rel=0.02)
    if fault.in_run is None:
        assert energy.gap_s < 0.1 * energy.duration_s
        assert ("refused" in kinds) == (fault.apply is spike)
        # A delay of the machine, 25 times as long on the fast clock, may lose it for a moment.
        assert kinds.count("lost") == kinds.count("back")
    else:
        assert "lost" in kinds
        assert fault.in_run in (found.unknown_because or "")
        assert found.unknown_s > 30.0
        # Every delay of the machine is 25 times as long on the fast clock, and a gap too.
        assert found.unknown_s - 2.0 <= energy.gap_s < found.unknown_s + 10.0


def test_a_counter_that_wraps_in_a_run_is_measured(tmp_path) -> None:
    folder = fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 995.0)})
    sensor = choose_sensor(board(), root=tmp_path).sensor
    assert sensor
    begin_s = time.monotonic()

    def count(_: int) -> None:
        counted_j = 995.0 + TRUE_W * (time.monotonic() - begin_s)
        fake_board.put(folder / "intel-rapl:0/energy_uj", round(counted_j % 1000 * 1e6))

    found = measure(sensor, count, seconds=2.0, root=tmp_path, faster=1)
    assert found.events == []
    expected_j = TRUE_W * found.energy.duration_s
    assert found.energy.gross_j == pytest.approx(expected_j, rel=0.3)  # a missed one: 1000 J


def test_a_counter_that_stands_still_has_not_measured_nothing(tmp_path) -> None:
    fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 5.0)})
    sensor = choose_sensor(board(), root=tmp_path).sensor
    assert sensor
    found = measure(sensor, lambda _: None, seconds=10.0, root=tmp_path)
    assert found.energy.gross_j is None
    assert "package-0: has counted nothing for " in (found.unknown_because or "")


LIMITS = [Budget(energy_j=1e6), Budget(power_w=100.0)]


def train_with(
    tmp_path: Path, fault: str, budget: Budget, *, epochs: int, seen: list[events.Event]
) -> None:
    """Train; the fault is there after twenty events."""
    folder = ina3221(tmp_path)
    package = write_package(tmp_path / "package")
    with Metering(choose_sensor(BOARD, root=tmp_path).sensor) as metering:
        asked = options(
            engine=SlowEngine(),
            rungs=None,
            profile=profile(),
            budget=budget,
            epochs=epochs,
            metering=metering,
        )
        for event in train(package, FakePictures(), tmp_path / "run", asked):
            seen.append(event)
            if len(seen) == 20:
                FAULTS[fault].apply(folder, 0)


@pytest.mark.parametrize("budget", LIMITS, ids=["energy", "power"])
@pytest.mark.parametrize("fault", ["zero", "negative", "vanishing", "text"])
def test_a_limit_that_cannot_be_judged_ends_the_run(
    tmp_path, monkeypatch, fault, budget
) -> None:
    monkeypatch.setattr("edge_runtime.training.selector._UNKNOWN_S", 0.2)
    seen: list[events.Event] = []
    with pytest.raises(SensorError, match=r"cannot be judged any more after step \d+ of"):
        train_with(tmp_path, fault, budget, epochs=500, seen=seen)
    ended = seen[-1]
    assert isinstance(ended, events.LimitUnknown)
    assert ended.limit == ("energy" if budget.energy_j else "power")
    assert ended.sensor == "ina3221"
    assert FAULTS[fault].in_run in ended.reason
    assert ended.checkpoint == f"checkpoints/{ended.step}"


def test_without_a_limit_on_energy_the_run_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.training.selector._UNKNOWN_S", 0.2)
    seen: list[events.Event] = []
    train_with(tmp_path, "zero", Budget(time_s=600), epochs=40, seen=seen)
    assert isinstance(seen[-1], events.Finished)
    assert seen[-1].stopped_by is None
