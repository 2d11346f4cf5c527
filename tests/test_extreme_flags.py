"""Numbers on the command line have ranges, which are checked before any work begins."""

import argparse
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_board import FREE, LADDER
from test_cli_run import words
from training_fakes import FakePictures, options, run_to_the_end, stop_after, write_package

from edge_runtime.cli.main import main
from edge_runtime.cli.quantities import whole
from edge_runtime.errors import StoppedError
from edge_runtime.facts import Budget
from edge_runtime.planning import Workload, auto_epochs, make_plan
from edge_runtime.training import train

__all__ = ["words"]  # the fixture

SOON_S = 2.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "1000000000000"], "from 1 to 1000000000, got '1000000000000'"),
        (["--epochs", str(2**63)], "from 1 to 1000000000, got '9223372036854775808'"),
        (["--epochs", "9" * 20], "from 1 to 1000000000"),
        (["--epochs", "9" * 100], f"got '{'9' * 60}...'"),
        (["--epochs", "9" * 5000], f"got '{'9' * 60}...'"),
        (["--images", str(2**63)], "from 1 to 1000000000"),
        (["--images", "0"], "from 1 to 1000000000, got '0'"),
        (["--threads", "100000"], "expected a whole number from 1 to "),
        (["--threads", "9999999"], "got '9999999'"),
        (["--metrics-port", "99999"], "expected a whole number from 1 to 65535, got '99999'"),
        (["--metrics-port", "0"], "from 1 to 65535, got '0'"),
        (["--nice", "99"], "expected a whole number from 0 to 19, got '99'"),
        (["--seed", "-1"], "got '-1'"),
        (["--seed", str(2**63)], "from 0 to 9223372036854775807"),
        (["--memory", f"{10**30}B"], "it is more than 1e+15 B"),
        (["--memory", f"{10**30}GB"], "it is more than 1e+15 B"),
        (["--time", "1e400s"], "'1e400s' is not a duration: it is not a number and a unit"),
        (["--time", "9" * 400 + "h"], "it is more than 1e+15 s"),
        (["--time", "-1s"], "'-1s' is not a duration: it is negative"),
        (["--energy", "-.5kJ"], "'-.5kJ' is not an energy: it is negative"),
        (["--checkpoint-every", "-1min"], "it is negative"),
        (["--keep-ratio", "9.9.9"], "'9.9.9' is neither `auto` nor a number"),
    ],
    ids=lambda value: value[0] + value[1][:12] if isinstance(value, list) else "",
)
def test_a_number_out_of_its_range_is_refused(
    words: list[str], tmp_path, capsys, flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, *flags])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {flags[0]}: " in error
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ratio", ["nan", "1e400", "-0.5", "0", "1.01"])
def test_a_keep_ratio_is_a_share(words: list[str], capsys, ratio: str) -> None:
    assert main([*words, "--keep-ratio", ratio]) == 2
    assert "is outside (0, 1]" in capsys.readouterr().err


def test_a_limit_of_zero_is_refused(words: list[str], capsys) -> None:
    assert main([*words, "--time", "0s"]) == 2
    assert "--time is 0; a limit must be above zero" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["x" * 36, "y" * 70, "no.such.host.invalid", "1.2.3.4.5"])
def test_an_address_that_nobody_has_is_refused(words: list[str], capsys, address: str) -> None:
    pytest.importorskip("prometheus_client", reason="serves metrics")
    flags = ["--metrics-port", "45678", "--metrics-address", address]
    assert main([*words, *flags]) == 2
    assert f"cannot listen on {address}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan", "profile"])
def test_an_unknown_device_is_a_wrong_flag(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys, command: str
) -> None:
    monkeypatch.undo()  # the engines as they are
    given = words if command == "run" else [command, words[1]]
    more = ["--images", "20"] if command == "plan" else []
    assert main([*given, *more, "--device", "quantum"]) == 2
    assert "unknown device 'quantum'; known are cpu, webgpu" in capsys.readouterr().err


@given(st.integers(), st.integers(-10, 10), st.integers(0, 100))
def test_a_range_holds_its_ends_and_nothing_else(number: int, low: int, size: int) -> None:
    low = max(low, 0)
    read = whole(low, low + size)
    if low <= number <= low + size:
        assert read(str(number)) == number
    else:
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number"):
            read(str(number))


def test_a_billion_epochs_start_like_ten(tmp_path) -> None:
    package = write_package(tmp_path / "package")
    with pytest.raises(StoppedError, match="stopped after step 3 of 5000000000"):
        run_to_the_end(package, tmp_path / "warm-up", epochs=10**9, stop=stop_after(3))
    begin_s = time.process_time()
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", epochs=10**9, stop=stop_after(3))
    assert time.process_time() - begin_s < SOON_S
    # And like that it is continued.
    changed = options(epochs=10**9, stop=stop_after(3), resume=True)
    with pytest.raises(StoppedError, match="stopped after step 6 of"):
        list(train(package, FakePictures(), tmp_path / "run", changed))


@pytest.mark.parametrize("steps", [10**6, 10**14])
def test_planning_takes_no_longer_for_more_steps(steps: int) -> None:
    epoch = Workload(costs=LADDER, steps=10**3, overhead=FREE)
    budgets = [
        Budget(time_s=0.1 * steps),
        Budget(energy_j=1.2 * steps),
        Budget(time_s=0.15 * steps, power_w=9.7),
    ]
    begin_s = time.process_time()
    for budget in budgets:
        assert make_plan(LADDER, budget, steps=steps, overhead=FREE).steps == steps
        assert auto_epochs(epoch, budget).epochs >= steps // 2500
    assert time.process_time() - begin_s < SOON_S
