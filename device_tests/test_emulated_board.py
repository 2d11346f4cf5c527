"""The emulated board does what its README says, which all other tests rely on."""

import argparse
import csv
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_tests.emulated_board.boards import BOARDS, MEASURED, ORIN_NX
from device_tests.emulated_board.driving import (
    DriveOptions,
    HeatModel,
    covers,
    cpu_clock,
    drive,
    energy_j,
    highest,
    power_model,
    set_factor,
)
from device_tests.emulated_board.options import add_drive_options, drive_options, drive_words
from device_tests.emulated_board.running import running_board
from device_tests.emulated_board.tools import write_tools
from device_tests.emulated_board.tree import board_of, set_rails, write_board

BURN = "import time\nwhile True: sum(range(10000))"
SHORT = """
import time
while time.process_time() < 0.5: pass
print(time.process_time())
"""


@pytest.mark.parametrize("name", BOARDS)
def test_a_tree_also_works_where_it_was_moved_to(name: str, tmp_path: Path) -> None:
    write_board(tmp_path / "one", name)
    tree = (tmp_path / "one").rename(tmp_path / "other")
    assert board_of(tree) is BOARDS[name]
    links = [path for path in tree.rglob("*") if path.is_symlink()]
    assert len(links) > 2
    assert [link for link in links if not link.exists()] == []


def test_rails_are_shown_in_steps_of_the_current(tmp_path: Path) -> None:
    board = write_board(tmp_path, "orin_nx")
    assert set_rails(tmp_path, board, {"VDD_IN": 7512}, lsb_ma=8) == {"VDD_IN": 7520}
    hwmon = next(tmp_path.glob("class/hwmon/*/in1_label")).parent
    assert (hwmon / "curr1_input").read_text() == "1504\n"


