"""Counters of energy: they wrap, restart, and are compared with the true energy."""

import itertools
import re
import time
from contextlib import closing
from pathlib import Path

import fake_board
import psutil
import pytest
from boards import board
from fake_vendors import Clock, FakeNvml, install_nvml
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.device import Meter, choose_sensor, open_sensor
from edge_runtime.device.sensors.estimate import Estimate
from edge_runtime.device.sensors.nvml import Nvml
from edge_runtime.device.sensors.rapl import Rapl, WrappingCounter
from edge_runtime.errors import SensorError

RANGE_J = 1000.0
MAX_W = 100.0


steps = st.lists(
    st.tuples(st.integers(1, 160).map(lambda n: n / 4), st.integers(0, int(MAX_W))),
    min_size=1,
    max_size=30,
)


@given(start_j=st.integers(0, int(RANGE_J) - 1), steps=steps)
def test_a_counter_is_right_or_unknown(start_j: int, steps: list) -> None:
    clock = Clock()
    counter = WrappingCounter(range_j=RANGE_J, max_w=MAX_W, clock=clock)
    spent_j, before_j = 0.0, counter.joules(start_j)
    for wait_s, power_w in steps:
        clock.now_s += wait_s
        used_j = wait_s * power_w
        spent_j += used_j
        after_j = counter.joules((start_j + spent_j) % RANGE_J)
        if wait_s < RANGE_J / MAX_W:
            assert after_j is not None
            if before_j is not None:
                assert after_j - before_j == pytest.approx(used_j, abs=1e-6)
        else:
            assert after_j is None
        before_j = after_j


def test_a_counter_that_may_have_wrapped_twice_is_unknown() -> None:
    clock = Clock()
    counter = WrappingCounter(range_j=RANGE_J, max_w=MAX_W, clock=clock)
    assert counter.joules(900.0) == 0.0
    clock.now_s += 9.9
    assert counter.joules(100.0) == pytest.approx(200.0)  # one wrap
    clock.now_s += 30.0
    assert counter.joules(150.0) is None  # 50 J, or 1050, or 2050: unknown
    clock.now_s += 1.0
    assert counter.joules(160.0) == pytest.approx(210.0)  # from here on it is known again


def test_a_counter_that_was_set_back_has_not_wrapped() -> None:
    clock = Clock()
    counter = WrappingCounter(range_j=RANGE_J, max_w=MAX_W, clock=clock)
    counter.joules(500.0)
    clock.now_s += 1.0
    assert counter.joules(3.0) is None  # 503 J in a second are more than 100 W
    clock.now_s += 1.0
    assert counter.joules(53.0) == pytest.approx(50.0)


def test_domains_are_named_and_only_independent_ones_are_added(tmp_path: Path) -> None:
    folder = fake_board.rapl(
        tmp_path,
        {
            "intel-rapl:0": ("package-0", 10.0),
            "intel-rapl:0:0": ("core", 4.0),
            "intel-rapl:0:1": ("dram", 1.0),
            "intel-rapl:1": ("package-1", 20.0),
            "intel-rapl:2": ("psys", 50.0),
            "intel-rapl-mmio:0": ("package-0", 77.0),  # the same package once more
        },
    )
    sensor = Rapl(board(), tmp_path / "sys")
    assert sensor.rails == (
        "package-0", "package-0/core", "package-0/dram", "package-1", "psys"
    )  # fmt: skip
    assert sensor.total == ("package-0", "package-0/dram", "package-1")
    fake_board.put(folder / "intel-rapl:0/energy_uj", 12_500_000)
    fake_board.put(folder / "intel-rapl:1/energy_uj", 23_500_000)
    reading = sensor.read()
    assert (reading["package-0"], reading["package-1"]) == (
        pytest.approx(2.5),
        pytest.approx(3.5),
    )
    sensor.close()


def test_a_package_that_occurs_twice_is_not_guessed(tmp_path: Path) -> None:
    domains = {"intel-rapl:0": ("package-0", 10.0), "intel-rapl:1": ("package-0", 20.0)}
    fake_board.rapl(tmp_path, domains)
    candidates = "package-0@intel-rapl:0, package-0@intel-rapl:1"
    with pytest.raises(SensorError, match=f"rail package-0 occurs 2 times, as {candidates}"):
        Rapl(board(), tmp_path / "sys")
    own = board(total=("package-0@intel-rapl:0",))
    assert Rapl(own, tmp_path / "sys").total == own.power.total


