"""Modes of nvpmodel and of cpufreq: named, listed, set, read back, put back."""

import os
import time
from pathlib import Path

import fake_board
import fake_modes
import pytest

from edge_runtime.device import (
    Cpufreq,
    Nvpmodel,
    Thermometer,
    cpufreq,
    power_mode,
    power_modes,
)
from edge_runtime.errors import ConfigError, ModeError

ONE_KIND = (fake_modes.STEPS_KHZ,)
BIG_LITTLE = ((600_000, 1_800_000), (600_000, 1_200_000, 2_400_000))
TABLE = """NVPM VERB: PM_CONFIG: DEFAULT=15W(0)
NVPM VERB: POWER_MODEL: ID=0 NAME=15W
NVPM VERB: POWER_MODEL: ID=1 NAME=25W
NVPM VERB: POWER_MODEL: ID=3 NAME=7W"""
CONF = """< PARAM TYPE=FILE NAME=TPC_POWER_GATING >
TPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask
# < POWER_MODEL ID=9 NAME=COMMENT >
< POWER_MODEL ID=0 NAME=15W >
TPC_POWER_GATING TPC_PG_MASK 240
< POWER_MODEL ID=1 NAME=25W >
TPC_POWER_GATING TPC_PG_MASK 240
< POWER_MODEL ID=3 NAME=7W >
TPC_POWER_GATING TPC_PG_MASK 252"""


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (((600_000, 1_800_000),), ("schedutil", "schedutil-600MHz")),
        (
            (fake_modes.STEPS_KHZ,),
            ("schedutil", "schedutil-1800MHz", "schedutil-1200MHz"),
        ),
        (BIG_LITTLE, ("schedutil", "schedutil-600+1200MHz")),
    ],
)
def test_cpufreq_lists_its_highest_rate_and_shares_of_it(
    tmp_path: Path, kinds: tuple[tuple[int, ...], ...], names: tuple[str, ...]
) -> None:
    fake_modes.cpufreq(tmp_path, kinds=kinds)
    assert Cpufreq(tmp_path).names() == names
    assert power_mode(tmp_path) == "schedutil"


def test_a_governor_without_rates_of_its_own_is_replaced(tmp_path: Path) -> None:
    fake_modes.cpufreq(tmp_path, governor="powersave")
    names = Cpufreq(tmp_path).names()
    assert names == ("powersave", "performance", "performance-1800MHz", "performance-1200MHz")
    for core in (0, 1):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        fake_board.put(folder / "scaling_driver", "intel_pstate")  # where it is the usual one
    assert Cpufreq(tmp_path).names()[1] == "powersave-1800MHz"


@pytest.mark.parametrize(
    ("given", "kinds", "name", "lines"),
    [
        ("userspace", BIG_LITTLE, "userspace", [1_800_000, 2_400_000]),
        ("userspace-2000MHz", BIG_LITTLE, "userspace-1800+1200MHz", [1_800_000, 1_200_000]),
        ("userspace-600+2400MHz", BIG_LITTLE, "userspace-600+2400MHz", [600_000, 2_400_000]),
        ("userspace-99999MHz", BIG_LITTLE, "userspace", [1_800_000, 2_400_000]),
        ("userspace-1201MHz", ONE_KIND, "userspace-1200MHz", [1_200_000] * 2),
        ("userspace-900MHz", ((1, 899_600, 2_000_000),), "userspace-900MHz", [899_600] * 2),
    ],
)  # fmt: skip
def test_a_mode_is_set_on_all_cores_and_put_back(
    tmp_path: Path,
    given: str,
    kinds: tuple[tuple[int, ...], ...],
    name: str,
    lines: list[int],
) -> None:
    sys, modes = fake_modes.cpufreq(tmp_path, kinds=kinds), Cpufreq(tmp_path)
    before, state = fake_modes.limits(sys), modes.state()
    assert modes.resolve(given) == name
    modes.set(given)
    assert fake_modes.limits(sys) == [f"userspace {line}" for line in lines]
    assert power_mode(tmp_path) == name
    modes.put_back(state)
    assert fake_modes.limits(sys) == before


@pytest.mark.parametrize(
    "kinds",
    [
        ((400_000, 4_200_000),),
        ((400_000, 3_150_400), (800_000, 4_201_000)),
        ((1_500_500, 3_000_600),),
        ((2_099_700, 4_199_400),),
        ((600_000, 2_400_400),),
    ],
)
@pytest.mark.parametrize("below_khz", [0, 200, 600, 1_050_000])
def test_any_rate_has_a_name_that_means_it(
    tmp_path: Path, kinds: tuple[tuple[int, ...], ...], below_khz: int
) -> None:
    sys = fake_modes.cpufreq(tmp_path, kinds=kinds, has_table=False)
    for file in sys.glob("devices/system/cpu/cpu*/cpufreq/scaling_max_freq"):
        file.write_text(str(int(file.read_text()) - below_khz))
    modes = Cpufreq(tmp_path)
    names = modes.names()
    assert len(names) >= 3
    for name in (*names, "schedutil-2345MHz"):
        assert modes.resolve(name) == name
        modes.set(name)
        assert modes.current() == power_mode(tmp_path) == name


