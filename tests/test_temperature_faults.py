"""Temperature zones that vanish, are stuck, or read what cannot be true."""

import shutil
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path

import fake_board
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training_budget import SlowEngine, profile
from training_fakes import FakePictures, options, write_package

from edge_runtime.device.heat import HeatWatch, Hottest, ZoneChange, ZoneReading
from edge_runtime.errors import DeviceError, SensorError
from edge_runtime.facts import Budget
from edge_runtime.records import events
from edge_runtime.training import Metering, train

SELECTOR = "edge_runtime.training.selector"
GONE = ZoneReading(None, "temp cannot be read")


def seen(watch: HeatWatch, t_s: float, **zones: float | None) -> list[ZoneChange]:
    readings = {
        name: GONE if celsius is None else ZoneReading(celsius)
        for name, celsius in zones.items()
    }
    return watch.see(t_s, readings)


def test_a_zone_is_reported_when_it_is_lost_and_when_it_is_back() -> None:
    watch = HeatWatch()
    assert seen(watch, 0.0, cpu=50.0, gpu=45.0) == []
    assert seen(watch, 1.0, cpu=None, gpu=46.0) == [
        ZoneChange("cpu", 50.0, GONE.problem, None)
    ]
    assert seen(watch, 2.0, cpu=None, gpu=46.0) == []
    assert seen(watch, 5.0, cpu=52.0, gpu=46.0) == [ZoneChange("cpu", 52.0, None, 5.0)]


def test_without_the_hottest_zone_the_temperature_is_unknown() -> None:
    watch = HeatWatch()
    seen(watch, 0.0, cpu=50.0, board=30.0)
    seen(watch, 1.0, cpu=None, board=30.0)
    unknown = watch.unknown(13.0)
    assert unknown
    assert (unknown.zone, unknown.for_s) == ("cpu", 13.0)
    assert unknown.reason == "zone cpu, 50.0 C at last: temp cannot be read"
    assert watch.hottest() == Hottest("board", 30.0, 1.0)
    seen(watch, 14.0, cpu=49.0, board=30.0)
    assert watch.unknown(14.0) is None
    seen(watch, 15.0, cpu=49.0, board=None)  # a cooler one: the limit is still kept
    assert watch.unknown(60.0) is None


def test_zones_that_never_read_anything_are_named() -> None:
    watch = HeatWatch()
    assert seen(watch, 0.0, cpu=None) == []
    unknown = watch.unknown(3.0)
    assert unknown
    assert unknown.reason == "zone cpu: temp cannot be read"
    assert HeatWatch().unknown(0.0).reason == "no temperature sensor was found"


zones = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.sampled_from([30.0, 40.0, 50.0]), min_size=3
)


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.5]), zones), min_size=1, max_size=20))
def test_the_state_is_that_of_its_definition(
    steps: list[tuple[float, Mapping[str, float | None]]],
) -> None:
    """By looking through all readings until now."""
    times_s = list(accumulate(passed_s for passed_s, _ in steps))
    watch = HeatWatch()
    for i, (t_s, (_, zones)) in enumerate(zip(times_s, steps, strict=True)):
        seen(watch, t_s, **zones)
        past = [readings for _, readings in steps[: i + 1]]
        known = {name: c for name, c in zones.items() if c is not None}
        hottest = watch.hottest()
        assert (hottest.temperature_c if hottest else None) == max(
            known.values(), default=None
        )
        if hottest:
            name = hottest.zone
            last = [c[name] for c in past if c[name] is not None]
            times = [t for t, c in zip(times_s, past, strict=False) if c[name] is not None]
            equal = next((j for j in range(len(last) - 1, -1, -1) if last[j] != last[-1]), -1)
            assert hottest.same_s == t_s - times[equal + 1]
        assert (watch.unknown(t_s) is None) >= all(c is not None for c in zones.values())
        if not known:
            assert watch.unknown(t_s) is not None


def board(root: Path, monkeypatch: pytest.MonkeyPatch, **zones: object) -> None:
    """The zones of the machine that the run sees."""
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(root / "sys"))
    (root / "sys").mkdir(exist_ok=True)
    for number, (name, thousandths_c) in enumerate(zones.items()):
        fake_board.zone(root, number, name, thousandths_c)


