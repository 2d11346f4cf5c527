"""Governed runs on a simulated board: the budget is kept, and little of it remains."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simulated_board import (
    LADDER,
    OVERHEAD,
    Board,
    Outcome,
    Total,
    assert_kept,
    best_in_hindsight,
    simulate,
    true_costs,
)

from edge_runtime.errors import BudgetError, DeviceError
from edge_runtime.facts import Budget
from edge_runtime.planning import Governor, Reading
from edge_runtime.planning.mix import Workload, best_mix

STEPS = 1500
KEPT = {cost.rung: cost.token_blocks for cost in LADDER}


def best_low_first(budget: Budget, board: Board) -> int:
    """The same for costs that change: of all schedules of one rung and then a higher one."""
    costs = [true_costs(LADDER, board, step) for step in range(STEPS)]
    sums = {}  # of the first n steps on each rung
    for name in ("step_s", "step_j", "token_blocks"):
        values = np.array([[getattr(cost, name) for cost in now] for now in costs])
        sums[name] = np.vstack([np.zeros(len(LADDER)), values.cumsum(axis=0)])
    best = 0.0
    for high, low in itertools.combinations_with_replacement(range(len(LADDER)), 2):
        total = {n: c[:, low] + c[-1, high] - c[:, high] for n, c in sums.items()}
        fits = total["step_s"] + 2.9 <= (budget.time_s or math.inf)
        fits &= total["step_j"] + 18.2 <= (budget.energy_j or math.inf)
        best = max(best, total["token_blocks"][fits].max(initial=0.0))
    return int(best)


BUDGETS = [
    Budget(time_s=150),
    Budget(time_s=220),
    Budget(energy_j=1600),
    Budget(energy_j=2500),
    Budget(time_s=220, energy_j=2000),
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.3])
def test_wrong_costs_are_learnt(budget, ratio) -> None:
    board = Board(time_ratio=lambda step: ratio, noise=0.05)
    outcome = simulate(budget, STEPS, board=board)
    assert_kept(outcome, budget, dearest=ratio)
    assert outcome.steps == STEPS
    assert outcome.stopped_by is None
    assert outcome.token_blocks >= 0.93 * best_in_hindsight(budget, STEPS, board)
    assert outcome.switches <= 3


@pytest.mark.parametrize(
    ("budget", "board"),
    [
        (Budget(time_s=220), Board(time_ratio=lambda step: 1.0 if step < 700 else 2.0)),
        (Budget(time_s=250), Board(time_ratio=lambda step: 2.0 if step < 200 else 1.0)),
        (Budget(time_s=220), Board(time_ratio=lambda step: 1.0 + step / STEPS / 2)),
        (Budget(energy_j=2200), Board(power_ratio=lambda step: 1.0 if step < 700 else 1.5)),
        (Budget(energy_j=2200), Board(power_ratio=lambda step: 1.5 if step < 500 else 1.0)),
    ],
    ids=["doubles", "halves", "creeps", "more power", "less power"],
)
def test_a_disturbance_is_compensated(budget, board) -> None:
    outcome = simulate(budget, STEPS, board=board)
    assert_kept(outcome, budget, dearest=2.0)
    assert outcome.steps == STEPS
    assert outcome.token_blocks >= 0.9 * best_low_first(budget, board)
    assert outcome.switches <= 2 + outcome.time_s / 30


@pytest.mark.parametrize("begins", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    ("budget", "ratio"),
    [
        (Budget(time_s=150), 0.8),
        (Budget(time_s=195), 0.8),
        (Budget(energy_j=1650), 0.6),
        (Budget(energy_j=2250), 0.8),
    ],
    ids=str,
)
def test_a_board_that_becomes_faster_still_uses_its_budget(budget, ratio, begins) -> None:
    """A run that had begun with the cheapest rung could use 83 to 95 % of it."""
    board = Board(time_ratio=lambda step: 1.0 if step < begins * STEPS else ratio, noise=0.05)
    outcome = simulate(budget, STEPS, board=board)
    assert_kept(outcome, budget)
    spent = outcome.time_s if budget.time_s else outcome.energy_j
    assert spent >= 0.95 * (budget.time_s or budget.energy_j)
    assert outcome.switches <= 3


@settings(max_examples=15, deadline=None)
@given(
    st.integers(200, 800),
    st.floats(0.35, 1.1),
    st.floats(0.7, 1.4),
    st.floats(0.8, 1.3),
    st.sampled_from([0.01, 0.05, 0.1]),
    st.sampled_from(["time_s", "energy_j"]),
    st.integers(0, 9),
)
def test_any_budget_that_can_be_kept_is_kept(
    steps, share, time_ratio, power_ratio, noise, limit, seed
) -> None:
    board = Board(
        time_ratio=lambda step: time_ratio,
        power_ratio=lambda step: power_ratio,
        noise=noise,
        seed=seed,
    )
    most = best_mix(
        Workload(costs=true_costs(LADDER, board)[:1], steps=steps, overhead=OVERHEAD), Budget()
    )
    whole = most.time_s if limit == "time_s" else most.energy_j
    budget = Budget(**{limit: share * whole})
    workload = Workload(costs=true_costs(LADDER, board), steps=steps, overhead=OVERHEAD)
    assume(best_mix(workload, Budget(**{limit: 0.95 * share * whole})) is not None)
    assume(most.time_s * share >= 60)  # in shorter runs there is no time to learn
    outcome = simulate(budget, steps, board=board)
    assert_kept(outcome, budget, dearest=time_ratio * power_ratio * 1.5)
    assert outcome.steps == steps
    assert outcome.token_blocks >= 0.9 * best_in_hindsight(budget, steps, board)
    assert outcome.switches <= 2 + outcome.time_s / 15


@pytest.mark.parametrize(
    ("budget", "limit"),
    [(Budget(time_s=120), "time"), (Budget(energy_j=1100), "energy")],
)
def test_a_budget_that_becomes_infeasible_ends_at_the_limit(budget, limit) -> None:
    board = Board(time_ratio=lambda step: 1.0 if step < 300 else 2.0)
    outcome = simulate(budget, STEPS, board=board)
    assert_kept(outcome, budget)
    assert outcome.stopped_by == limit
    assert 300 < outcome.steps < STEPS
    assert outcome.rungs[-1] == "k025"
    spent, whole = (
        (outcome.time_s, budget.time_s)
        if limit == "time"
        else (outcome.energy_j, budget.energy_j)
    )
    assert 0.99 * whole <= spent <= whole  # the last checkpoint is reserved
    last = outcome.decisions[-1]
    assert last.kind == "stop"
    assert re.match(
        rf"--{limit} is used up except for the last checkpoint with .* left; "
        rf"{STEPS - outcome.steps} steps are not done",
        last.reason,
    )
    resort = next(d for d in outcome.decisions if d.reason.startswith("no plan fits"))
    assert f"as many as possible on {resort.rung}" in resort.reason


def test_decisions_have_reasons() -> None:
    outcome = simulate(Budget(energy_j=2000), STEPS)
    switches = [decision for decision in outcome.decisions if decision.kind == "switch"]
    assert re.fullmatch(
        r"the plan begins: \d+ steps on k050, then \d+ steps on k075 with 2\.0 kJ left",
        switches[0].reason,
    )
    assert re.match(r"the budget allows more: \d+ steps on k075", switches[1].reason)
    assert {decision.kind for decision in outcome.decisions} == {"switch", "keep"}


def test_the_reason_names_the_drift() -> None:
    board = Board(time_ratio=lambda step: 1.0 if step < 1000 else 2.0)
    outcome = simulate(Budget(time_s=220), STEPS, board=board)
    (down,) = (d for d in outcome.decisions if "the budget allows less" in d.reason)
    assert re.search(
        r"against the profile a step takes (1\.9|2\.0)\d of its time and", down.reason
    )


def test_high_compression_comes_first() -> None:
    outcome = simulate(Budget(time_s=200), STEPS)
    kept = [KEPT[rung] for rung in outcome.rungs]
    assert kept == sorted(kept)


# Few switches


def switches_of(outcome: Outcome) -> list[tuple[int, float, int]]:
    """Steps done, time, and gained token-blocks of every switch except the first."""
    switches, before = [], None
    decided = [arguments for name, arguments in outcome.calls if name == "decide"]
    for arguments, decision in zip(decided, outcome.decisions, strict=True):
        if decision.kind == "switch" and before:
            switches.append((*arguments[:2], KEPT[decision.rung] - KEPT[before]))
        before = decision.rung if decision.kind in ("switch", "keep") else before
    return switches


@pytest.mark.parametrize("seed", range(6))
def test_switching_is_calm_on_a_noisy_board(seed) -> None:
    board = Board(noise=0.3, seed=seed, time_ratio=lambda step: 1.0 if step < 500 else 1.5)
    budget = Budget(time_s=190)
    outcome = simulate(budget, STEPS, board=board)
    assert_kept(outcome, budget, dearest=3.0)
    assert outcome.switches <= 2 + outcome.time_s / 20
    down_s = -math.inf
    for step, now_s, won in switches_of(outcome):
        if won < 0:
            down_s = now_s
        else:
            assert now_s - down_s >= 7.0  # twice the time between two plans of this run
            assert step <= 0.98 * STEPS


def test_a_moment_of_disturbance_changes_nothing() -> None:
    """Three steps, half a second of training, take three times as long."""
    budget = Budget(time_s=400)
    board = Board(time_ratio=lambda step: 3.0 if 700 <= step < 703 else 1.0)
    outcome = simulate(budget, STEPS, board=board)
    assert set(outcome.rungs) == {"k100"}


def test_a_sudden_loss_of_time_leaves_the_cheapest_rung() -> None:
    governor = Governor(LADDER, Budget(time_s=100), steps=300, overhead=OVERHEAD)
    assert governor.decide(0, 0.0, Total(time_s=1.5, energy_j=None), Reading()).rung == "k100"
    late = governor.decide(1, 80.0, Total(time_s=81.5, energy_j=None), Reading())
    assert (late.kind, late.rung) == ("switch", "k025")
    assert late.reason.startswith(
        "no plan fits 299 more steps with 18 s left: as many as possible on k025"
    )


# Replay and resume


def replayed(outcome: Outcome, budget: Budget) -> list:
    governor = Governor(LADDER, budget, steps=STEPS, overhead=OVERHEAD)
    calls = [(getattr(governor, name), arguments) for name, arguments in outcome.calls]
    answers = [call(*arguments) for call, arguments in calls]
    return [answer for answer in answers if answer is not None]


def test_the_same_observations_give_the_same_decisions() -> None:
    budget = Budget(time_s=250, power_w=8.5)
    outcome = simulate(budget, STEPS, board=Board(noise=0.1))
    assert {decision.kind for decision in outcome.decisions} == {"switch", "keep", "pause"}
    assert replayed(outcome, budget) == outcome.decisions


def test_lost_work_counts() -> None:
    """A resumed run: half the steps are done, but more than half is spent."""
    governor = Governor(LADDER, Budget(energy_j=2000), steps=1000, overhead=OVERHEAD)
    first = governor.decide(500, 7.0, Total(time_s=90, energy_j=1400), Reading())
    assert first.rung == "k050"
    assert "with 600.0 J left" in first.reason
    rich = Governor(LADDER, Budget(energy_j=2000), steps=1000, overhead=OVERHEAD)
    assert rich.decide(500, 7.0, Total(time_s=90, energy_j=900), Reading()).rung == "k100"


def test_at_the_end_of_all_steps_nothing_stopped_it() -> None:
    governor = Governor(LADDER, Budget(), steps=10, overhead=OVERHEAD)
    end = governor.decide(10, 7.0, Total(time_s=9, energy_j=None), Reading())
    assert (end.kind, end.stopped_by, end.reason) == ("stop", None, "all steps are done")


def test_an_expensive_checkpoint_is_reserved() -> None:
    overhead = replace(OVERHEAD, checkpoint_s=40.0, checkpoint_j=300.0)
    for budget in (Budget(time_s=200), Budget(energy_j=2000)):
        outcome = simulate(budget, STEPS, overhead=overhead)
        assert outcome.steps == STEPS
        assert_kept(outcome, budget)


def test_a_step_that_hangs_ends_nothing() -> None:
    board = Board(time_ratio=lambda step: 50.0 if step == 600 else 1.0)
    outcome = simulate(Budget(time_s=250), STEPS, board=board)
    assert outcome.steps == STEPS
    assert outcome.stopped_by is None
    assert outcome.token_blocks >= 0.85 * best_in_hindsight(Budget(time_s=240), STEPS, Board())


# Sensors


def test_energy_of_a_lost_sensor_is_predicted() -> None:
    budget = Budget(energy_j=2000)
    board = Board(has_sensor=lambda step: step < 200, power_ratio=lambda step: 1.2)
    outcome = simulate(budget, STEPS, board=board)
    assert outcome.steps == STEPS
    assert 0.93 * budget.energy_j <= outcome.energy_j <= 1.02 * budget.energy_j


def test_a_returned_sensor_is_used() -> None:
    budget = Budget(energy_j=2000)
    board = Board(
        has_sensor=lambda step: not 200 <= step < 600,
        power_ratio=lambda step: 1.2 if step >= 200 else 1.0,
    )
    outcome = simulate(budget, STEPS, board=board)
    assert_kept(outcome, budget, dearest=1.2)
    assert outcome.steps == STEPS


def test_without_energy_in_the_profile_time_limits_are_kept() -> None:
    dark = tuple(replace(cost, step_j=None, power_w=None) for cost in LADDER)
    overhead = replace(OVERHEAD, startup_j=None, switch_j=None, checkpoint_j=None)
    with pytest.raises(DeviceError, match="--energy cannot be planned"):
        Governor(dark, Budget(energy_j=5), steps=10, overhead=overhead)
    governor = Governor(dark, Budget(time_s=200), steps=1500, overhead=overhead)
    first = governor.decide(0, 1.0, Total(time_s=1.5, energy_j=None), Reading())
    assert first.rung == "k050"


def test_a_governor_needs_a_rung() -> None:
    with pytest.raises(BudgetError, match="--memory is too little"):
        Governor(LADDER, Budget(memory_bytes=1000), steps=10, overhead=OVERHEAD)


LONG_END = replace(OVERHEAD, switch_s=3.0, switch_j=30.0, checkpoint_s=8.0, checkpoint_j=80.0)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("budget", [Budget(time_s=150), Budget(energy_j=1500)], ids=str)
def test_the_end_of_a_busy_board_is_reserved_as_slow_as_its_steps(budget, ratio) -> None:
    """Its checkpoint takes 16 s where the profile says 8."""
    board = Board(time_ratio=lambda step: ratio, is_slow_throughout=True)
    outcome = simulate(budget, 700, overhead=LONG_END, board=board)
    assert_kept(outcome, budget, dearest=ratio)
    used = outcome.time_s / 150 if budget.time_s else outcome.energy_j / 1500
    assert used > 0.95 or (outcome.steps == 700 and set(outcome.rungs[-20:]) == {"k100"})


def test_a_faster_board_does_not_save_faster() -> None:
    board = Board(time_ratio=lambda step: 0.5)
    outcome = simulate(Budget(time_s=60), 700, overhead=LONG_END, board=board)
    assert_kept(outcome, Budget(time_s=60))
