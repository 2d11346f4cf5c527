"""Power modes on emulated boards: an emulated nvpmodel, and an emulated cpufreq."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_tests.emulated_board.boards import BOARDS
from device_tests.emulated_board.driving import DriveOptions, HeatModel
from device_tests.emulated_board.running import running_board
from device_tests.emulated_board.tools import write_tools
from device_tests.emulated_board.tree import cpu_share, write_board
from edge_runtime.device import PowerModes, load_board, mode_put_back, power_mode, power_modes
from edge_runtime.errors import ModeError
from edge_runtime.profiling import load_profile
from edge_runtime.selftest import PACKAGE

JETSONS = {name: board for name, board in BOARDS.items() if board.jetson}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(folder))
    return folder


class EmulatedModes:
    """A board's tree and programs, as this process sees them."""

    def __init__(
        self, name: str, folder: Path, patch: pytest.MonkeyPatch, *, lists_gates: bool = True
    ) -> None:
        self.board, self.sysfs = BOARDS[name], folder / "sys"
        self.status = folder / "status"
        self.restarts = folder / "status.restarts"
        write_board(self.sysfs, name)
        write_tools(
            folder,
            self.board,
            state=str(self.status),
            sysfs=self.sysfs,
            lists_gates=lists_gates,
        )
        patch.setenv("EDGE_TRAIN_SYSFS", str(self.sysfs))
        patch.setenv("PATH", f"{folder / 'usr/bin'}{os.pathsep}{os.environ['PATH']}")
        if self.board.jetson and self.board.jetson.modes:
            subprocess.run(["nvpmodel", "-m", "0"], check=True)  # as the board starts

    @property
    def modes(self) -> PowerModes:
        modes = power_modes()
        assert modes is not None
        return modes

    def files(self) -> dict[str, str]:
        """Everything that a mode changes."""
        paths = sorted(self.sysfs.glob("devices/system/cpu/cpu*/cpufreq/scaling_[mg]*"))
        return {str(path): path.read_text().strip() for path in paths}


@pytest.mark.parametrize("name", BOARDS)
def test_modes_are_set_and_put_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    emulated = EmulatedModes(name, tmp_path, monkeypatch)
    modes, before = emulated.modes, emulated.files()
    told: list[str] = []
    skipped: dict[str, str] = {}
    shares: set[float] = set()
    with mode_put_back(modes, told.append) as mode:
        assert mode == power_mode()
        for each in modes.names():
            try:
                modes.set(each)
            except ModeError as error:
                skipped[each] = str(error)
                continue
            assert power_mode() == each
            shares.add(round(cpu_share(emulated.sysfs), 2))
        assert (cache / "power-mode.json").exists()
    assert power_mode() == mode
    assert emulated.files() == before
    assert len(shares) > 1
    assert all("it needs a restart of the board" in why for why in skipped.values())
    assert not (cache / "power-mode.json").exists()
    assert not emulated.restarts.exists()
    assert told == []


@pytest.mark.parametrize("name", [name for name in JETSONS if name != "igx_orin"])
def test_the_profile_knows_the_modes_of_nvpmodel(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = EmulatedModes(name, tmp_path, monkeypatch).modes
    assert modes.kind == "nvpmodel"
    assert set(modes.names()) <= set(load_board(None).power.modes)


@pytest.mark.parametrize("lists_gates", [True, False])
def test_a_mode_that_needs_a_restart_is_never_set(
    lists_gates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = EmulatedModes("orin_nano_8", tmp_path, monkeypatch, lists_gates=lists_gates)
    modes = emulated.modes
    why = "TPC_POWER_GATING is 240 now and 252 in 7W" if lists_gates else "not allowed to"
    with pytest.raises(ModeError, match=why):
        modes.set("7W")
    assert modes.current() == "15W"
    assert not emulated.restarts.exists()


def test_the_emulated_nvpmodel_restarts_if_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would fail if it were answered."""
    emulated = EmulatedModes("orin_nano_8", tmp_path, monkeypatch)
    subprocess.run(["nvpmodel", "-m", "3"], input="YES\n", text=True, check=True)
    assert emulated.restarts.read_text() == "3\n"


def test_a_board_with_two_kinds_of_cores_has_a_limit_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors: the emulated tree has as many as this machine")
    modes = EmulatedModes("rock_5b", tmp_path, monkeypatch).modes
    assert modes.names() == ("schedutil", "schedutil-1008+1200MHz", "schedutil-408MHz")


def test_the_command_measures_what_a_driven_board_draws_in_a_mode(tmp_path: Path) -> None:
    """The real command and engine. In this mode, the board draws 13.6 W when it is busy."""
    heat = HeatModel(time_constant_s=0.5)  # it soon keeps still
    with running_board("orin_nx", DriveOptions(heat=heat)) as board:
        environment = {**os.environ, **board.environment}
        environment["EDGE_TRAIN_CACHE"] = str(tmp_path / "cache")
        subprocess.run(["nvpmodel", "-m", "0"], env=environment, check=True)
        words = ["modes", str(PACKAGE), "--images", "64", "--epochs", "1", "--json"]
        words += ["--modes", "25W", "--time-per-rung", "3s"]
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime", *words],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answer = subprocess.run(
            ["nvpmodel", "-q"], env=environment, capture_output=True, text=True, check=True
        )
    assert answer.stdout == "NV Power Mode: MAXN\n0\n"
    table = json.loads(done.stdout)
    assert table["before"] == "MAXN"
    (run,) = table["modes"]
    profile = load_profile(Path(run["profile"]))
    assert (run["mode"], profile.power_mode) == ("25W", "25W")
    busy_w = 4.5 + 12 * 1_497_600 / 1_984_000  # and 16.5 W in MAXN
    powers_w = [cost.power_w or 0.0 for cost in profile.rungs]
    assert 0.8 * busy_w < max(powers_w) < 1.01 * busy_w
