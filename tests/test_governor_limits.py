"""Other limits of governed runs: mean power, temperature, memory."""

import itertools
import re
from dataclasses import replace

import pytest
from simulated_board import (
    LADDER,
    OVERHEAD,
    Board,
    Total,
    assert_kept,
    best_in_hindsight,
    rung_cost,
    simulate,
    true_costs,
)

from edge_runtime.facts import Budget
from edge_runtime.planning import Governor, Reading
from edge_runtime.planning.mix import Workload, best_mix
from edge_runtime.planning.throttle import Throttle

STEPS = 1500
COOLER = (  # lower rungs draw less
    rung_cost("k100", 400, 0.20, 10.0),
    rung_cost("k075", 300, 0.16, 8.0),
    rung_cost("k050", 200, 0.12, 6.0),
)


# Mean power


@pytest.mark.parametrize(
    ("budget", "board"),
    [
        (Budget(power_w=8), Board()),
        (Budget(power_w=5), Board(noise=0.2)),
        (Budget(power_w=8), Board(power_ratio=lambda step: 1.0 if step < 300 else 1.5)),
        (Budget(power_w=8, time_s=130), Board()),
        (Budget(power_w=8, energy_j=900), Board()),
        (Budget(power_w=8), Board(idle_w=4.5)),  # more than the profile says
    ],
)
def test_a_mean_power_is_kept_by_pauses(budget, board) -> None:
    steps = 600
    outcome = simulate(budget, steps, board=board)
    assert_kept(outcome, budget, dearest=1.5)
    assert outcome.steps == steps
    assert outcome.paused_s > 0.05 * outcome.time_s
    pauses = [decision for decision in outcome.decisions if decision.kind == "pause"]
    assert len(pauses) <= 2 + outcome.time_s / 8  # long ones, not one for every step
    assert all("idle to stay below --power" in pause.reason for pause in pauses)
    overhead = replace(OVERHEAD, idle_w=board.idle_w)
    workload = Workload(
        costs=true_costs(LADDER, board, steps - 1), steps=steps, overhead=overhead
    )
    assert outcome.token_blocks >= 0.93 * best_mix(workload, budget).token_blocks


def test_a_power_that_is_never_reached_costs_nothing() -> None:
    outcome = simulate(Budget(power_w=11), 300)
    assert outcome.paused_s == 0
    assert set(outcome.rungs) == {"k100"}


@pytest.mark.parametrize("profiled_w", [3.0, 6.0])
def test_a_board_that_idles_above_the_limit_stops(profiled_w) -> None:
    overhead = replace(OVERHEAD, idle_w=profiled_w)
    outcome = simulate(Budget(power_w=5), 300, overhead=overhead, board=Board(idle_w=6.0))
    assert outcome.stopped_by == "power"
    assert re.match(
        r"3\d min \d+ s of idling did not help: a mean", outcome.decisions[-1].reason
    )
    assert outcome.time_s < 2000
    assert len(outcome.decisions) < 100  # long pauses


def test_only_pauses_without_a_step_between_them_count_as_useless() -> None:
    slow = [replace(cost, step_s=5.0, step_j=50.0) for cost in LADDER[:1]]
    outcome = simulate(Budget(power_w=8), 400, costs=slow)
    assert outcome.time_s > 2000
    assert outcome.stopped_by is None


@pytest.mark.parametrize(("steps", "pauses"), [(1000, False), (300, True)])
def test_a_start_at_high_power_is_compensated_by_training(steps, pauses) -> None:
    overhead = replace(OVERHEAD, startup_s=10.0, startup_j=200.0)
    budget = Budget(power_w=11)
    outcome = simulate(budget, steps, overhead=overhead)
    assert_kept(outcome, budget)
    assert (outcome.paused_s > 0) == pauses


def test_a_long_pause_ends_before_the_time_is_up() -> None:
    for time_s in (60, 70, 80):
        outcome = simulate(Budget(power_w=3.4, time_s=time_s), 300)
        assert outcome.stopped_by == "time"
        assert outcome.mean_w <= 3.4
        assert outcome.time_s <= time_s + 0.05  # the noise of a step


