"""`edge-train modes` on a board with cpufreq, whose times and power follow its clock rate."""

import json
import signal
from pathlib import Path

import fake_modes
import pytest
from measuring_fakes import environment, prepare

from edge_runtime import device, storage
from edge_runtime.cli.main import main
from edge_runtime.device import Thermometer, power_mode
from edge_runtime.errors import ModeError
from edge_runtime.profiling import load_profile, modes

# A step takes less time at a higher clock rate, and more power: the fewest joules are between.
LINE = """
path = os.environ["EDGE_TRAIN_SYSFS"] + "/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
ghz = int(open(path).read()) / 1e6
seconds, watts = (2 if dense else 1) / ghz, 4 + ghz ** 3
times = {"step_s_low": seconds, "step_s_high": seconds}
measured(1 / ghz, **times, step_j=watts * seconds, power_w=watts)
"""


def definition(ghz: float) -> tuple[float, float]:
    """Seconds and joules of a step of the small rung."""
    return 1 / ghz, (4 + ghz**3) / ghz


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = fake_modes.cpufreq(tmp_path)
    monkeypatch.setenv("EDGE_TRAIN_SYSFS", str(folder))
    monkeypatch.setattr(modes, "SETTLE_S", 0.0)
    return folder


@pytest.fixture
def processes(board, tmp_path, monkeypatch):
    fakes = prepare(tmp_path, monkeypatch)
    fakes.do(k100=LINE, k050=LINE)
    return fakes