def test_no_reader_sees_half_a_value(tmp_path: Path) -> None:
    board = write_board(tmp_path, "nano")
    power = next(tmp_path.glob("bus/i2c/drivers/ina3221x/*/iio:device*/in_power0_input"))
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            seen.add(power.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        for mw in (5, 15000):
            set_rails(tmp_path, board, {"POM_5V_IN": mw})
    stop.set()
    reader.join()
    assert seen <= {"5\n", "15000\n", "1500\n"}


@pytest.mark.parametrize("name", MEASURED)
def test_the_rails_follow_the_module(name: str) -> None:
    """`idle_mw` and `k_mw` are the sums of the inputs; rails keep their share."""
    board = BOARDS[name]
    model = power_model(board, idle_mw=2000, k_mw=10000)
    power_mw = model(0.5)
    assert sum(power_mw[label] for label in board.total) == pytest.approx(7000)
    own_mw = power_model(board)(0.5)
    assert own_mw == {rail.label: rail.idle_mw + rail.k_mw / 2 for rail in board.rails}


def energy_slowly_j(log: Path, start_s: float, end_s: float) -> float:
    """The definition, from one time of the log to the next."""
    with log.open() as file:
        rows = [(float(row["t"]), float(row["true_mw"])) for row in csv.DictReader(file)]
    cuts = sorted({start_s, end_s, *(t for t, _ in rows if start_s < t < end_s)})
    energy_j = 0.0
    for begin, end in itertools.pairwise(cuts):
        power_mw = next(mw for t, mw in reversed(rows) if t <= begin)
        energy_j += power_mw * (end - begin) / 1000
    return energy_j


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rows = [(10.0, 1000, 30), (10.5, 3000, 31), (11.5, 2000, 40), (12.0, 2000, 40)]
    text = "".join(f"{t},{mw},{c}\n" for t, mw, c in rows)
    (tmp_path / "log.csv").write_text("t,true_mw,temperature_c\n" + text)
    return tmp_path / "log.csv"


@pytest.mark.parametrize(
    ("start_s", "end_s", "energy"),
    [(10, 12, 4.5), (10.25, 10.5, 0.25), (10.4, 10.6, 0.4), (11.4, 11.9, 1.1), (11, 11, 0.0)],
)
def test_energy_is_exact(log: Path, start_s: float, end_s: float, energy: float) -> None:
    assert energy_j(log, start_s, end_s) == pytest.approx(energy)
    assert energy_slowly_j(log, start_s, end_s) == pytest.approx(energy)


def test_the_highest_value_is_that_of_the_window(log: Path) -> None:
    assert highest(log, 10.1, 10.4) == 30
    assert highest(log, 10.1, 11.4) == 31


@pytest.mark.parametrize(("start_s", "end_s"), [(9.9, 11), (11, 12.1)])
def test_energy_outside_the_log_is_unknown(log: Path, start_s: float, end_s: float) -> None:
    with pytest.raises(ValueError, match="is not inside"):
        energy_j(log, start_s, end_s)


def test_children_count_if_they_should_also_when_they_have_ended() -> None:
    alone_s = cpu_clock(os.getpid())
    all_s = cpu_clock(os.getpid(), with_children=True)
    before_s, before_all_s = alone_s(), all_s()
    child = subprocess.run([sys.executable, "-c", SHORT], capture_output=True, check=True)
    used_s = float(child.stdout)
    assert alone_s() - before_s < used_s
    # Each clock of two processes is rounded to 10 ms, and Python has started before that
    assert all_s() - before_all_s == pytest.approx(used_s, abs=0.1)


def test_a_line_that_is_just_being_written_does_not_count(log: Path) -> None:
    with log.open("a") as file:
        file.write("13")  # of "13.5,2000,40"
    assert covers(log, 12.0)
    assert not covers(log, 12.5)
    assert energy_j(log, 10, 12) == pytest.approx(4.5)


def test_power_follows_a_process(tmp_path: Path) -> None:
    write_board(tmp_path / "sys", "orin_nx")
    burner = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        options = DriveOptions(pid=burner.pid)
        drive(tmp_path / "sys", tmp_path / "log", options, seconds=1.0)
    finally:
        burner.kill()
        burner.wait()
    with (tmp_path / "log").open() as file:
        rows = list(csv.DictReader(file))
    start_s, end_s = float(rows[2]["t"]), float(rows[-1]["t"])
    used = sum(float(row["util"]) for row in rows[2:-1]) / len(rows[2:-1])
    mean_mw = energy_j(tmp_path / "log", start_s, end_s) / (end_s - start_s) * 1000
    assert used > 0.2 / (os.cpu_count() or 1)  # it may share its processor
    assert mean_mw == pytest.approx(4500 + 12000 * used, rel=0.05)
    hwmon = next((tmp_path / "sys").glob("class/hwmon/*/in1_label")).parent
    shown_mw = 5 * int((hwmon / "curr1_input").read_text())
    assert shown_mw == pytest.approx(float(rows[-1]["VDD_IN"]))


def test_power_jumps_by_a_factor(tmp_path: Path) -> None:
    write_board(tmp_path / "sys", "nano")
    set_factor(tmp_path / "sys", 1.5)
    drive(
        tmp_path / "sys", tmp_path / "log", DriveOptions(k_mw=0, pid=os.getpid()), seconds=0.2
    )
    with (tmp_path / "log").open() as file:
        assert {float(row["true_mw"]) for row in csv.DictReader(file)} == {2250.0}


def test_temperature_approaches_its_final_value() -> None:
    heat = HeatModel(ambient_c=20, k_per_w=3, time_constant_s=10)
    assert heat.after(20, 10, 10) == pytest.approx(20 + 30 * (1 - math.exp(-1)))
    halfway = heat.after(20, 10, 5)
    assert heat.after(halfway, 10, 5) == pytest.approx(heat.after(20, 10, 10))
    assert heat.after(20, 10, math.inf) == 50


def test_a_hot_board_reports_throttling() -> None:
    heat = HeatModel(ambient_c=60, k_per_w=4, time_constant_s=0.2, throttle_at_c=90)
    with running_board("orin_nx", DriveOptions(heat=heat, k_mw=0, pid=os.getpid())) as board:
        alert = board.sysfs / "class/thermal/cooling_device0"
        start_s = time.monotonic()
        assert (alert / "cur_state").read_text() == "0\n"
        board.set_factor(2.0)
        time.sleep(1.0)
        assert (alert / "type").read_text() == "cpu-throttle-alert\n"
        assert (alert / "cur_state").read_text() == "1\n"
        hottest_c = board.highest(start_s, time.monotonic())
        zones = (board.sysfs / "class/thermal").glob("thermal_zone*/temp")
        assert max(int(zone.read_text()) for zone in zones) == pytest.approx(96000, abs=500)
    assert hottest_c == pytest.approx(60 + 4 * 9, abs=0.5)
    assert not board.sysfs.exists()


def test_a_driven_board_logs_its_true_power() -> None:
    options = DriveOptions(k_mw=0, idle_mw=6000, lsb_ma=8, pid=os.getpid())
    with running_board("orin_nx", options) as board:
        start_s = time.monotonic()
        time.sleep(0.5)
        end_s = time.monotonic()
        assert board.energy_j(start_s, end_s) == pytest.approx(6 * (end_s - start_s))
        readable_j = board.energy_j(start_s, end_s, column="VDD_SOC")
    share = 6000 / 4500 * ORIN_NX.rails[2].idle_mw  # in steps of 8 mA at 5 V
    assert readable_j == pytest.approx(round(share / 40) * 0.04 * (end_s - start_s))


def test_options_survive_the_command_line() -> None:
    heat = HeatModel(ambient_c=1, k_per_w=2.5, time_constant_s=3, throttle_at_c=4)
    options = DriveOptions(hz=5, with_children=True, idle_mw=6, k_mw=7, lsb_ma=8, heat=heat)
    parser = argparse.ArgumentParser()
    add_drive_options(parser)
    for given in (options, DriveOptions()):
        assert drive_options(parser.parse_args(drive_words(given)), pid=None) == given


def test_the_command_line_writes_sets_and_drives(tmp_path: Path) -> None:
    def emulate(*words: str) -> str:
        command = [sys.executable, "-m", "device_tests.emulated_board", *words]
        return subprocess.run(
            command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True
        ).stdout

    tree, log = str(tmp_path / "sys"), str(tmp_path / "log")
    emulate("write", tree, "--board", "agx_orin")
    assert emulate("set", tree, "VDD_CPU_CV=19000") == "{'VDD_CPU_CV': 19000.0}\n"
    emulate("factor", tree, "2")
    emulate("drive", tree, "--log", log, "--seconds", "0.2", "-k", "0", "--idle", "1000")
    with Path(log).open() as file:
        assert {row["true_mw"] for row in csv.DictReader(file)} == {"2000.000"}


def test_nvpmodel_works(tmp_path: Path) -> None:
    write_tools(tmp_path, ORIN_NX)
    command = [str(tmp_path / "usr/bin/nvpmodel"), "-p", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ID=2 NAME=15W" in done.stdout
