"""The power mode that was set before is put back, whatever ends the block or the process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_board
import fake_modes
import pytest

from edge_runtime.device import (
    Cpufreq,
    boot_id,
    cpufreq,
    interrupted_mode,
    mode_put_back,
    put_back_interrupted,
)
from edge_runtime.errors import DeviceError, ModeError, StorageError
from edge_runtime.profiling import modes

HOLD = """
import time
from pathlib import Path
from edge_runtime.device import Cpufreq, mode_put_back
modes = Cpufreq()
with mode_put_back(modes, print):
    modes.set("schedutil-900MHz")
    print("set", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sysfs folder of a board with cpufreq."""
    folder = fake_modes.cpufreq(tmp_path)
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(folder))
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "cache/power-mode.json"


@contextmanager
def held() -> Iterator[None]:
    """A process that has set another mode; it is killed at the end of the block."""
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "set\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, None])
def test_after_any_ending_the_mode_is_that_before(
    board: Path, note: Path, error: type[BaseException] | None
) -> None:
    kernel, before = Cpufreq(), fake_modes.limits(board)

    def change() -> None:
        with mode_put_back(kernel, print) as mode:
            assert mode == "schedutil"
            kernel.set("performance-600MHz")
            assert json.loads(note.read_text())["mode"] == "schedutil"
            if error is not None:
                raise error

    if error is None:
        change()
    else:
        with pytest.raises(error):
            change()
    assert fake_modes.limits(board) == before
    assert not note.exists()


def test_a_change_that_fails_halfway_is_undone(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, before = Cpufreq(), fake_modes.limits(board)
    broken, write = board / "devices/system/cpu/cpu1/cpufreq/scaling_max_freq", Path.write_text

    def write_some(path: Path, text: str) -> int:
        if path == broken and text != "2400000":
            raise OSError(22, "Invalid argument")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", write_some)
    with mode_put_back(kernel, print):
        with pytest.raises(ModeError, match="cpu1/cpufreq/scaling_max_freq cannot be written"):
            kernel.set("performance-900MHz")
        assert fake_modes.limits(board)[0] == "performance 900000"
    assert fake_modes.limits(board) == before


def test_nothing_is_changed_without_a_note(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError), mode_put_back(Cpufreq(), print):
        pytest.fail("the block must not run")


def test_a_mode_that_cannot_be_put_back_keeps_its_note(
    board: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, write = Cpufreq(), Path.write_text

    def change() -> None:
        with mode_put_back(kernel, print):
            kernel.set("schedutil-900MHz")
            monkeypatch.setattr(Path, "write_text", lambda *_: 0)  # as if firmware held it
            monkeypatch.setattr(cpufreq, "COOLING_S", 0.0)

    with pytest.raises(ModeError, match=r"Restart the board, or run:\n  echo schedutil"):
        change()
    monkeypatch.setattr(Path, "write_text", write)
    told: list[str] = []
    with mode_put_back(kernel, told.append) as mode:
        assert mode == "schedutil"
    assert told == [
        "an interrupted `edge-train modes` had left another mode; schedutil is set"
    ]


def test_a_killed_process_leaves_a_note_and_the_next_one_follows_it(
    board: Path, note: Path
) -> None:
    before = fake_modes.limits(board)
    with held():
        pass
    assert fake_modes.limits(board) == ["schedutil 900000"] * 2
    assert "another power mode than schedutil, which was set" in (interrupted_mode() or "")
    told: list[str] = []
    with mode_put_back(Cpufreq(), told.append):
        assert fake_modes.limits(board) == before
    assert len(told) == 1
    assert not note.exists()
    assert interrupted_mode() is None


def test_a_note_that_knows_too_little_says_how_to_go_on(board: Path, note: Path) -> None:
    table = {"format": 1, "kind": "cpufreq", "mode": "schedutil", "boot": boot_id()}
    note.parent.mkdir()
    note.write_text(json.dumps(table | {"state": {"cpu0": "schedutil 2400000"}}))
    with pytest.raises(ModeError) as caught:
        put_back_interrupted(Cpufreq(), print)
    assert "nothing is known of cpu1" in str(caught.value)
    assert f"set it and remove {note}" in str(caught.value)


def test_only_one_process_changes_modes(board: Path) -> None:
    with (
        held(),
        pytest.raises(DeviceError, match="another `edge-train modes` changes"),
        mode_put_back(Cpufreq(), print),
    ):
        pytest.fail("the block must not run")


def test_a_restart_has_undone_what_cpufreq_had_set(board: Path, note: Path) -> None:
    kernel = Cpufreq()
    table = {"format": 1, "kind": "cpufreq", "mode": "powersave", "boot": "another"}
    fake_board.put(note, json.dumps(table | {"state": {"cpu0": "powersave 600000"}}))
    told: list[str] = []
    with mode_put_back(kernel, told.append) as mode:
        assert mode == "schedutil"
    assert told == []


def test_doctor_makes_no_files_to_find_that_nothing_was_interrupted(
    board: Path, note: Path
) -> None:
    assert interrupted_mode() is None
    assert not note.parent.exists()


def test_the_mode_of_a_program_that_is_not_here_is_named(board: Path, note: Path) -> None:
    table = {"format": 1, "kind": "nvpmodel", "mode": "15W", "boot": None, "state": {}}
    fake_board.put(note, json.dumps(table))
    with (
        pytest.raises(
            DeviceError, match=r"another mode of nvpmodel.*Set 15W with it, and rem"
        ),
        mode_put_back(Cpufreq(), print),
    ):
        pytest.fail("the block must not run")
    assert note.exists()


def test_a_note_of_another_format_is_refused(board: Path, note: Path) -> None:
    with held():
        pass
    before, table = fake_modes.limits(board), json.loads(note.read_text())
    fake_board.put(note, json.dumps(table | {"format": 2}))
    with (
        pytest.raises(DeviceError, match=r"its format is 2, this version reads 1.*remove the"),
        mode_put_back(Cpufreq(), print),
    ):
        pytest.fail("the block must not run")
    assert fake_modes.limits(board) == before


def test_heat_at_the_end_does_not_keep_a_mode_from_being_put_back(
    board: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, heat = fake_modes.limits(board), fake_modes.Heat(monkeypatch)
    told: list[str] = []
    with mode_put_back(Cpufreq(), told.append):
        Cpufreq().set("schedutil-900MHz")
        heat.cap_khz = 1_200_000
    assert fake_modes.limits(board) == before
    assert told == [
        "power mode schedutil is set again, but heat lowers the clock limit of cpu0, cpu1 "
        "until the board has cooled"
    ]
    assert not note.exists()


def test_what_heat_lowers_is_not_taken_for_the_mode_before(
    board: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, heat = fake_modes.limits(board), fake_modes.Heat(monkeypatch)
    with held():
        pass
    heat.cap_khz = 1_200_000
    with (
        pytest.raises(
            DeviceError, match=r"schedutil is set, but heat lowers.* Try again then"
        ),
        mode_put_back(Cpufreq(), print),
    ):
        pytest.fail("the block must not run")
    assert fake_modes.limits(board) == before
    assert not note.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "kind": 7}', "\udcff", '{"state": {"a": 1e999}}']
)
def test_a_damaged_note_is_reported(board: Path, note: Path, text: str) -> None:
    note.parent.mkdir(parents=True)
    note.write_bytes(text.encode(errors="surrogateescape"))
    before = fake_modes.limits(board)
    assert "cannot be read" in (interrupted_mode() or "")
    with (
        pytest.raises(DeviceError, match=r"power-mode.json says which power mode.*remove the"),
        mode_put_back(Cpufreq(), print),
    ):
        pytest.fail("the block must not run")
    assert fake_modes.limits(board) == before


def test_a_pipe_instead_of_a_note_does_not_block(board: Path, note: Path) -> None:
    note.parent.mkdir(parents=True)
    os.mkfifo(note)
    with (
        pytest.raises(DeviceError, match="cannot be read"),
        mode_put_back(Cpufreq(), print),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_impatient_signals_do_not_prevent_it(
    board: Path, note: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, before = Cpufreq(), fake_modes.limits(board)
    handler = signal.getsignal(number)
    put_back = kernel.put_back

    def slowly(state: dict[str, str]) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        put_back(state)

    monkeypatch.setattr(kernel, "put_back", slowly)
    with mode_put_back(kernel, print):
        kernel.set("schedutil-900MHz")
    assert fake_modes.limits(board) == before
    assert signal.getsignal(number) == handler


def readings(*pairs: tuple[float, float | None]) -> list[bool]:
    settling = modes.Settling(0.0)
    return [settling.see(*pair) for pair in pairs]


def test_a_board_has_settled_after_ten_still_seconds() -> None:
    assert readings((0, 50), (5, 50.5), (9.9, 51), (10, 51)) == [False, False, False, True]
    cooling = readings((0, 60), (5, 55), (10, 52), (15, 50.9), (20, 51.5), (25, 51.2))
    assert cooling == [*[False] * 5, True]


def test_without_a_temperature_ten_seconds_are_enough() -> None:
    assert readings((0, None), (9.9, None), (10, None)) == [False, False, True]


def test_a_board_that_never_keeps_still_is_measured_in_the_end() -> None:
    rising = readings(*((float(t), 40.0 + t) for t in range(0, 181, 5)))
    assert rising == [*[False] * 36, True]
