"""The report about a real board: nothing is skipped silently, everything is in the file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_tests.conftest import ELSEWHERE
from device_tests.emulated_board.tools import write_tools
from device_tests.emulated_board.tree import write_board
from device_tests.real_board import kernel, results, training
from device_tests.real_board.rehearse import rehearse
from device_tests.real_board.results import ROOT, require_board
from device_tests.real_board.watching import slope_per_s, trapezoids_j
from device_tests.test_board_endurance import steps_while_cool
from edge_runtime.device import load_board
from edge_runtime.engines.tensorrt.api import missing_modules

FACTS = {"machine": {"board": "here"}}
QUICK_FACTS = f"""
from device_tests.real_board import results

results.read_doctor = lambda: {FACTS!r}
"""
CONFTEST = f"from device_tests.conftest import *\n{QUICK_FACTS}"
QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # loading hypothesis takes most of the time
TESTS = """
import pytest

from device_tests.real_board.results import not_run

def test_good(board, record_property):
    record_property("power_w", 4.5)
    record_property("no_number", float("nan"))

def test_bad():
    assert 1 + 1 == 3

def test_skips_itself():
    pytest.skip("no sensor here")

@pytest.mark.skipif(True, reason="wrong weather")
def test_is_marked():
    pass

def test_needs_a_module():
    pytest.importorskip("no_such_module")

@pytest.mark.xfail(reason="known bug", strict=True)
def test_is_expected_to_fail():
    assert False

@pytest.fixture
def hours():
    not_run("it takes hours")

def test_takes_hours(hours):
    pass

@pytest.fixture
def badly_ended():
    yield
    raise RuntimeError("it leaks")

def test_ends_badly(badly_ended):
    pass

def test_left_out():
    pass