# Heat


def test_an_unknown_temperature_does_not_raise_the_ceiling() -> None:
    throttle = Throttle(COOLER[::-1], Budget(temperature_c=60))
    power_w = {cost.rung: cost.power_w for cost in COOLER}
    throttle.watch(0.0, "k100", Reading(temperature_c=59.5), power_w)
    assert [cost.rung for cost in throttle.allowed] == ["k050", "k075"]
    throttle.watch(1000.0, "k075", Reading(temperature_c=None), power_w)
    assert [cost.rung for cost in throttle.allowed] == ["k050", "k075"]
    throttle.watch(1001.0, "k075", Reading(temperature_c=50.0), power_w)
    assert [cost.rung for cost in throttle.allowed] == ["k050", "k075", "k100"]


def test_leaving_a_rung_for_memory_does_not_raise_the_ceiling_of_heat() -> None:
    """The hot board is on k050 of four rungs; k075 and k100 need less memory than it."""
    costs = [
        replace(cost, peak_bytes=peak_bytes)
        for cost, peak_bytes in zip(COOLER[::-1], (900, 500, 500), strict=True)
    ]
    throttle = Throttle(costs, Budget(temperature_c=60, memory_bytes=1000))
    power_w = {"k050": 6.0, "k075": 9.0, "k100": 10.0}
    throttle.watch(0.0, "k100", Reading(temperature_c=61.0), power_w)
    assert [cost.rung for cost in throttle.allowed] == ["k050"]
    throttle.watch(30.0, "k050", Reading(temperature_c=61.0, held_bytes=1001), power_w)
    assert throttle.allowed == []


def test_a_rung_without_memory_is_excluded_with_those_that_are_not_smaller() -> None:
    """By predictions, since of a GPU's memory the process shows nothing; for good."""
    costs = [
        replace(cost, peak_bytes=500, predicted_peak_bytes=predicted)
        for cost, predicted in zip(COOLER[::-1], (300, None, 400), strict=True)
    ]
    throttle = Throttle(costs, Budget(temperature_c=60))
    assert throttle.exclude("k100", "it is full")
    assert [cost.rung for cost in throttle.allowed] == ["k050"]
    assert throttle.reason == "it is full"
    throttle.watch(1000.0, "k050", Reading(temperature_c=20.0), {})
    assert [cost.rung for cost in throttle.allowed] == ["k050"]
    assert not throttle.exclude("k050", "it is full")
    assert throttle.allowed == []


@pytest.mark.parametrize(("limit_c", "time_s"), [(55, None), (55, 373), (50, 388)])
def test_a_temperature_is_kept_by_pauses(limit_c, time_s) -> None:
    """All rungs draw nearly the same, so that a lower one would not be cooler."""
    budget = Budget(temperature_c=limit_c, time_s=time_s)
    outcome = simulate(budget, STEPS)
    assert outcome.hottest_c <= limit_c + 0.5
    assert_kept(outcome, budget)
    assert outcome.steps == STEPS  # the time for pauses was planned
    lasting = Budget(
        power_w=(limit_c - 25) / 4, time_s=time_s
    )  # that it can dissipate permanently
    assert outcome.token_blocks >= 0.85 * best_in_hindsight(lasting, STEPS, Board())
    pauses = [decision for decision in outcome.decisions if decision.kind == "pause"]
    reason = f"idle from --temperature {limit_c}C down to {limit_c - 3:.1f} C"
    assert {pause.reason for pause in pauses} == {reason}


def test_idling_to_cool_down_takes_energy() -> None:
    budget = Budget(temperature_c=45, energy_j=2200)
    outcome = simulate(budget, STEPS)
    assert_kept(outcome, budget)
    assert outcome.steps == STEPS
    assert outcome.paused_s * 3.0 > 0.15 * budget.energy_j


def test_pauses_to_cool_down_have_hysteresis() -> None:
    outcome = simulate(Budget(temperature_c=55), STEPS)
    kinds = [decision.kind for decision in outcome.decisions]
    bursts = [len(list(group)) for kind, group in itertools.groupby(kinds) if kind == "pause"]
    assert len(bursts) >= 3
    assert min(bursts) >= 4  # seconds, for three degrees


