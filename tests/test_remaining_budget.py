"""The remaining budget: reach, and whether a step down can wait."""

from dataclasses import replace

import pytest
from simulated_board import FREE, LADDER, OVERHEAD, Total, rung_cost

from edge_runtime.facts import Budget
from edge_runtime.facts.budget import ENERGY, TIME
from edge_runtime.planning.ledger import Ledger, RemainingBudget

RUNGS = [cost.rung for cost in LADDER]


def outlook(
    budget: Budget, *, overhead=FREE, costs=LADDER, time_s=0.0, energy_j=0.0
) -> RemainingBudget:
    ledger = Ledger(costs, overhead)
    ledger.update(Total(time_s=time_s, energy_j=energy_j), None, cooling=False)
    return RemainingBudget(budget, ledger, steps=1000)


def test_reach_is_what_time_and_energy_allow() -> None:
    view = outlook(Budget(time_s=100, energy_j=600), time_s=40, energy_j=200)
    steps, limit = view.reach("k100", loaded=None)
    assert (steps, limit) == (pytest.approx(200), ENERGY)  # of 2 J
    steps, limit = outlook(Budget(time_s=100), time_s=40).reach("k100", loaded=None)
    assert (steps, limit) == (pytest.approx(300), TIME)  # of 0.2 s
    assert outlook(Budget()).reach("k100", loaded=None)[1] is None


def test_reach_reserves_the_checkpoint_and_a_switch() -> None:
    view = outlook(Budget(time_s=100), overhead=OVERHEAD, time_s=40)
    assert view.reach("k100", loaded="k100")[0] == pytest.approx((60 - 0.2) / 0.2)
    assert view.reach("k100", loaded="k050")[0] == pytest.approx((60 - 0.2 - 0.4) / 0.2)


@pytest.mark.parametrize(
    ("time_s", "can_wait"),
    [
        (204, True),  # 1000 steps of 0.2 s take 200
        (194, True),  # 10 % on lower rungs suffice
        (185, False),  # no longer
        (100, False),
    ],
)
def test_a_step_down_can_wait_while_the_last_tenth_compensates(time_s, can_wait) -> None:
    view = outlook(Budget(time_s=time_s))
    mix = view.plan(RUNGS, 1000, loaded="k100")
    assert view.is_as_good_on("k100", mix, RUNGS, 1000) == can_wait


@pytest.mark.parametrize(("time_s", "can_wait"), [(1.21, True), (1.19, False)])
def test_all_of_a_few_steps_must_fit(time_s, can_wait) -> None:
    view = outlook(Budget(time_s=time_s))
    mix = view.plan(RUNGS, 6, loaded="k100")
    assert view.is_as_good_on("k100", mix, RUNGS, 6) == can_wait


def test_a_rung_that_keeps_too_little_for_its_cost_is_not_waited_on() -> None:
    poor = rung_cost("poor", 210, 0.19, 10.0)
    costs = (*LADDER, poor)
    view = outlook(Budget(time_s=195), costs=costs)
    rungs = [*RUNGS, "poor"]
    mix = view.plan(rungs, 1000, loaded="poor")
    assert "poor" not in mix.counts
    assert not view.is_as_good_on("poor", mix, rungs, 1000)


def test_a_reserve_is_kept_if_possible() -> None:
    view = outlook(Budget(time_s=150), time_s=100)
    mix = view.plan(RUNGS, 400, loaded="k100")
    assert mix.time_s == pytest.approx(150 - 0.5 - 0.2, abs=0.1)
    tight = outlook(Budget(time_s=126.1), time_s=100)
    assert tight.plan(RUNGS, 400, loaded="k100").counts == {"k025": 398, "k050": 2}


def test_the_remaining_budget_is_printed() -> None:
    assert outlook(Budget(power_w=5)).left_text() == ""
    view = outlook(Budget(time_s=200, energy_j=500), time_s=100, energy_j=600)
    assert view.left_text() == " with 0 mJ and 1 min 40 s left"


def test_costs_without_energy_reach_as_far_as_time() -> None:
    dark = [replace(cost, step_j=None, power_w=None) for cost in LADDER]
    overhead = replace(FREE, startup_j=None, checkpoint_j=None)
    ledger = Ledger(dark, overhead)
    ledger.update(Total(time_s=0.0, energy_j=None), "k100", cooling=False)
    view = RemainingBudget(Budget(time_s=194), ledger, steps=1000)
    mix = view.plan(RUNGS, 1000, loaded="k100")
    assert view.is_as_good_on("k100", mix, RUNGS, 1000)