def run(
    root: Path, seen: list[events.Event], fault: Callable[[], object], *, epochs: int = 500
) -> None:
    """Train below a temperature; the fault is there after twenty events."""
    package = write_package(root / "package")
    with Metering(None) as metering:
        asked = options(
            engine=SlowEngine(),
            rungs=None,
            profile=profile(),
            budget=Budget(temperature_c=70.0),
            epochs=epochs,
            metering=metering,
        )
        for event in train(package, FakePictures(), root / "run", asked):
            seen.append(event)
            if len(seen) == 20:
                fault()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{SELECTOR}._UNKNOWN_S", 0.5)
    monkeypatch.setattr(f"{SELECTOR}._STUCK_S", 0.5)
    monkeypatch.setattr("edge_runtime.device.meter._ENVIRONMENT_S", 0.1)


FAULTS = {
    "vanished": (None, r"zone cpu, 50\.0 C at last: .*thermal_zone0/temp cannot be read"),
    "stuck at 0": (0, r"zone cpu, 50\.0 C at last: .*temp: 0 is not in thousandths"),
    "stuck at 127": (127_000, r"zone cpu, 50\.0 C at last: .*temp: 127 C is outside"),
    "whole degrees": (51, r"zone cpu, 50\.0 C at last: .*temp: 51 is not in thousandths"),
}


@pytest.mark.parametrize(("value", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_limit_whose_zone_is_lost_ends_the_run(tmp_path, monkeypatch, value, reason) -> None:
    """Although a cooler zone can be read."""
    board(tmp_path, monkeypatch, cpu=50_000, board=30_000)
    folder = tmp_path / "sys/class/thermal/thermal_zone0"

    def fault() -> None:
        if value is None:
            shutil.rmtree(folder)
        else:
            fake_board.put(folder / "temp", value)

    seen: list[events.Event] = []
    with pytest.raises(SensorError, match=f"limit on temperature cannot be judged.*{reason}"):
        run(tmp_path, seen, fault)
    (lost,) = [event for event in seen if isinstance(event, events.ZoneLost)]
    assert (lost.zone, lost.temperature_c) == ("cpu", 50.0)
    ended = seen[-1]
    assert isinstance(ended, events.LimitUnknown)
    assert (ended.limit, ended.sensor) == ("temperature", "cpu")
    assert ended.checkpoint == f"checkpoints/{ended.step}"


def test_a_zone_that_stays_hot_without_load_ends_the_run(tmp_path, monkeypatch) -> None:
    board(tmp_path, monkeypatch, cpu=50_000)
    folder = tmp_path / "sys/class/thermal/thermal_zone0"
    seen: list[events.Event] = []
    with pytest.raises(
        SensorError, match=r"zone cpu reads exactly 90\.0 C for \d+ s of idling"
    ):
        run(tmp_path, seen, lambda: fake_board.put(folder / "temp", 90_000))
    (paused,) = [event for event in seen if isinstance(event, events.Paused)]
    assert "zone cpu has 90.0 C" in paused.reason
    assert isinstance(seen[-1], events.LimitUnknown)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(127_000, "127 C is outside"), (0, "0 is not in"), (None, "was found")],
)
def test_a_limit_without_a_true_zone_is_refused(tmp_path, monkeypatch, value, reason) -> None:
    board(tmp_path, monkeypatch, **({} if value is None else {"cpu": value}))
    with pytest.raises(DeviceError, match=f"--temperature 70C cannot be kept: .*{reason}"):
        run(tmp_path, [], lambda: None)
    assert not (tmp_path / "run").exists()


def test_a_cooler_zone_that_is_lost_is_only_reported(tmp_path, monkeypatch) -> None:
    board(tmp_path, monkeypatch, cpu=50_000, board=30_000)
    folder = tmp_path / "sys/class/thermal/thermal_zone1"
    seen: list[events.Event] = []
    run(tmp_path, seen, lambda: shutil.rmtree(folder), epochs=40)
    assert [event.zone for event in seen if isinstance(event, events.ZoneLost)] == ["board"]
    assert isinstance(seen[-1], events.Finished)