def test_the_lowest_rate_is_one_that_there_is(tmp_path: Path) -> None:
    sys = fake_modes.cpufreq(tmp_path, kinds=((400_400, 4_200_000),), has_table=False)
    Cpufreq(tmp_path).set("schedutil-400MHz")
    assert fake_modes.limits(sys) == ["schedutil 400400"] * 2
    with pytest.raises(ConfigError, match="399 MHz is below the lowest clock rate"):
        Cpufreq(tmp_path).set("schedutil-399MHz")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "turbo",
            r"no governor 'turbo'; there are performance, powersave, schedutil, userspace",
        ),
        ("schedutil-599MHz", "599 MHz is below the lowest clock rate, 600 MHz"),
        ("schedutil-1+2+3MHz", r"1 kind\(s\) of cores, and 3 values are given"),
        ("schedutil-10000000000000000000MHz", "is not a power mode; write a governor"),
        ("schedutil-nanMHz", "is not a power mode"),
        ("../../etc", "is not a power mode"),
        ("\udcff", "is not a power mode"),
        ("", "is not a power mode"),
    ],
)
def test_a_mode_that_there_is_not_is_refused(tmp_path: Path, given: str, message: str) -> None:
    fake_modes.cpufreq(tmp_path)
    with pytest.raises(ConfigError, match=message):
        Cpufreq(tmp_path).resolve(given)


def test_cores_of_one_kind_with_different_limits_are_no_mode(tmp_path: Path) -> None:
    sys = fake_modes.cpufreq(tmp_path)
    fake_board.put(sys / "devices/system/cpu/cpu1/cpufreq/scaling_max_freq", 900_000)
    assert power_mode(tmp_path) is None
    assert power_modes(tmp_path) is None


@pytest.mark.parametrize("text", ["", "zero", "-1" * 40])
def test_files_without_a_number_are_no_mode(tmp_path: Path, text: str) -> None:
    sys = fake_modes.cpufreq(tmp_path, cores=1)
    fake_board.put(sys / "devices/system/cpu/cpu0/cpufreq/scaling_max_freq", text)
    assert power_mode(tmp_path) is None
    with pytest.raises(ModeError, match="could not be put back"):
        Cpufreq(tmp_path).state()


def test_a_limit_that_the_kernel_does_not_take_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_modes.cpufreq(tmp_path)
    monkeypatch.setattr(cpufreq._Policy, "write", lambda *_: None)
    monkeypatch.setattr(cpufreq, "COOLING_S", 0.0)
    with pytest.raises(ModeError, match="it was written, but schedutil is read"):
        Cpufreq(tmp_path).set("schedutil-900MHz")
    with pytest.raises(
        ModeError, match=r"reads .*schedutil.*Restart the board, or run:\n  echo"
    ):
        Cpufreq(tmp_path).put_back({"cpu0": "performance 600000", "cpu1": "schedutil 2400000"})


def test_a_limit_that_heat_lowers_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys, heat = fake_modes.cpufreq(tmp_path), fake_modes.Heat(monkeypatch)
    modes = Cpufreq(tmp_path)
    modes.set("schedutil-1800MHz")
    state = modes.state()
    modes.set("schedutil-2400MHz")
    heat.cap_khz = 1_800_000  # just what is wanted, and lower than what is written
    assert modes.put_back(state) is None
    assert fake_modes.limits(sys) == ["schedutil 1800000"] * 2
    heat.cap_khz = 600_000
    assert modes.put_back(state) == (
        "heat lowers the clock limit of cpu0, cpu1 until the board has cooled"
    )
    monkeypatch.setattr(Thermometer, "is_throttled", lambda _: False)
    with pytest.raises(ModeError, match=r"cpu0/cpufreq reads .*600000"):
        modes.put_back(state)


def test_heat_may_end_while_a_mode_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_modes.cpufreq(tmp_path)
    heat, modes = fake_modes.Heat(monkeypatch), Cpufreq(tmp_path)
    state, heat.cap_khz = modes.state(), 600_000

    def cool(_: float) -> None:
        heat.cap_khz = None

    monkeypatch.setattr(cpufreq, "COOLING_S", 5.0)
    monkeypatch.setattr(time, "sleep", cool)
    assert modes.put_back(state) is None


def test_a_mode_with_lower_limits_is_told_from_another_one(tmp_path: Path) -> None:
    sys = fake_modes.cpufreq(tmp_path)
    modes, file = Cpufreq(tmp_path), sys / "devices/system/cpu/cpu1/cpufreq/scaling_max_freq"
    assert modes.is_within("schedutil")
    file.write_text("600000")
    assert modes.is_within("schedutil")
    assert not modes.is_within("performance")
    assert not modes.is_within("schedutil-1800MHz")
    file.write_text("")
    assert not modes.is_within("schedutil")


