"""Power rails in files: their units, their layouts, and files without values."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import fake_board
import pytest
from boards import board
from fake_vendors import install_jtop, jtop_rail

from edge_runtime.device.board import known_boards
from edge_runtime.device.files import SYSFS, NumberFile, read_number, sysfs
from edge_runtime.device.sensors import choose_sensor, ina238, ina3221, open_sensor
from edge_runtime.device.sensors.base import rail_names
from edge_runtime.device.sensors.battery import open_battery
from edge_runtime.device.sensors.rails import FoundRail
from edge_runtime.errors import ConfigError, SensorError


def unlink(path: Path) -> None:
    path.unlink()


def make_empty(path: Path) -> None:
    path.write_text("")


def fill_with_text(path: Path) -> None:
    path.write_text("offline\n")


def forbid(path: Path) -> None:
    path.unlink()
    path.mkdir()  # root may read every file, but no folder


SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (unlink, r"in1_input cannot be read \(No such file"),
    (make_empty, r"in1_input is empty, not a number"),
    (fill_with_text, r"in1_input holds 'offline', not a number"),
    (forbid, r"in1_input cannot be read \(Is a directory"),
]


@pytest.mark.parametrize(("spoil", "why"), SPOILT)
def test_a_spoilt_file_makes_its_rail_unknown(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    folder = fake_board.ina3221(tmp_path, {"VDD_IN": 4.5, "VDD_SOC": 1.5})
    sensor = open_sensor(board(total=("VDD_IN",)), root=tmp_path)
    assert sensor
    spoil(folder / "in1_input")
    assert sensor.read() == {"VDD_IN": None, "VDD_SOC": 1.5}
    (folder / "in2_input").unlink()
    with pytest.raises(SensorError, match=why):
        sensor.read()
    sensor.close()


@pytest.mark.parametrize(("spoil", "why"), SPOILT)
def test_a_monitor_without_readings_is_not_chosen(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    folder = fake_board.ina3221(tmp_path, {"VDD_IN": 4.5})
    spoil(folder / "in1_input")
    with pytest.raises(SensorError, match=f"(?s)ina3221 does not work here.*{why}"):
        open_sensor(board(total=("VDD_IN",)), root=tmp_path, prefer="ina3221")


def test_power_is_voltage_times_current(tmp_path: Path) -> None:
    folder = fake_board.ina3221(tmp_path, {"VDD_IN": 1.0})
    fake_board.write(folder, {"in1_input": 19_040, "curr1_input": 1_208})
    assert read(ina3221.find_rails(tmp_path / "sys")) == {"VDD_IN": pytest.approx(23.00032)}


def read(found: Iterable[FoundRail]) -> dict[str, float | None]:
    rails = list(found)
    names = rail_names([(label, chip) for label, chip, _ in rails])
    readings = {name: each.rail.read_w() for name, each in zip(names, rails, strict=True)}
    for each in rails:
        each.rail.close()
    return readings


def test_every_channel_of_the_chip_is_a_rail(tmp_path: Path) -> None:
    watts = {"VDD_IN": 4.5, "VDD_CPU_GPU_CV": 1.0, "VDD_SOC": 1.5}
    fake_board.ina3221(tmp_path, watts)
    assert read(ina3221.find_rails(tmp_path / "sys")) == watts


def test_channels_that_are_not_connected_are_not_rails(tmp_path: Path) -> None:
    fake_board.ina3221(tmp_path, {"NC": 0.0, "VDDQ_VDD2_1V8AO": 0.45})
    assert read(ina3221.find_rails(tmp_path / "sys")) == {"VDDQ_VDD2_1V8AO": 0.45}


def test_a_part_of_a_total_far_below_zero_makes_it_unknown(tmp_path: Path) -> None:
    """As on an AGX Orin, whose total is a sum that would still be above zero."""
    folder = fake_board.ina3221(tmp_path, {"VDD_GPU_SOC": 9.0, "VDD_CPU_CV": 3.0})
    sensor = open_sensor(board(total=("VDD_GPU_SOC", "VDD_CPU_CV")), root=tmp_path)
    assert sensor
    fake_board.put(folder / "curr2_input", -2)  # 10 mW: the chip's offset
    assert sensor.read()["VDD_CPU_CV"] == pytest.approx(-0.01)
    fake_board.put(folder / "curr2_input", -600)
    assert sensor.read()["VDD_CPU_CV"] is None
    assert "curr2_input holds -600: -3.000 W is not above" in (
        sensor.why_unknown("VDD_CPU_CV") or ""
    )
    sensor.close()


def test_both_monitors_of_a_board_are_read(tmp_path: Path) -> None:
    fake_board.ina3221(tmp_path, {"VDD_CPU_CV": 2.0, "SPARE": 3.0})
    fake_board.ina3221(tmp_path, {"SPARE": 4.0}, number=4, device="1-0041")
    assert read(ina3221.find_rails(tmp_path / "sys")) == {
        "VDD_CPU_CV": 2.0,
        "SPARE@1-0040": 3.0,  # a label that occurs twice keeps both rails
        "SPARE@1-0041": 4.0,
    }


def two_inputs(root: Path) -> None:
    """The module's monitor and one of a carrier board, which is first in the order of text."""
    fake_board.ina3221(root, {"VDD_IN": 33.65, "VDD_SOC": 1.5}, number=2)
    fake_board.ina3221(root, {"VDD_IN": 6.18}, number=10, device="7-0041")


