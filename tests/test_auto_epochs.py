"""`train_within` with `epochs=None`: the budget decides, a resumed run keeps its number."""

from dataclasses import replace

import pytest
import test_within_budget
from measuring_fakes import environment
from simulated_board import rung_cost
from test_cli_run import write_pictures
from test_within_budget import HOUR, profile_of, train_within
from training_fakes import kinds, stop_after

from edge_runtime import within_budget
from edge_runtime.cli.main import main
from edge_runtime.errors import BudgetError, ConfigError, StoppedError
from edge_runtime.facts import Budget
from edge_runtime.profiling import for_run, save_profile
from edge_runtime.records import events, open_run

package = test_within_budget.package
# An epoch is five steps: on k100 it takes 5 s, and the overhead is next to nothing.
COSTS = (rung_cost("k100", 80, 1.0, 10.0), rung_cost("k050", 48, 0.9, 10.0))


@pytest.fixture
def measured(package) -> None:
    """The cached costs of that package: a board with very slow steps."""
    profile = profile_of(package, rungs=COSTS)
    save_profile(profile, environment().cached_profile_path(package))


@pytest.fixture
def nothing_measured(monkeypatch) -> None:
    def measure(*_, **__):
        raise AssertionError("this takes minutes")

    monkeypatch.setattr(for_run, "profile_package", measure)


def test_the_budget_decides_the_number_of_epochs(package, measured, tmp_path) -> None:
    reports: list[str] = []
    yielded = train_within(
        package,
        tmp_path / "run",
        budget=Budget(time_s=18.5),
        epochs=None,
        report=reports.append,
    )
    info = open_run(tmp_path / "run").info
    assert (info.settings.epochs, info.steps_per_epoch, info.total_steps) == (3, 5, 15)
    assert reports == [
        "--epochs auto: 3 epochs of 5 steps within --time 18.5s; 4 would keep fewer "
        "token-blocks"
    ]
    assert len(kinds(yielded, events.StepRecord)) == 15
    assert yielded[-1].stopped_by is None


def test_the_command_says_what_the_budget_gives(package, tmp_path, capsys) -> None:
    # The budget counts from the start of this process, which may have run for minutes.
    profile = profile_of(package, rungs=(rung_cost("k100", 80, 200.0, 10.0),))
    save_profile(profile, environment().cached_profile_path(package))
    write_pictures(tmp_path / "pictures")
    words = ["run", str(package.path), str(tmp_path / "pictures"), "--epochs", "auto"]
    words += ["--rung", "k100"]
    assert main([*words, "-o", str(tmp_path / "run"), "--time", "5h"]) == 0
    epochs = open_run(tmp_path / "run").info.settings.epochs
    assert epochs > 1
    assert f"edge-train: --epochs auto: {epochs} epochs of" in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "none"), "--power", "60W"]) == 2
    assert "--epochs auto needs --time or --energy" in capsys.readouterr().err


def test_with_a_chosen_rung_it_is_as_many_as_fit_on_it(package, measured, tmp_path) -> None:
    train_within(
        package, tmp_path / "run", budget=Budget(time_s=18.5), epochs=None, rungs=["k050"]
    )
    assert open_run(tmp_path / "run").info.settings.epochs == 4


def test_a_resumed_run_keeps_its_number(package, measured, nothing_measured, tmp_path) -> None:
    budget = Budget(time_s=18.5)
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", budget=budget, epochs=None, stop=stop_after(4))
    reports: list[str] = []
    more = {"epochs": None, "resume": True, "report": reports.append}
    yielded = train_within(package, tmp_path / "run", budget=HOUR, **more)
    assert yielded[-1].steps == open_run(tmp_path / "run").info.total_steps == 15
    assert reports == []
    # It is not decided again, so a finished run needs no limit.
    assert train_within(package, tmp_path / "run", **more)[-1].steps == 15
    with pytest.raises(ConfigError, match="epochs: the run has 3, this command asks for 2"):
        train_within(package, tmp_path / "run", budget=HOUR, epochs=2, resume=True)


def test_a_run_that_does_not_exist_yet_can_be_resumed(package, measured, tmp_path) -> None:
    budget = Budget(time_s=18.5)
    train_within(package, tmp_path / "run", budget=budget, epochs=None, resume=True)
    assert open_run(tmp_path / "run").info.settings.epochs == 3


@pytest.mark.parametrize("budget", [Budget(), Budget(memory_bytes=1 << 40)])
def test_without_time_or_energy_nothing_is_measured(
    package, nothing_measured, tmp_path, budget
) -> None:
    with pytest.raises(ConfigError, match="--epochs auto needs --time or --energy"):
        train_within(package, tmp_path / "run", budget=budget, epochs=None)


def test_no_epoch_is_still_an_error(package, measured, tmp_path) -> None:
    with pytest.raises(ConfigError, match="epochs is 0; train 1 or more"):
        train_within(package, tmp_path / "run", budget=HOUR, epochs=0)


def test_less_than_an_epoch_is_refused(package, measured, tmp_path) -> None:
    message = (
        r"no plan of 1 epoch \(5 steps\) fits --time 3s: .* --time 4\.\d+s\. This one allows "
        r"3 steps, less than an epoch of 5: shorten it with --images\."
    )
    with pytest.raises(BudgetError, match=message):
        train_within(package, tmp_path / "run", budget=Budget(time_s=3.0), epochs=None)
    assert not (tmp_path / "run").exists()


def test_a_given_number_that_does_not_fit_names_the_one_that_does(
    package, measured, tmp_path
) -> None:
    message = (
        r"no plan of 9 epochs .* This one gives 3 epochs with `--epochs auto`; on one rung"
    )
    with pytest.raises(BudgetError, match=message):
        train_within(package, tmp_path / "run", budget=Budget(time_s=18.5), epochs=9)


def test_time_that_measuring_takes_is_not_left_for_epochs(
    package, tmp_path, monkeypatch
) -> None:
    """As if the 20 s of measuring had passed: the clock of the run is 20 s further."""
    spent, is_later = within_budget.Metering.spent, False

    def measure(*_, **__):
        nonlocal is_later
        is_later = True
        return profile_of(package, rungs=COSTS)

    def later(self, now_s):
        totals = spent(self, now_s)
        if not is_later:
            return totals
        return replace(totals, time_s=totals.time_s + 20, energy_j=totals.energy_j + 200)

    monkeypatch.setattr(for_run, "profile_package", measure)
    monkeypatch.setattr(within_budget.Metering, "spent", later)
    for name, budget in (("time", Budget(time_s=38.5)), ("energy", Budget(energy_j=385))):
        is_later = False
        train_within(package, tmp_path / name, budget=budget, epochs=None)
        assert open_run(tmp_path / name).info.settings.epochs == 3
        environment().cached_profile_path(package).unlink()