def test_the_rate_of_userspace_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys = fake_modes.cpufreq(tmp_path, governor="userspace", cores=1)
    modes, speed = Cpufreq(tmp_path), sys / "devices/system/cpu/cpu0/cpufreq/scaling_setspeed"
    fake_board.put(speed, "900000")
    state = modes.state()
    modes.set("performance-1800MHz")
    fake_board.put(speed, "<unsupported>")
    assert modes.state() == {"cpu0": "performance 1800000"}
    modes.put_back(state)
    assert fake_modes.limits(sys) == ["userspace 2400000"]
    assert speed.read_text() == "900000"
    fake_board.put(speed, "600000")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(
        ModeError, match=r"(?s)setspeed cannot.*echo 900000 \| sudo tee .*speed"
    ):
        modes.put_back(state)


@pytest.mark.parametrize("state", [{}, {"cpu0": "schedutil", "cpu1": "schedutil 99999999999"}])
def test_a_state_of_other_cores_is_not_written(tmp_path: Path, state: dict[str, str]) -> None:
    sys = fake_modes.cpufreq(tmp_path)
    before = fake_modes.limits(sys)
    with pytest.raises(ModeError, match="nothing is known of cpu0; nothing is known of cpu1"):
        Cpufreq(tmp_path).put_back(state)
    assert fake_modes.limits(sys) == before


def test_cores_that_are_offline_are_left_out(tmp_path: Path) -> None:
    """The kernel keeps their folder, and refuses to read it."""
    sys = fake_modes.cpufreq(tmp_path, kinds=(fake_modes.STEPS_KHZ, (400_000, 1_800_000)))
    core = sys / "devices/system/cpu/cpu1"
    both = Cpufreq(tmp_path).state()
    for name in ("cpuinfo_max_freq", "scaling_max_freq", "scaling_governor"):
        fake_board.put(core / "cpufreq" / name, "")
    assert power_mode(tmp_path) is None
    fake_board.put(core / "online", "0")
    assert power_mode(tmp_path) == "schedutil"
    modes = Cpufreq(tmp_path)
    assert list(modes.state()) == ["cpu0"]
    with pytest.raises(ModeError, match="cpu1 cannot be reached"):
        modes.put_back(both)


def test_without_permission_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    fake_modes.cpufreq(tmp_path)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(ModeError, match=r"scaling_max_freq cannot be written \(Permission"):
        Cpufreq(tmp_path).set("schedutil-900MHz")


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nvpmodel, which is on the path."""
    programs = fake_modes.nvpmodel(tmp_path, TABLE)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_nvpmodel_sets_a_mode_and_puts_it_back(jetson: Path) -> None:
    modes = power_modes()
    assert modes is not None
    assert (modes.kind, modes.names()) == ("nvpmodel", ("15W", "25W", "7W"))
    state = modes.state()
    modes.set("25W")
    assert modes.current() == "25W"
    modes.put_back(state)
    assert modes.current() == "15W"
    modes.put_back(state)  # nothing to do
    assert (jetson / "asked").read_text() == "1\n0\n"


def test_a_mode_with_other_gates_is_not_even_tried(jetson: Path) -> None:
    fake_board.put(jetson / "table", CONF)
    modes = Nvpmodel()
    with pytest.raises(ModeError, match="TPC_POWER_GATING is 240 now and 252 in 7W"):
        modes.set("7W")
    assert not (jetson / "asked").exists()
    modes.set("25W")


@pytest.mark.parametrize(
    ("on_set", "message"),
    [
        (
            "echo 'NVPM WARN: Reboot required for changing to this power mode: 3'; "
            "read answer && echo id=3 name=7W > $here/now",
            "nvpmodel would restart the board for it, and was not allowed to",
        ),
        ("echo 'NVPM ERROR: Permission denied'; exit 1", "did not set it: NVPM ERROR: Perm"),
        ("exit 3", "did not set it: it ended with 3"),
        ("true", "did not set it: it ended with 0"),
    ],
)
def test_a_mode_that_was_not_set_is_an_error(jetson: Path, on_set: str, message: str) -> None:
    fake_board.put(jetson / "set", on_set)
    with pytest.raises(ModeError, match=message):
        Nvpmodel().set("7W")
    assert Nvpmodel().current() == "15W"


def test_a_mode_that_cannot_be_put_back_is_an_error_with_the_command(jetson: Path) -> None:
    modes = Nvpmodel()
    state = modes.state()
    modes.set("25W")
    fake_board.put(jetson / "set", "exit 1")
    with pytest.raises(ModeError, match=r"sudo nvpmodel -m 0`; it is 25W now"):
        modes.put_back(state)


@pytest.mark.parametrize("table", ["", "NVPM ERROR: no file", "POWER_MODEL: ID= NAME="])
def test_without_a_list_there_are_no_modes(jetson: Path, table: str) -> None:
    fake_board.put(jetson / "table", table)
    assert Nvpmodel().names() == ()
    with pytest.raises(ModeError, match="the present power mode is unknown"):
        Nvpmodel().state()
    with pytest.raises(ConfigError, match="there is no power mode '25W'"):
        Nvpmodel().resolve("25W")