def test_a_total_that_occurs_twice_is_unknown_with_its_candidates(tmp_path: Path) -> None:
    two_inputs(tmp_path)
    choice = choose_sensor(board(total=("VDD_IN",)), root=tmp_path)
    assert choice.sensor is None
    assert choice.refused["ina3221"] == (
        "board shed: its total is unknown: rail VDD_IN occurs 2 times, as "
        "VDD_IN@7-0041, VDD_IN@1-0040. Name its chip under power.chips in a board file of "
        "your own."
    )


def test_a_service_that_knows_labels_only_does_not_choose_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_inputs(tmp_path)
    install_jtop(monkeypatch, {"rail": {"VDD_IN": jtop_rail(6.18)}})
    own = board(total=("VDD_IN",), chips={"VDD_IN": "1-0040"})
    with pytest.raises(SensorError, match="several chips of this board have a rail VDD_IN"):
        open_sensor(own, root=tmp_path, prefer="jtop")


def test_a_board_names_the_chip_of_its_total(tmp_path: Path) -> None:
    two_inputs(tmp_path)
    own = board(total=("VDD_IN",), chips={"VDD_IN": "1-0040"})
    sensor = open_sensor(own, root=tmp_path)
    assert sensor
    assert sensor.read() == {
        "VDD_IN": pytest.approx(33.65), "VDD_IN@7-0041": pytest.approx(6.18), "VDD_SOC": 1.5
    }  # fmt: skip
    sensor.close()
    named = open_sensor(board(total=("VDD_IN@1-0040",)), root=tmp_path)
    assert named
    assert named.read()["VDD_IN@1-0040"] == pytest.approx(33.65)
    named.close()


def test_the_profile_of_an_orin_nx_names_its_module(tmp_path: Path) -> None:
    two_inputs(tmp_path)
    (own,) = [each for each in known_boards() if each.id == "jetson-orin-nx-16gb"]
    sensor = open_sensor(own, root=tmp_path)
    assert sensor
    assert sensor.read()["VDD_IN"] == pytest.approx(33.65)
    sensor.close()


def test_two_monitors_without_a_label_are_not_confused(tmp_path: Path) -> None:
    fake_board.ina238(tmp_path, 127.5)
    fake_board.ina238(tmp_path, 15.2, number=8, device="2-0045")
    with pytest.raises(
        SensorError, match="rail VIN occurs 2 times, as VIN@2-0044, VIN@2-0045"
    ):
        open_sensor(board(total=("VIN",)), root=tmp_path, prefer="ina238")
    own = board(total=("VIN",), chips={"VIN": "2-0045"})
    sensor = open_sensor(own, root=tmp_path)
    assert sensor
    assert sensor.read() == {"VIN@2-0044": 127.5, "VIN": 15.2}
    sensor.close()


def test_a_monitor_of_another_kind_does_not_replace_a_rail(tmp_path: Path) -> None:
    fake_board.ina238(tmp_path, 30.0)
    fake_board.ina3221(tmp_path, {"VIN": 8.0})
    with pytest.raises(SensorError, match="rail VIN occurs 2 times"):
        open_sensor(board(total=("VIN",)), root=tmp_path, prefer="ina238")


def test_two_channels_of_one_chip_may_have_one_label() -> None:
    found = [("A", "1-0040"), ("A", "1-0040"), ("B", "1-0040")]
    assert rail_names(found, {"A": "1-0040"}) == ["A@1-0040#1", "A@1-0040#2", "B"]


def test_a_channel_that_is_not_connected_does_not_stop_the_others(tmp_path: Path) -> None:
    folder = fake_board.ina3221(tmp_path, {"VDD_IN": 4.5, "VDD_SOC": 1.5, "SPARE": 0.0})
    (folder / "in3_input").unlink()
    (folder / "in3_input").symlink_to("/proc/self/mem")  # an error of input/output
    sensor = open_sensor(board(total=("VDD_IN",)), root=tmp_path)
    assert sensor
    for _ in range(3):
        assert sensor.read() == {"VDD_IN": 4.5, "VDD_SOC": 1.5, "SPARE": None}
    assert "in3_input cannot be read (Input/output error)" in (
        sensor.why_unknown("SPARE") or ""
    )
    sensor.close()


