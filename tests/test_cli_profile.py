"""`edge-train profile`: its output, its file, and all its endings."""

import itertools
import json
import re
import signal
from pathlib import Path

import pytest
from measuring_fakes import constant_sensor, environment, prepare
from training_fakes import FakeEngine

from edge_runtime.cli.main import main
from edge_runtime.errors import SensorError
from edge_runtime.profiling import load_profile
from edge_runtime.schema import unstructure

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def processes(tmp_path, monkeypatch):
    return prepare(tmp_path, monkeypatch)


@pytest.fixture
def cached(package, processes) -> Path:
    """Path of the cached profile of that package."""
    return environment().cached_profile_path(package)


def test_every_rung_is_reported_and_the_profile_is_written(package, cached, capsys) -> None:
    assert main(["profile", str(package.path)]) == 0
    out, err = capsys.readouterr()
    board = environment().board.id
    small = "k050         500.0 ms    19.5 KiB  5.00 J per step"
    large = "k100           1.00 s    39.1 KiB  10.0 J per step"
    rounds = [
        [f"measuring {rung}, round {number} of 3", cost]
        for number, order in enumerate(["up", "down", "up"], start=1)
        for rung, cost in [("k050", small), ("k100", large)][:: 1 if order == "up" else -1]
    ]
    assert err.splitlines() == [
        f"measuring 2 rungs on {board} three times: at most 2 min 0 s, and the time to load "
        "each",
        *itertools.chain.from_iterable(rounds),
    ]
    assert re.fullmatch(
        rf"board {re.escape(board)}, ort on numpy\npower sensor: replay\n"
        r"start 2\.5 s, load a rung 0\.2 s, end with a checkpoint \d+\.\d s\n"
        r"idle: 10\.00 W\nk100 +1\.00 s +39\.1 KiB  10\.0 J per step\n"
        r"k050 +500\.0 ms +19\.5 KiB  5\.00 J per step\n"
        rf"profile: {re.escape(str(cached))}\n",
        out,
    )
    assert [cost.rung for cost in load_profile(cached).rungs] == ["k100", "k050"]


def test_a_rung_that_the_engine_cannot_train_is_left_out(
    package, processes, monkeypatch, capsys
) -> None:
    engine = FakeEngine(unsupported=["k100"])
    monkeypatch.setattr("edge_runtime.engines.create_engine", lambda *_, **__: engine)
    assert main(["profile", str(package.path)]) == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    reason = "engine fake cannot train it: rung k100 is too much for it"
    assert first == f"without rung k100: {reason}"
    assert second.startswith("measuring 1 rungs on ")
    assert {job["rung"] for job in processes.jobs} == {"k050"}


def test_plan_finds_it(package, cached, capsys) -> None:
    words = ["plan", str(package.path), "--images", "40", "--epochs", "1", "--time", "10min"]
    assert main(words) == 4
    assert main(["profile", str(package.path)]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "10 steps on k100" in capsys.readouterr().out


def test_json_is_the_profile_and_nothing_else(package, cached, tmp_path, capsys) -> None:
    path = tmp_path / "new" / "profile.json"
    assert main(["profile", str(package.path), "--json", "-o", str(path)]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table == unstructure(load_profile(path)) == json.loads(path.read_text())
    assert not cached.exists()


def test_flags_reach_the_measuring_process(package, processes) -> None:
    words = ["--time-per-rung", "1500ms", "--threads", "3", "--engine", "ort"]
    assert main(["profile", str(package.path), *words]) == 0
    jobs = processes.jobs
    assert {(job["max_s"], job["threads"], job["engine"]) for job in jobs} == {(0.5, 3, "ort")}


def test_estimates_and_missing_sensors_are_marked(
    package, processes, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(
        "edge_runtime.profiling.environment.Environment.power_is_estimate", True
    )
    assert main(["profile", str(package.path)]) == 0
    assert "5.00 J per step (estimate)" in capsys.readouterr().err
    monkeypatch.setattr("edge_runtime.profiling.environment.open_sensor", lambda board: None)
    processes.do(k050="measured(step_j=None, power_w=None)")
    assert main(["profile", str(package.path)]) == 0
    out, err = capsys.readouterr()
    assert "power sensor: none: joules stay unknown" in out
    assert "idle" not in out
    assert err.splitlines()[1:3] == [
        "measuring k050, round 1 of 3",
        "k050         500.0 ms    19.5 KiB",
    ]


def test_a_failing_sensor_is_reported(package, processes, monkeypatch, capsys) -> None:
    sensor, reads = constant_sensor(), itertools.count()
    read = sensor.read

    def fail_once() -> dict[str, float | None]:
        if next(reads) == 1:
            raise SensorError("it was unplugged")
        return read()

    monkeypatch.setattr(sensor, "read", fail_once)
    monkeypatch.setattr("edge_runtime.profiling.environment.open_sensor", lambda board: sensor)
    processes.do(k050="time.sleep(1.2); measured()")
    assert main(["profile", str(package.path)]) == 0
    error = capsys.readouterr().err
    assert "power sensor replay is lost, energy has a gap: it was unplugged" in error
    assert re.search(r"power sensor replay is back after \d+\.\d s", error)


def test_rungs_that_are_not_measured_are_reported(package, processes, capsys) -> None:
    processes.do(k050="measured(baseline_bytes=2**20)")
    assert main(["profile", str(package.path), "--memory", "1MiB"]) == 0
    assert re.search(
        r"k100 +not measured; it would take about 1\.\d MiB", capsys.readouterr().err
    )
    processes.do(k100=KILLED)
    assert main(["profile", str(package.path)]) == 0
    assert re.search(r"k100 +does not fit into memory", capsys.readouterr().err)


def test_if_nothing_fits_nothing_is_written(package, processes, cached, capsys) -> None:
    processes.do(k100=KILLED, k050=KILLED)
    assert main(["profile", str(package.path)]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "the smallest, k050, was killed. Export one with a smaller batch" in err
    assert not cached.exists()


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_exits_130_and_the_same_command_continues(
    package, processes, cached, capfd, number
) -> None:
    before = signal.getsignal(signal.Signals[number])
    processes.do(k100=f"os.kill(os.getppid(), signal.{number}); time.sleep(1000)")
    assert main(["profile", str(package.path)]) == 130
    assert signal.getsignal(signal.Signals[number]) == before
    error = capfd.readouterr().err
    assert "edge-train: stopping; send it again to stop at once" in error
    assert "edge-train: stopped while k100 was measured. Measured so far: k050." in error
    assert processes.are_gone()
    assert not cached.exists()
    processes.do()
    assert main(["profile", str(package.path)]) == 0
    assert [job["rung"] for job in processes.jobs] == ["k100", "k100", "k050", "k050", "k100"]
    assert cached.exists()


def test_an_ignored_signal_stays_ignored(package, processes) -> None:
    processes.do(k100="os.kill(os.getppid(), signal.SIGHUP); measured()")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert main(["profile", str(package.path)]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--memory", "0B"], 2, "--memory is 0; a limit must be above zero"),
        (["--memory", "1kB"], 7, r"--memory 1kB is below the package's state of 1\.0 K"),
        (["--time-per-rung", "0s"], 2, "--time-per-rung is 0; expected a duration above zero"),
        (["--board", "nowhere.toml"], 2, "nowhere.toml"),
    ],
)
def test_wrong_flags_are_explained(package, processes, capsys, words, code, message) -> None:
    assert main(["profile", str(package.path), *words]) == code
    assert re.search(message, capsys.readouterr().err)
    assert processes.jobs == []