@pytest.fixture
def compare(package, processes, capsys):
    """Runs the command: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["modes", str(package.path), "--images", "400", "--epochs", "1", *words])
        return code, *capsys.readouterr()

    return run


def test_it_finds_the_mode_with_least_energy_and_with_least_time(compare, board) -> None:
    before = fake_modes.limits(board)
    code, out, err = compare(
        "--modes", "schedutil,schedutil-1200MHz,schedutil-600MHz", "--json"
    )
    assert code == 0, err
    table = json.loads(out)
    steps = table["steps"]
    assert table["least_time"]["mode"] == "schedutil"
    by_definition = {ghz: definition(ghz) for ghz in (0.6, 1.2, 2.4)}
    assert min(by_definition, key=lambda ghz: by_definition[ghz][1]) == 1.2
    assert table["least_energy"]["mode"] == "schedutil-1200MHz"
    for run in table["modes"]:
        ghz = {"schedutil": 2.4}.get(run["mode"]) or int(run["mode"][10:-3]) / 1000
        step_s, step_j = definition(ghz)
        costs = {alone["rung"]: alone for alone in run["alone"]}
        assert costs["k050"]["time_s"] == pytest.approx(steps * step_s, rel=0.15)
        assert costs["k050"]["energy_j"] == pytest.approx(steps * step_j, rel=0.25)
        profile = load_profile(Path(run["profile"]))
        assert profile.power_mode == run["mode"]
    assert fake_modes.limits(board) == before


def test_the_text_names_both_and_the_mode_that_is_set(compare) -> None:
    code, out, err = compare("--modes", "schedutil-1200MHz,schedutil")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].endswith("modes of cpufreq, schedutil is set")
    assert any(line.startswith("least energy  k050 in schedutil-1200MHz: ") for line in lines)
    assert any(line.startswith("least time    k050 in schedutil: ") for line in lines)
    assert any(
        line.startswith("all on k100   least energy in schedutil-1200") for line in lines
    )
    assert "comparing schedutil-1200MHz, schedutil of cpufreq on generic-" in err
    assert "power mode schedutil is set, as before" in err


def test_a_later_plan_in_that_mode_finds_its_costs(compare, package, board, capsys) -> None:
    assert compare("--modes", "schedutil-1200MHz")[0] == 0
    plan = ["plan", str(package.path), "--images", "400", "--epochs", "1"]
    assert main(plan) == 4  # in the present mode nothing was measured
    assert "no cost profile" in capsys.readouterr().err
    device.Cpufreq().set("schedutil-1200MHz")
    assert environment().power_mode == "schedutil-1200MHz"
    assert main(plan) == 0


def test_what_was_measured_is_not_measured_again(compare, processes) -> None:
    words = ("--modes", "schedutil-1200MHz,schedutil")
    assert compare(*words)[0] == 0
    count = len(processes.jobs)
    code, _, err = compare(*words)
    assert (code, len(processes.jobs)) == (0, count)
    assert err.count("that is used") == 2


def test_a_budget_decides_what_fits(compare) -> None:
    names = "schedutil-600MHz,schedutil"
    code, out, err = compare("--modes", names, "--time", "75s", "--json")
    assert code == 0, err
    table = json.loads(out)
    slow, fast = table["modes"]
    assert [alone["fits"] for alone in slow["alone"]] == [False, False]
    assert slow["no_plan"] is not None
    assert any(alone["fits"] for alone in fast["alone"])
    assert table["least_energy"]["mode"] == table["most_tokens"] == "schedutil"


@pytest.mark.parametrize("sensor", ["none", "estimate"])
def test_without_a_power_sensor_energy_is_unknown_and_time_is_not(
    compare, processes, monkeypatch, sensor
) -> None:
    from edge_runtime.profiling import environment as home

    def open_none(board):
        return None

    def open_estimate(board):
        from measuring_fakes import constant_sensor

        made = constant_sensor()
        made.is_estimate = True
        return made

    chosen = open_none if sensor == "none" else open_estimate
    monkeypatch.setattr(home, "open_sensor", chosen)
    if sensor == "none":
        line = "measured(step_j=None, power_w=None)"
        processes.do(k100=line, k050=line)
    code, out, _ = compare("--modes", "schedutil-1200MHz,schedutil", "--json")
    table = json.loads(out)
    assert code == 0
    assert table["least_energy"] is None
    assert table["least_time"] is not None
    assert {alone["energy_j"] for run in table["modes"] for alone in run["alone"]} == {None}
    _, text, _ = compare("--modes", "schedutil-1200MHz,schedutil")
    assert "least energy  unknown: " in text
    code, _, err = compare("--energy", "20kJ")
    assert code == 4
    assert "a limit on energy or power needs a power sensor" in err


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_puts_the_mode_back(compare, processes, board, number) -> None:
    before = fake_modes.limits(board)
    processes.do(k100=f"os.kill(os.getppid(), signal.{number}); time.sleep(1000)")
    handler = signal.getsignal(signal.Signals[number])
    code, _, err = compare("--modes", "schedutil-600MHz,schedutil")
    assert code == 130
    assert "stopped while k100 was measured. Measured so far: k050." in err
    assert fake_modes.limits(board) == before
    assert signal.getsignal(signal.Signals[number]) == handler
    assert processes.are_gone()


def test_an_error_puts_the_mode_back(compare, processes, board) -> None:
    before = fake_modes.limits(board)
    processes.do(k050="fail('the engine is broken', 5)")
    code, _, err = compare("--modes", "schedutil-600MHz,schedutil")
    assert (code, "the engine is broken" in err) == (5, True)
    assert fake_modes.limits(board) == before


def test_a_mode_that_changes_while_it_is_measured_is_not_kept(
    compare, processes, board, package
) -> None:
    file = board / "devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
    other = file.parents[2] / "cpu1/cpufreq/scaling_max_freq"
    line = (
        f"open({str(file)!r}, 'w').write('600000'); open({str(other)!r}, 'w').write('600000')"
    )
    processes.do(k100=f"measured(); {line}")
    before = fake_modes.limits(board)
    code, _, err = compare("--modes", "schedutil-1200MHz,schedutil")
    assert code == 4
    assert "was set, but the board is in schedutil-600MHz now" in err
    assert fake_modes.limits(board) == before
    assert list((board.parent / "cache/profiles").glob("*.json")) == []


def test_without_permission_the_present_mode_is_compared_alone(
    compare, monkeypatch, board, tmp_path
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "a cache"))
    code, out, err = compare("--modes", "schedutil-600MHz,schedutil")
    assert code == 0
    assert "not in schedutil-600MHz: " in err
    assert "not schedutil-600MHz  " in out
    assert "cannot be written (Permission denied)" in out
    assert f"`sudo env EDGE_TRAIN_CACHE='{tmp_path}/a cache' " in out
    assert "least energy" in out
    code, _, err = compare("--modes", "schedutil-600MHz")
    assert code == 4
    assert "none of these power modes could be measured:\n  schedutil-600MHz: " in err


def test_throttling_is_noted_and_its_costs_are_not_kept(
    compare, board, processes, monkeypatch
) -> None:
    states = iter([False, *[True] * 10_000])
    with monkeypatch.context() as patch:
        patch.setattr(Thermometer, "is_throttled", lambda self: next(states))
        code, out, _ = compare("--modes", "schedutil")
    assert code == 0
    assert "the board was throttled in schedutil" in out
    assert "these costs are not kept" in out
    assert list((board.parent / "cache/profiles").rglob("*.json")) == []
    count = len(processes.jobs)
    code, out, _ = compare("--modes", "schedutil", "--json")
    assert len(processes.jobs) > count
    assert json.loads(out)["modes"][0]["was_cached"] is False


def test_heat_that_lowers_limits_is_throttling(compare, board, monkeypatch) -> None:
    before, heat = fake_modes.limits(board), fake_modes.Heat(monkeypatch)
    written: list[str] = []
    settle = modes.wait_until_settled

    def get_hot(watch: object) -> None:
        heat.cap_khz = 1_200_000
        written.append(fake_modes.limits(board)[1])
        settle(watch)

    monkeypatch.setattr(modes, "wait_until_settled", get_hot)
    names = ["schedutil-1800MHz", "schedutil-1200MHz", "schedutil"]
    code, out, err = compare("--modes", ",".join(names), "--json")
    assert code == 0, err
    runs = json.loads(out)["modes"]
    assert [run["mode"] for run in runs] == names
    assert [(run["throttled"], run["problem"]) for run in runs] == [(True, None)] * 3
    assert {run["profile"] for run in runs} == {None}
    assert written == [f"schedutil {khz}" for khz in (1_800_000, 1_200_000, 2_400_000)]
    assert fake_modes.limits(board) == before
    assert "power mode schedutil is set again, but heat lowers the clock limit of cpu0" in err


def test_a_mode_that_heat_lowers_is_not_taken_for_another_one(compare, monkeypatch) -> None:
    assert compare("--modes", "schedutil-1200MHz")[0] == 0  # the cache has its costs
    heat, settle = fake_modes.Heat(monkeypatch), modes.wait_until_settled

    def get_hot(watch: object) -> None:
        heat.cap_khz = 1_200_000
        settle(watch)

    monkeypatch.setattr(modes, "wait_until_settled", get_hot)
    code, out, err = compare("--modes", "schedutil-1800MHz,schedutil", "--json")
    assert code == 0, err
    assert [run["was_cached"] for run in json.loads(out)["modes"]] == [False, False]


def test_nothing_is_kept_of_a_throttled_mode_that_is_stopped(
    compare, processes, board, monkeypatch
) -> None:
    states = iter([False, *[True] * 10_000])
    monkeypatch.setattr(Thermometer, "is_throttled", lambda self: next(states))
    processes.do(k100="os.kill(os.getppid(), signal.SIGINT); time.sleep(1000)")
    assert compare("--modes", "schedutil")[0] == 130
    assert list((board.parent / "cache/profiles").rglob("*.json")) == []


@pytest.mark.parametrize(
    ("names", "shown"), [("schedutil-1200MHz,schedutil", True), ("schedutil-1200MHz", False)]
)
def test_what_was_measured_is_shown_if_the_mode_cannot_be_put_back(
    compare, monkeypatch, names, shown
) -> None:
    def refuse(*_: object) -> None:
        raise ModeError("it could not be put back")

    monkeypatch.setattr(device.Cpufreq, "put_back", refuse)
    monkeypatch.setattr(device.Cpufreq, "set", refuse)
    code, out, err = compare("--modes", names)
    assert code == 4
    assert err.rstrip().endswith("it could not be put back")
    assert ("k050 in schedutil: " in out) == shown
    assert "as before" not in err


def test_a_throttled_board_is_refused(compare, board, monkeypatch) -> None:
    monkeypatch.setattr(Thermometer, "is_throttled", lambda self: True)
    code, _, err = compare()
    assert (code, "the board is throttled now" in err) == (4, True)


def test_a_board_without_modes_is_refused(compare, board, monkeypatch) -> None:
    monkeypatch.setattr(device, "power_modes", lambda: None)
    code, _, err = compare()
    assert (code, "no power modes were found" in err) == (4, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--modes", "turbo"], 2, "there is no governor 'turbo'"),
        (["--modes", ""], 2, "is not a power mode"),
        (["--time-per-rung", "0s"], 2, "--time-per-rung is 0"),
        (["--memory", "1kB"], 7, "--memory 1kB is below the package's state"),
        (["--trained", "all-but-one"], 2, "all-but-one"),
    ],
)
def test_wrong_flags_are_explained(compare, processes, words, code, message) -> None:
    result, _, err = compare(*words)
    assert (result, message in err) == (code, True)
    assert processes.jobs == []
    assert power_mode() == "schedutil"


def test_the_same_work_is_compared(compare, capsys) -> None:
    with pytest.raises(SystemExit):
        compare("--epochs", "auto")
    assert "expected a whole number" in capsys.readouterr().err


def test_the_modes_to_compare_follow_from_the_one_before_an_interruption(
    compare, board
) -> None:
    note = storage.cache_folder() / "power-mode.json"
    with device.mode_put_back(device.Cpufreq(), print):
        kept = note.read_bytes()
    note.write_bytes(kept)  # as a killed process leaves it, in another mode
    device.Cpufreq().set("performance-900MHz")
    code, _, err = compare()
    assert code == 0, err
    compared = "comparing schedutil-1800MHz, schedutil-1200MHz, schedutil of cpufreq"
    told = "had left another mode; schedutil is set"
    assert err.index(told) < err.index(compared)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("scaling_max_freq", "garbage", "cpu1/cpufreq/scaling_max_freq has no clock rate"),
        ("scaling_governor", "", "cpu1/cpufreq/scaling_governor cannot be read"),
        ("cpuinfo_max_freq", "", "cpu1/cpufreq/cpuinfo_max_freq has no clock rate"),
        ("scaling_governor", "powersave", "cores of one kind have different governors"),
    ],
)
def test_what_is_wrong_with_cpufreq_is_named(compare, board, name, content, problem) -> None:
    (board / f"devices/system/cpu/cpu1/cpufreq/{name}").write_text(content)
    code, _, err = compare()
    assert (code, problem in err) == (4, True)