def test_other_chips_are_not_power_monitors(tmp_path: Path) -> None:
    files = {"name": "nct1008", "in1_label": "VDD_IN", "in1_input": 1, "curr1_input": 1}
    fake_board.hwmon(tmp_path, 0, "1-004c", files)
    assert read(ina3221.find_rails(tmp_path / "sys")) == {}
    assert read(ina238.find_rails(tmp_path / "sys")) == {}


def test_the_older_layout_has_milliwatts(tmp_path: Path) -> None:
    fake_board.ina3221_of_jetpack_4(tmp_path, {"POM_5V_IN": 1.542, "POM_5V_GPU": 0.04})
    readings = read(ina3221.find_rails(tmp_path / "sys"))
    assert readings == {"POM_5V_IN": 1.542, "POM_5V_GPU": 0.04}


def test_the_boards_input_is_microwatts_beside_its_parts(tmp_path: Path) -> None:
    folder = fake_board.ina238(tmp_path, 31.25)
    fake_board.ina3221(tmp_path, {"VDD_GPU": 8.0})
    sensor = open_sensor(board(total=("VIN",)), root=tmp_path)
    assert sensor
    assert (sensor.name, sensor.total) == ("ina238", ("VIN",))
    assert sensor.read() == {"VIN": 31.25, "VDD_GPU": 8.0}
    sensor.close()
    fake_board.put(folder / "label", "VDD_BRICK")
    assert [found.label for found in ina238.find_rails(tmp_path / "sys")] == ["VDD_BRICK"]


def test_a_chip_that_comes_back_under_another_number_is_found(tmp_path: Path) -> None:
    folder = fake_board.ina3221(tmp_path, {"VDD_IN": 4.5})
    sensor = open_sensor(board(total=("VDD_IN",)), root=tmp_path)
    assert sensor
    for path in folder.iterdir():
        path.unlink()
    (tmp_path / "sys/class/hwmon/hwmon3").unlink()
    fake_board.ina3221(tmp_path, {"VDD_IN": 6.0}, number=5)
    assert sensor.read() == {"VDD_IN": 6.0}
    sensor.close()


def test_a_changed_file_is_seen_whether_written_or_replaced(tmp_path: Path) -> None:
    file = NumberFile(tmp_path / "curr1_input")
    assert file.read() is None  # not there yet
    (tmp_path / "curr1_input").write_text("900\n")
    assert file.read() == 900
    (tmp_path / "curr1_input").write_text("1000\n")
    assert file.read() == 1000
    fake_board.put(tmp_path / "curr1_input", 1100)
    assert file.read() == 1100
    assert file.problem is None
    file.close()


def test_a_stale_handle_is_replaced(tmp_path: Path) -> None:
    fake_board.put(tmp_path / "curr1_input", 900)
    file = NumberFile(tmp_path / "curr1_input")
    assert file.read() == 900
    assert file._handle is not None
    with (tmp_path / "other").open("w") as write_only:  # reading it fails, as after an unbind
        os.dup2(write_only.fileno(), file._handle)
        assert file.read() == 900
    file.close()


@pytest.mark.parametrize(
    ("content", "number"), [("-256000\n", -256000), (" 7 ", 7), ("7.5", None)]
)
def test_only_whole_numbers_count(tmp_path: Path, content: str, number: int | None) -> None:
    (tmp_path / "temp").write_text(content)
    assert read_number(tmp_path / "temp") == number


@pytest.mark.parametrize(
    ("files", "power_w"),
    [
        ({"power_now": 7_500_000}, 7.5),
        ({"voltage_now": 11_400_000, "current_now": -500_000}, 5.7),
    ],
)
def test_a_battery_reports_power_or_voltage_and_current(
    tmp_path: Path, files: dict[str, object], power_w: float
) -> None:
    folder = fake_board.battery(tmp_path, **files)
    battery = open_battery(board(), tmp_path)
    assert battery.read() == {"BAT0": pytest.approx(power_w)}
    fake_board.put(folder / "status", "Charging")
    with pytest.raises(SensorError, match="the machine does not run on it"):
        battery.read()
    battery.close()


def test_the_battery_of_a_mouse_is_not_the_machines(tmp_path: Path) -> None:
    fake_board.battery(tmp_path, power_now=1, scope="Device")
    with pytest.raises(SensorError, match="no battery was found"):
        open_battery(board(), tmp_path)


def test_the_boards_files_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SYSFS, str(tmp_path))
    assert sysfs() == tmp_path
    assert sysfs(Path("/tree")) == Path("/tree/sys")  # a given tree is never mixed
    monkeypatch.setenv(SYSFS, str(tmp_path / "none"))
    with pytest.raises(
        ConfigError, match=r"EDGE_TRAIN_SYSFS is '.*none', which is not a folder"
    ):
        sysfs()
    monkeypatch.delenv(SYSFS)
    assert sysfs() == Path("/sys")
