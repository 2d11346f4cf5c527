"""What a run is doing, as the fold of its records says it."""

import itertools
from dataclasses import replace

import pytest
from facts_examples import PLAN
from hypothesis import given, settings
from hypothesis import strategies as st
from live_runs import DIVERGED, FINISHED, LOST, RUNG, STOPPED, resumed, status_of, step

from edge_runtime.facts import Budget
from edge_runtime.live import Pace
from edge_runtime.records import events
from edge_runtime.records.spending import Spending


def test_nothing_is_known_in_advance() -> None:
    status = status_of()
    assert (status.steps_done, status.images_done, status.spent_s) == (0, 0, 0.0)
    unknown = [status.last_step, status.rss_bytes, status.sample, status.rung, status.ended]
    unknown += [status.spent_j, status.mean_w, status.power_w, status.left_s]
    assert unknown == [None] * 9


def test_steps_say_how_far_it_is() -> None:
    status = status_of(*(step(number, 2.0 * number) for number in range(1, 5)))
    assert (status.steps_done, status.images_done, status.rss_bytes) == (4, 16, 2 << 20)
    assert status.pace.images_per_s == pytest.approx(2.0)
    assert status.left_s == pytest.approx(12.0)


def test_memory_is_that_of_the_last_step_that_knew_it() -> None:
    unknown = step(2, 2.0)
    unknown = replace(unknown, measured=replace(unknown.measured, rss_bytes=None))
    assert status_of(step(1, 1.0), unknown).rss_bytes == 2 << 20


def test_a_resumed_run_goes_on_where_the_checkpoint_is() -> None:
    status = status_of(step(8, 8.0), STOPPED, resumed(4))
    assert (status.steps_done, status.ended) == (4, None)
    status.add_step(step(5, 1.0, process=2))
    assert status.steps_done == 5


@pytest.mark.parametrize("ending", [FINISHED, STOPPED, LOST, DIVERGED], ids=lambda e: type(e))
def test_an_ending_is_known_and_nothing_is_left(ending) -> None:
    status = status_of(step(3, 3.0), ending)
    assert (status.ended, status.left_s) == (ending, None)


def test_a_finished_run_has_its_own_account() -> None:
    status = status_of(FINISHED)
    status.spending.add(1, 10.0, 7.0)
    assert (status.spent_s, status.spent_j, status.mean_w) == (12.5, 50.0, 4.0)
    assert status_of(STOPPED).finished is None


def test_a_lost_sensor_is_lost_until_it_is_back() -> None:
    lost = events.SensorLost(step=3, sensor="jtop", reason="gone")
    back = events.SensorBack(step=5, sensor="jtop", gap_s=2.0)
    assert status_of(lost).sensor_lost == lost
    assert status_of(lost, back).sensor_lost is None
    assert status_of(lost, resumed(3)).sensor_lost is None


def test_a_resumed_run_has_no_rung_before_its_first_step() -> None:
    """That of the process before may have been lost with its steps."""
    status = status_of(RUNG, step(1, 1.0), resumed(0))
    assert (status.rung, status.rss_bytes, status.last_step) == (None, None, None)


def test_of_pauses_in_a_row_the_newest_is_news() -> None:
    pauses = [events.Paused(step=n, pause_s=1.0, reason=f"{n} W") for n in (3, 4)]
    news = [logged.event for logged in status_of(pauses[0], RUNG, *pauses).news]
    assert news == [pauses[0], RUNG, pauses[1]]


def test_a_resumed_run_may_have_another_budget() -> None:
    planned = events.Planned(step=4, budget=Budget(energy_j=900.0, time_s=60.0), plan=PLAN)
    assert status_of().budget.energy_j == 500.0
    assert status_of(planned).budget.energy_j == 900.0
    assert status_of(planned).budget.time_s == 60.0


def test_an_estimate_is_marked_by_whoever_knows_it() -> None:
    later = replace(FINISHED, spent=replace(FINISHED.spent, energy_is_estimate=True))
    assert status_of(power_is_estimate=True).is_estimate
    assert status_of(later).is_estimate
    assert not status_of(FINISHED).is_estimate


def test_the_last_events_are_news_but_not_the_many_small_ones() -> None:
    epoch = events.EpochFinished(step=5, epoch=0, mean_loss=2.5)
    status = status_of(*[RUNG] * 60, epoch, STOPPED)
    assert len(status.news) == 50
    assert [logged.event for logged in status.news][-2:] == [RUNG, STOPPED]
    assert status.epoch_loss == 2.5


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace(1000)
    assert (pace.images_per_s, pace.left_s) == (None, None)
    for number in range(1, 301):  # ten a second, then one a second
        pace.follow(step(number, 0.1 * number))
    for number in range(301, 401):
        pace.follow(step(number, 30.0 + number - 300))
    assert pace.step_s == pytest.approx(1.0, rel=0.05)
    assert pace.left_s == pytest.approx(600, rel=0.05)


def test_time_between_steps_counts() -> None:
    """A pause for the mean power is a part of how long the run takes."""
    pace = Pace(10)
    pace.follow(step(1, 1.0))
    pace.follow(step(2, 6.0))
    assert pace.step_s == 5.0


def test_the_first_step_counts_while_it_is_alone() -> None:
    pace = Pace(10)
    pace.follow(step(1, 30.0))
    assert pace.step_s == 0.75  # inside the engine and waiting


def test_another_process_has_another_clock() -> None:
    pace = Pace(10)
    pace.follow(step(5, 100.0))
    pace.follow(step(5, 1.0, process=2))
    pace.follow(step(6, 3.0, process=2))
    assert pace.step_s == 2.0


def test_joules_are_those_of_the_newest_sample_that_has_them() -> None:
    spending = Spending()
    assert spending.energy_j is None
    for t_s, joules in [(2.0, 8.0), (3.0, 14.0), (5.0, None)]:
        spending.add(1, t_s, joules)
    assert (spending.energy_j, spending.time_s) == (14.0, 5.0)


def test_a_process_without_a_known_power_makes_the_sum_unknown() -> None:
    spending = Spending()
    spending.add(1, 2.0, None)
    spending.add(2, 3.0, 5.0)
    assert (spending.energy_j, spending.time_s) == (None, 5.0)


a_sample = st.tuples(st.floats(0.01, 5), st.none() | st.floats(0, 60))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(a_sample, min_size=1, max_size=6), min_size=1, max_size=4))
def test_spending_is_the_sum_of_the_last_known_of_each_process(processes) -> None:
    """The budget of a resumed run counts what this says of the processes before."""
    spending, want_s, want_j = Spending(), 0.0, []
    for process, samples in enumerate(processes, start=1):
        times_s = list(itertools.accumulate(passed_s for passed_s, _ in samples))
        for t_s, (_, joules) in zip(times_s, samples, strict=True):
            spending.add(process, t_s, joules)
        known = [joules for _, joules in samples if joules is not None]
        want_s, want_j = want_s + times_s[-1], [*want_j, known[-1] if known else None]
    assert spending.process == len(processes)
    assert spending.time_s == pytest.approx(want_s)
    if None in want_j:
        assert spending.energy_j is None
    else:
        assert spending.energy_j == pytest.approx(sum(want_j))