def test_a_rung_that_draws_less_is_used_when_it_is_warm() -> None:
    outcome = simulate(Budget(temperature_c=59), STEPS, costs=COOLER)
    assert outcome.hottest_c <= 59.5
    down = next(d for d in outcome.decisions if d.kind == "switch" and d.rung != "k100")
    assert re.match(r"58\.\d C is close to --temperature 59C: ", down.reason)
    assert down.rung == "k075"
    assert outcome.paused_s == 0
    assert outcome.switches <= 4 + outcome.time_s / 60
    assert "k050" not in outcome.rungs  # k075 is cool enough


def test_it_steps_up_again_only_when_it_is_cool() -> None:
    governor = Governor(COOLER, Budget(temperature_c=60), steps=1000, overhead=OVERHEAD)
    rungs = []
    course_c = [59.5] * 30 + [57.5] * 60 + [56.5] * 90
    for second, temperature_c in enumerate(course_c):  # a step takes one
        total = Total(time_s=float(second), energy_j=None)
        reading = Reading(temperature_c=temperature_c)
        rungs.append(governor.decide(second, float(second), total, reading).rung)
    assert rungs[0] == "k100"
    assert rungs[1] == "k075"  # at once
    assert rungs[29] == rungs[89] == "k050"  # it had its time; and 57.5 is too warm
    assert rungs[179] == "k100"
    switches = sum(rungs[s] != rungs[s - 1] for s in range(1, 180))
    assert switches == 4


@pytest.mark.parametrize(("costs", "lower"), [(COOLER, "k075"), (LADDER, "k100")])
def test_a_throttled_board_gets_a_rung_that_draws_less_if_possible(costs, lower) -> None:
    governor = Governor(costs, Budget(time_s=5000), steps=1000, overhead=OVERHEAD)
    total = Total(time_s=1.0, energy_j=None)
    assert governor.decide(0, 0.0, total, Reading(throttled=False)).rung == "k100"
    decision = governor.decide(1, 1.0, total, Reading(throttled=True))
    assert decision.rung == lower
    if lower != "k100":
        assert decision.reason.startswith("the board is throttled: ")


def test_a_board_that_stays_hot_stops() -> None:
    outcome = simulate(Budget(temperature_c=30), 300, board=Board(ambient_c=28))
    assert outcome.stopped_by == "temperature"
    assert outcome.steps <= 1
    assert (
        "of idling did not help: idle from --temperature 30C" in outcome.decisions[-1].reason
    )


def test_a_pause_ends_before_the_time_is_up() -> None:
    budget = Budget(temperature_c=30, time_s=100)
    outcome = simulate(budget, 300, board=Board(ambient_c=28))
    assert outcome.stopped_by == "time"
    assert outcome.time_s <= 100 + 1e-6


# Memory


def test_memory_pressure_selects_a_smaller_rung_for_a_while() -> None:
    board = Board(pressure=lambda step: 30.0 if 200 <= step < 300 else 0.0)
    outcome = simulate(Budget(time_s=1000), STEPS, board=board)
    assert set(outcome.rungs[:200]) == {"k100"}
    down = next(d for d in outcome.decisions if d.kind == "switch" and d.rung == "k075")
    assert down.reason.startswith("programs wait for memory 30% of the time: ")
    assert outcome.rungs[201] == "k075"
    assert set(outcome.rungs[-500:]) == {"k100"}
    assert outcome.switches <= 6


def test_under_pressure_a_rung_that_needs_the_same_is_not_used() -> None:
    same = replace(LADDER[1], peak_bytes=LADDER[0].peak_bytes)
    costs = (LADDER[0], same, *LADDER[2:])
    governor = Governor(costs, Budget(time_s=5000), steps=1000, overhead=OVERHEAD)
    total = Total(time_s=1.0, energy_j=None)
    assert governor.decide(0, 0.0, total, Reading(memory_pressure=0.0)).rung == "k100"
    assert governor.decide(1, 1.0, total, Reading(memory_pressure=15.0)).rung == "k050"