def test_a_counter_without_its_range_is_not_left_out_of_the_total(tmp_path: Path) -> None:
    two = {"intel-rapl:0": ("package-0", 10.0), "intel-rapl:1": ("package-1", 20.0)}
    folder = fake_board.rapl(tmp_path, two | {"intel-rapl:0:0": ("core", 1.0)})
    fake_board.put(folder / "intel-rapl:0:0/max_energy_range_uj", "unknown")
    assert Rapl(board(), tmp_path / "sys").rails == ("package-0", "package-1")
    fake_board.put(folder / "intel-rapl:1/max_energy_range_uj", "unknown")
    why = "range of counter package-1 is unknown: .*max_energy_range_uj holds 'unknown'"
    with pytest.raises(SensorError, match=why):
        Rapl(board(), tmp_path / "sys")


def test_one_of_two_packages_that_cannot_be_read_makes_the_total_unknown(
    tmp_path: Path,
) -> None:
    two = {"intel-rapl:0": ("package-0", 10.0), "intel-rapl:1": ("package-1", 20.0)}
    folder = fake_board.rapl(tmp_path, two)
    (folder / "intel-rapl:1/energy_uj").unlink()
    (folder / "intel-rapl:1/energy_uj").mkdir()
    choice = choose_sensor(board(), root=tmp_path)
    assert choice.sensor is None
    expected = r"its total lacks package-1: .*intel-rapl:1/energy_uj cannot be read"
    assert re.search(expected, choice.refused["rapl"])


def test_a_link_without_its_target_is_not_a_machine_without_counters(tmp_path: Path) -> None:
    folder = fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 10.0)})
    target = "../../devices/virtual/powercap/intel-rapl/intel-rapl:1"
    (folder / "intel-rapl:1").symlink_to(target)
    why = f"intel-rapl:1 leads to {target}, which is not mounted"
    with pytest.raises(SensorError, match=why):
        Rapl(board(), tmp_path / "sys")
    chip = tmp_path / "sys/class/hwmon/hwmon3"
    chip.parent.mkdir()
    chip.symlink_to("../../devices/i2c/1-0040/hwmon/hwmon3")
    for name in ("ina3221", "ina238"):
        with pytest.raises(SensorError, match=r"hwmon3 leads to .*, which is not mounted"):
            open_sensor(board(), root=tmp_path, prefer=name)


def test_a_counter_of_a_small_range_comes_back_after_a_lost_reading(tmp_path: Path) -> None:
    """At 1000 W it may wrap every 0.1 s: read four times as often, and again at once."""
    folder = fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 1.0)}, range_j=100)
    path = folder / "intel-rapl:0/energy_uj"
    sensor, events = open_sensor(board(), root=tmp_path, prefer="rapl"), []
    begin_s = time.monotonic()

    def run(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            counted_j = 1 + 50 * (time.monotonic() - begin_s)
            fake_board.put(path, round(counted_j % 100 * 1e6))
            time.sleep(0.002)

    with Meter(sensor, on_event=events.append) as meter:
        run(0.5)
        path.unlink()
        time.sleep(0.5)
        run(3.0)
        assert meter.lost_because() is None
        assert meter.latest().total_w == pytest.approx(50.0, rel=0.9)
    assert [event.kind for event in events][:2] == ["lost", "back"]


def test_without_permission_the_error_names_the_solution(tmp_path: Path) -> None:
    folder = fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 10.0)})
    (folder / "intel-rapl:0/energy_uj").unlink()
    (folder / "intel-rapl:0/energy_uj").mkdir()
    with pytest.raises(SensorError, match=r"energy_uj cannot be read.*Run as root"):
        Rapl(board(), tmp_path / "sys")


def test_a_domain_that_wraps_continues(tmp_path: Path) -> None:
    clock = Clock()
    folder = fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 990.0)}, range_j=RANGE_J)
    sensor = Rapl(board(), tmp_path / "sys", clock=clock)
    clock.now_s += 0.1
    fake_board.put(folder / "intel-rapl:0/energy_uj", 15_000_000)
    assert sensor.read() == {"package-0": pytest.approx(25.0)}
    clock.now_s += 60.0  # at 1000 W it could have wrapped any number of times
    assert sensor.read() == {"package-0": None}
    sensor.close()


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The /proc that psutil reads."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


def test_the_estimate_follows_the_load(proc: Path) -> None:
    clock = Clock()
    fake_board.processor_load(proc.parent, 50.0, processors=4)
    sensor = Estimate(board(idle_w=2.0, full_w=10.0), clock=clock)
    clock.now_s += 10.0
    fake_board.processor_load(proc.parent, 70.0, processors=4)  # 20 of 40 s: half
    assert sensor.read() == {"board": pytest.approx(60.0)}
    clock.now_s += 10.0
    assert sensor.read() == {"board": pytest.approx(80.0)}  # idle
    sensor.close()


