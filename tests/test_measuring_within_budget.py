"""Measuring before a run takes a tenth of its budget at most."""

import time

import pytest
from measuring_fakes import environment, prepare
from test_within_budget import train_within
from training_fakes import FakeEngine

from edge_runtime import within_budget
from edge_runtime.device import Meter
from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget
from edge_runtime.profiling import profile_package

SLOW = (
    "time.sleep({}); measured(step_s=0.001, step_j=0.015, watched_s=0.1, startup_s=0.1, "
    "switch_s=0.0)"
)


@pytest.fixture
def processes(tmp_path, monkeypatch):
    monkeypatch.setattr(within_budget, "create_engine", lambda *_, **__: FakeEngine())
    return prepare(tmp_path, monkeypatch)


def test_measuring_takes_a_tenth_of_the_time_and_is_continued_by_the_next_run(
    package, processes, tmp_path
) -> None:
    processes.do(k100=SLOW.format(0.5), k050=SLOW.format(0.5))
    reports: list[str] = []
    budget = Budget(time_s=40.0)
    *_, finished = train_within(
        package, tmp_path / "run", budget=budget, report=reports.append
    )
    assert finished.spent.time_s < 6.0
    assert finished.steps == 10
    measured = [job["rung"] for job in processes.jobs]
    assert measured[:2] == ["k050", "k100"]
    assert len(measured) < 6
    (kept,) = [report for report in reports if "This is kept" in report]
    assert kept.startswith("there was time and memory to measure k100, k050. This is kept")
    for number in range(5):
        train_within(package, tmp_path / f"{number}", budget=budget)
    assert environment().cached_profile_path(package).exists()
    assert len(processes.jobs) == 6  # each three times, over all runs


@pytest.mark.parametrize("limit", [Budget(time_s=20.0), Budget(energy_j=200.0)], ids=str)
def test_a_rung_without_time_left_is_estimated(package, processes, tmp_path, limit) -> None:
    """At 10 W, a tenth are 2 s."""
    processes.do(k050=SLOW.format(1.6), k100=SLOW.format(1.6))
    reports: list[str] = []
    yielded = train_within(package, tmp_path / "run", budget=limit, report=reports.append)
    assert [job["rung"] for job in processes.jobs] == ["k050"]
    assert yielded[-1].spent.time_s < 5.0
    (planned,) = [event for event in yielded if type(event).__name__ == "Planned"]
    verdicts = {each.rung: each for each in planned.plan.verdicts}
    assert verdicts["k100"].source == "extrapolated"
    flops = [package.rung(rung).flops for rung in ("k100", "k050")]
    assert verdicts["k100"].step_s == pytest.approx(0.001 * flops[0] / flops[1])


def test_measuring_that_takes_far_too_long_is_refused_and_ended(
    package, processes, tmp_path
) -> None:
    processes.do(k050="time.sleep(60)", k100="time.sleep(60)")
    begin_s = time.monotonic()
    with pytest.raises(
        BudgetError, match=r"measuring k050 alone takes more than (2|1\.\d+) s, .*PKG`\."
    ):
        train_within(package, tmp_path / "run", budget=Budget(time_s=10.0))
    assert time.monotonic() - begin_s < 5.0
    assert processes.are_gone()


def test_a_budget_that_is_over_before_measuring_begins_says_so(
    package, processes, tmp_path
) -> None:
    processes.do(k050="time.sleep(60)", k100="time.sleep(60)")
    message = r"this budget was used up before k050 could be measured\. Measure .*PKG`\."
    with pytest.raises(BudgetError, match=message):
        train_within(package, tmp_path / "run", budget=Budget(time_s=1e-9))
    assert processes.are_gone()


def test_a_refusal_after_measuring_names_the_epochs_that_fit(
    package, processes, tmp_path
) -> None:
    costs = "measured(step_s=2.0, watched_s=0.1, startup_s=0.1, switch_s=0.0)"
    processes.do(k050=costs, k100=costs)
    message = (
        r"no plan of 2 epochs \(10 steps\) .* This one gives 1 epoch with `--epochs auto`;"
    )
    with pytest.raises(BudgetError, match=message):
        train_within(package, tmp_path / "run", budget=Budget(time_s=15.0))


def test_the_time_per_rung_is_a_limit_over_all_repetitions(package, processes) -> None:
    """A step takes 9 of the 10 s: there is no time for a second one."""
    slow = "measured(step_s=9.0, watched_s=9.0)"
    processes.do(k050=slow, k100=slow)
    with Meter(None) as meter:
        found = profile_package(package, environment(), meter, max_s=10.0)
    assert [job["rung"] for job in processes.jobs] == ["k050", "k100"]
    assert {cost.source for cost in found.rungs} == {"measured"}