def test_repeated_pressure_slows_down_stepping_up() -> None:
    board = Board(pressure=lambda step: 30.0 if step % 100 < 5 else 0.0)
    outcome = simulate(Budget(), 6000, board=board)
    assert outcome.switches <= 20


def test_a_rung_that_needs_more_than_the_budget_is_excluded() -> None:
    used = {"k100": 430_000_000}
    board = Board(rss_bytes=lambda rung: used.get(rung, 300_000_000))
    budget = Budget(memory_bytes=425_000_000)
    outcome = simulate(budget, 400, board=board)
    assert outcome.rungs[0] == "k100"
    assert set(outcome.rungs[1:]) == {"k075"}
    (down,) = (d for d in outcome.decisions if d.kind == "switch" and d.rung == "k075")
    assert down.reason.startswith("410.1 MiB is over --memory 405.4MiB: ")


def test_above_the_memory_budget_on_the_smallest_rung_it_ends() -> None:
    board = Board(rss_bytes=lambda rung: 600_000_000)
    outcome = simulate(Budget(memory_bytes=500_000_000), STEPS, board=board)
    assert outcome.stopped_by == "memory"
    assert outcome.decisions[-1].reason == "572.2 MiB is over --memory 476.9MiB"
    assert set(outcome.rungs) == {"k100", "k075", "k050", "k025"}


def test_a_neighbour_that_takes_memory_causes_a_smaller_rung_until_it_has_gone() -> None:
    board = Board(room_bytes=lambda step: 250_000_000 if 200 <= step < 400 else 10**9)
    outcome = simulate(Budget(time_s=1000), STEPS, board=board)
    assert set(outcome.rungs[:200]) == {"k100"}
    assert set(outcome.rungs[200:400]) == {"k050"}  # at once: k075 needs 286 MiB
    (down,) = (d for d in outcome.decisions if d.kind == "switch" and d.rung == "k050")
    assert down.reason.startswith("other programs leave only 238.4 MiB of memory to it: ")
    assert set(outcome.rungs[-500:]) == {"k100"}
    assert outcome.steps == STEPS


def test_free_memory_that_is_nearly_enough_does_not_raise_the_rung() -> None:
    """410 MB are enough for the 400 MB of k100, but not with its margin."""
    board = Board(room_bytes=lambda step: 390_000_000 if step == 200 else 410_000_000)
    outcome = simulate(Budget(time_s=1000), STEPS, board=board)
    assert set(outcome.rungs[:200]) == {"k100"}
    assert set(outcome.rungs[200:]) == {"k075"}


def test_a_neighbour_that_takes_all_memory_ends_the_run_before_the_kernel_does() -> None:
    board = Board(room_bytes=lambda step: 50_000_000 if step >= 200 else 10**9)
    outcome = simulate(Budget(time_s=1000), STEPS, board=board)
    assert outcome.stopped_by == "memory"
    assert set(outcome.rungs[200:]) == {"k025"}
    assert 200 < outcome.steps < 260
    assert outcome.decisions[-1].reason.startswith("other programs leave only 47.7 MiB")


def test_a_single_low_reading_does_not_end_the_run() -> None:
    board = Board(room_bytes=lambda step: 50_000_000 if step % 400 == 200 else 10**9)
    outcome = simulate(Budget(time_s=1000), STEPS, board=board)
    assert outcome.steps == STEPS


def test_rungs_that_do_not_fit_beside_one_that_does_are_not_used() -> None:
    """The second needs least: it is not the one with the fewest token-blocks."""
    costs = [
        replace(cost, peak_bytes=peak_bytes)
        for cost, peak_bytes in zip(COOLER[::-1], (700, 500, 900), strict=True)
    ]
    throttle = Throttle(costs, Budget())
    power_w = {cost.rung: cost.power_w for cost in COOLER}
    throttle.watch(0.0, "k100", Reading(room_bytes=600), power_w)
    assert [cost.rung for cost in throttle.allowed] == ["k075"]