def test_processors_that_were_switched_off_leave_a_gap_in_the_estimate(proc: Path) -> None:
    clock = Clock()
    fake_board.processor_load(proc.parent, 50.0)
    sensor = Estimate(board(idle_w=2.0, full_w=10.0), clock=clock)
    fake_board.processor_load(proc.parent, 20.0)
    clock.now_s += 1.0
    assert sensor.read() == {"board": None}
    clock.now_s += 1.0
    assert sensor.read() == {"board": pytest.approx(2.0)}
    sensor.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("", "argument"),
        ("cpu\n", "argument"),
        ("cpu one two three four five six seven\n", "could not convert"),
    ],
)
def test_a_load_that_cannot_be_read_is_reported(
    proc: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (proc / "stat").write_text(content)
    with pytest.raises(SensorError, match=f"processor load: .*{reason}"):
        Estimate(board(idle_w=2.0, full_w=10.0))


def test_without_two_powers_there_is_no_estimate(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match=r"board shed: power\.idle_w and power\.full_w"):
        Estimate(board())


def test_a_gpu_whose_driver_was_reloaded_counts_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = install_nvml(monkeypatch, FakeNvml(energy_j=[100.0], power_w=[None]))
    sensor = Nvml(board())
    readings = []
    for gpus.energy_j[0] in (110.0, 5.0, 8.0):
        readings.append(sensor.read()["gpu0"])
    assert readings == [110.0, None, 8.0]
    sensor.close()
    assert gpus.opened == 0


def test_a_gpu_that_is_lost_is_reconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = install_nvml(monkeypatch, FakeNvml(energy_j=[100.0], power_w=[None]))
    sensor = Nvml(board())
    gpus.is_lost = True
    for _ in range(2):
        with pytest.raises(SensorError, match="NVML: GPU is lost"):
            sensor.read()
    assert gpus.opened == 0
    gpus.is_lost = False
    assert sensor.read() == {"gpu0": 100.0}
    assert gpus.opened == 1


def test_a_gpu_alone_is_not_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, FakeNvml(energy_j=[1.0], power_w=[None]))
    assert Nvml(board()).total == ()
    assert Nvml(board(total=("gpu0",))).total == ("gpu0",)


def test_a_machine_without_gpus_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = install_nvml(monkeypatch, FakeNvml(energy_j=[], power_w=[]))
    with pytest.raises(SensorError, match="this machine has no NVIDIA GPU"):
        Nvml(board())
    assert gpus.opened == 0
    gpus.is_lost = True
    with pytest.raises(SensorError, match="NVML: GPU is lost"):
        Nvml(board())


def test_a_gpu_without_readings_is_not_a_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, FakeNvml(energy_j=[None], power_w=[None]))  # as on a Jetson
    with pytest.raises(SensorError, match="NVML: Not Supported"):
        Nvml(board())


def test_a_gpu_without_a_counter_does_not_join_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, FakeNvml(energy_j=[None], power_w=[30.0]))
    fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 10.0)})
    with pytest.raises(SensorError, match="reports power only, and RAPL counts energy"):
        open_sensor(board(), root=tmp_path, prefer="rapl+nvml")
    sensor = open_sensor(board(), root=tmp_path)
    assert sensor
    assert sensor.name == "rapl"
    sensor.close()


def test_a_board_may_name_rails_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, FakeNvml(energy_j=[1.0, 2.0], power_w=[None, None]))
    fake_board.rapl(tmp_path, {"intel-rapl:0": ("package-0", 10.0)})
    for total in itertools.permutations(("package-0", "gpu1")):
        sensor = open_sensor(board(total=total), root=tmp_path)
        assert sensor
        assert (sensor.name, sensor.total) == ("rapl+nvml", total)
        sensor.close()


def test_one_of_two_packages_that_stands_still_is_missed(tmp_path) -> None:
    """The other one counts on: the total would be too small. Memory may stand still."""
    names = {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
    }
    domains = {name: (label, 5.0) for name, label in names.items()}
    folder, clock = fake_board.rapl(tmp_path, domains, range_j=65_000), Clock()
    with closing(Rapl(board(), tmp_path / "sys", clock=clock)) as sensor:
        for second in range(1, 9):
            clock.now_s += 1.0
            fake_board.put(folder / "intel-rapl:0/energy_uj", round((5 + 40 * second) * 1e6))
            if second != 7:
                read = sensor.read()
                known = second < 4
                assert (read["package-1"] is not None) == known
                assert sensor.why_unknown("package-1") == (
                    None if known else f"has counted nothing for {second} s"
                )
                assert read["package-1/dram"] == 0.0
                assert read["package-0"] == 40.0 * second
        fake_board.put(folder / "intel-rapl:1/energy_uj", 45_000_000)
        clock.now_s += 1.0
        assert sensor.read()["package-1"] == 40.0