"""


def run_tests(
    folder: Path, tests: str, *words: str, board: str | None = None
) -> "subprocess.CompletedProcess[str]":
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *words]
    if board is not None:
        command += ["--board", board]
    return subprocess.run(
        [*command, str(folder)],
        cwd=folder,
        env={**os.environ, **QUICK, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'export'}"},
        capture_output=True,
        text=True,
    )


def read(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / "board-results.json").read_text())
    return table


@pytest.fixture
def here() -> str:
    return load_board(None).id


def test_every_outcome_is_in_the_file(tmp_path: Path, here: str) -> None:
    done = run_tests(tmp_path, TESTS, "-k", "not left_out", board=here)
    assert done.returncode == 1, done.stdout
    table = read(tmp_path)
    assert (table["format"], table["board"], table["exit_code"]) == (1, here, 1)
    assert table["facts"] == FACTS
    tests = {test["test"].partition("::")[2]: test for test in table["tests"]}
    outcomes = {name: test["outcome"] for name, test in tests.items()}
    bad = ("bad", "skips_itself", "is_marked", "needs_a_module", "is_expected_to_fail")
    assert outcomes == {
        "test_good": "passed",
        "test_takes_hours": "not run",
        "test_ends_badly": "failed",
        **{f"test_{name}": "failed" for name in bad},
    }
    assert table["counts"] == {"passed": 1, "failed": 6, "not run": 1, "not reached": 0}
    assert tests["test_good"]["figures"] == {"power_w": 4.5, "no_number": None}
    assert tests["test_takes_hours"]["reason"] == "it takes hours"
    for name, reason in (
        ("bad", "assert (1 + 1) == 3"),
        ("skips_itself", "skipped on a board: no sensor here"),
        ("is_marked", "skipped on a board: wrong weather"),
        ("needs_a_module", "skipped on a board: could not import 'no_such_module'"),
        ("is_expected_to_fail", "skipped on a board: known bug"),
        ("ends_badly", "it leaks"),
    ):
        assert reason in tests[f"test_{name}"]["reason"]
    assert table["left_out"] == {"test_it.py::test_left_out": "left out by the command line"}
    assert "1 passed, 6 failed, 1 not run, 0 not reached. Look through it" in done.stdout
    assert "SKIPPED" in done.stdout  # what was not run, with its reason, in pytest's summary


def test_a_file_that_skips_itself_fails(tmp_path: Path, here: str) -> None:
    tests = "import pytest\npytest.importorskip('no_such_module')"
    done = run_tests(tmp_path, tests, board=here)
    assert done.returncode == 2, done.stdout
    (test,) = read(tmp_path)["tests"]
    assert (test["test"], test["outcome"]) == ("test_it.py", "failed")
    assert "skipped on a board: could not import" in test["reason"]


def test_a_run_that_dies_leaves_a_file(tmp_path: Path, here: str) -> None:
    """As where the board loses its power."""
    tests = "import os\ndef test_one(): pass\ndef test_two(): os._exit(9)"
    assert run_tests(tmp_path, tests, board=here).returncode == 9
    table = read(tmp_path)
    assert table["exit_code"] is None
    assert [test["outcome"] for test in table["tests"]] == ["passed", "not reached"]


def test_a_wrong_name_is_refused(tmp_path: Path, here: str) -> None:
    done = run_tests(tmp_path, TESTS, board="jetson-nano")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"this machine is recognised as {here}. Name that one." in done.stderr
    assert not (tmp_path / "board-results.json").exists()
    with pytest.raises(pytest.UsageError, match="profiles/ has no such board; it has gener"):
        require_board("jetson-nano-8gb")
    require_board(here)


def test_every_file_is_for_boards_or_for_something_else() -> None:
    folder = Path(__file__).parent
    for_boards = {path.stem for path in folder.glob("test_board_*.py")}
    for_boards = for_boards - {Path(__file__).stem} | {"test_tensorrt_board"}
    assert {path.stem for path in folder.glob("test_*.py")} == for_boards | set(ELSEWHERE)


def test_the_judge_integrates_and_sees_a_slope() -> None:
    power_w = [(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)]
    assert trapezoids_j(power_w, 0.0, 3.0) == 11.0
    assert trapezoids_j(power_w, 0.5, 2.0) == pytest.approx(1.75 + 4.0)
    assert slope_per_s([(1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]) == pytest.approx(2.0)


def test_only_steps_without_throttling_are_compared() -> None:
    ends_s = [float(second) for second in range(1, 11)]
    steps = [{"measured": {"t_s": t_s, "step_s": 0.1 * t_s}} for t_s in ends_s]
    samples = [{"t_s": t_s - 0.5, "throttled": None} for t_s in ends_s]
    assert len(steps_while_cool(steps, samples)) == 10
    assert len(steps_while_cool(steps, [])) == 10
    samples[4]["throttled"] = True  # at 4.5: seen by the steps that end at 4, 5, and 6
    cool_s = steps_while_cool(steps, samples)
    assert cool_s == pytest.approx([0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 1.0])


@pytest.mark.parametrize(
    ("script", "stop_after_s", "code", "late"),
    [
        ("exit 3", None, 3, ""),
        ("exec sleep 100", 0.2, -15, ""),
        ("exec sleep 100", None, -15, "\nit did not end within 0.5 s, and was sent SIGTERM"),
        (
            "trap '' TERM; while :; do sleep 0.1; done",
            0.5,
            -9,
            "\nit did not end within 0.4 s after SIGTERM, and was killed",
        ),
    ],
)
def test_a_run_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    stop_after_s: float | None,
    code: int,
    late: str,
) -> None:
    monkeypatch.setattr(training, "LONGEST_S", 0.5)
    monkeypatch.setattr(training, "ENDING_S", 0.4)
    with subprocess.Popen(["sh", "-c", script]) as process:
        assert training.wait_for(process, stop_after_s) == late
    assert process.returncode == code


def test_a_doctor_that_does_not_end_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_DOCTOR_S", 0.01)
    assert results.read_doctor() == {"problem": "doctor did not end within 0.01 s"}


def test_the_settings_of_clocks_are_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysfs = tmp_path / "sys"
    board = write_board(sysfs, "orin_nx")
    write_tools(tmp_path, board, state=str(tmp_path / "status"))  # this one sets no clocks
    (sysfs / "devices/system/cpu/cpu0/online").write_text("1\n")
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(sysfs))
    monkeypatch.setenv("PATH", f"{tmp_path / 'usr/bin'}{os.pathsep}{os.environ['PATH']}")
    settings = kernel.clock_settings()
    assert settings["cpu0/scaling_max_freq"] == "1984000"
    assert settings["cpu0/scaling_governor"] == "schedutil"
    assert settings["cpu0/online"] == "1"
    assert settings["17000000.gpu/max_freq"] == "918000000"
    subprocess.run(["nvpmodel", "-m", "3"], check=True)
    assert kernel.nvpmodel_answer() == "NV Power Mode: 25W\n3"
    assert kernel.clock_settings() == settings


def test_a_rehearsal_on_an_emulated_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sensors and power modes; real_board/rehearse.py runs all of it, by hand."""
    (tmp_path / "quick_facts.py").write_text(QUICK_FACTS)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    for name, value in {**QUICK, "EDGE_TRAIN_TEST_WINDOW_S": "0.5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("EDGE_TRAIN_TEST_PACKAGES", raising=False)  # more tests of TensorRT
    path_of_results = tmp_path / "results.json"
    words = ["-p", "quick_facts", "-k", "board_sensors or board_modes or tensorrt_board"]
    done = rehearse("orin_nx", path_of_results, words, capture=True)
    table = json.loads(path_of_results.read_text())
    tests = {test["test"].partition("::")[2]: test for test in table["tests"]}
    # This machine has no TensorRT, which every Orin has: that is not skipped.
    failed = [test for test in tests.values() if test["outcome"] == "failed"]
    without = "jetson-orin-nx-16gb has no tensorrt and no pycuda"
    if not missing_modules():
        assert failed == [], done.stdout
    else:
        assert len(failed) == 3
        assert [test for test in failed if without not in test["reason"]] == [], done.stdout
    assert table["counts"]["not run"] == table["counts"]["not reached"] == 0
    assert set(table["left_out"]) >= {f"{stem}.py" for stem in ELSEWHERE}
    assert table["variables"]["EDGE_TRAIN_SYSFS"]
    sensors = tests["test_every_sensor_of_the_board_keeps_the_contract"]["figures"]["sensors"]
    assert sensors[0] == "ina3221"
    settings = tests["test_power_modes_are_set_and_put_back"]["figures"]["settings"]
    assert set(settings) == {"MAXN", "25W"}
