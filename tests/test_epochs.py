"""Whole epochs within a budget: against brute force, and one more never fits."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simulated_board import FREE, LADDER, OVERHEAD, rung_cost
from test_planner import budgets, fits, ladders, overheads

from edge_runtime.errors import BudgetError, ConfigError
from edge_runtime.facts import Budget
from edge_runtime.planning import auto_epochs, make_plan
from edge_runtime.planning.epochs import (
    POINTS,
    RESERVE,
    best_epochs,
    bracket_maximum,
    epochs_on,
)
from edge_runtime.planning.mix import Workload, best_mix

ends = budgets.filter(lambda budget: budget.time_s or budget.energy_j)


def without_reserve(budget: Budget) -> Budget:
    """What the arithmetic of epochs may use of a budget."""
    time_s, energy_j = (
        value and (1 - RESERVE) * value for value in (budget.time_s, budget.energy_j)
    )
    return replace(budget, time_s=time_s, energy_j=energy_j)


def epoch_of(costs, overhead=FREE, steps=1) -> Workload:
    return Workload(costs=tuple(costs), steps=steps, overhead=overhead)


@settings(max_examples=200, deadline=None)
@given(ladders(most=1), ends, overheads(), st.integers(1, 5), st.sampled_from([1, 40]))
def test_on_one_rung_one_more_epoch_never_fits(costs, budget, overhead, steps, scale) -> None:
    """By the definition of a run's costs, not by the planner's."""
    budget = replace(
        budget,
        time_s=budget.time_s and scale * budget.time_s,
        energy_j=budget.energy_j and scale * budget.energy_j,
    )
    choice = best_epochs(epoch_of(costs, overhead, steps), budget)
    less = without_reserve(budget)
    if choice is None:
        assert not fits([steps], costs, budget, overhead, tolerance=1 - 1e-8)
        return
    epochs = choice.epochs
    assert fits([epochs * steps], costs, budget, overhead)
    assert not fits([(epochs + 1) * steps], costs, less, overhead, tolerance=1 - 1e-8)
    assert epochs == 1 or fits([epochs * steps], costs, less, overhead)
    assert epochs_on("r0", epoch_of(costs, overhead, steps), budget) == epochs
    assert choice.reason == f"{epochs + 1} do not fit"


def slowly(epoch: Workload, budget: Budget) -> int | None:
    """The definition: every number of epochs is tried."""
    tried = {}
    for epochs in range(1, 3 * POINTS):
        mix = best_mix(replace(epoch, steps=epochs * epoch.steps), without_reserve(budget))
        if mix is not None:
            tried[epochs] = mix
    assume(3 * POINTS - 1 not in tried)
    if not tried:
        return 1 if best_mix(epoch, budget) else None
    most = max(mix.token_blocks for mix in tried.values())
    good = [number for number in tried if tried[number].token_blocks >= 0.98 * most]
    fewest = min(len(tried[number].counts) for number in good)
    good = [number for number in good if len(tried[number].counts) == fewest]
    kept = max(tried[number].token_blocks for number in good)
    return min(number for number in good if tried[number].token_blocks == kept)


@settings(max_examples=150, deadline=None)
@given(ladders(), ends, overheads(), st.integers(1, 9))
def test_of_few_epochs_every_number_is_tried(costs, budget, overhead, steps) -> None:
    # Limits of power are left out: a run may then be feasible only from some length on.
    budget = replace(budget, power_w=None)
    epoch = epoch_of(costs, overhead, steps)
    expected = slowly(epoch, budget)
    assume(expected is None or expected < POINTS)
    choice = best_epochs(epoch, budget)
    assert (choice and choice.epochs) == expected


@settings(max_examples=40, deadline=None)
@given(ladders(), ends, st.integers(1, 20))
def test_of_many_epochs_the_search_keeps_as_much(costs, budget, steps) -> None:
    epoch = epoch_of(costs, OVERHEAD, steps)
    budget = replace(
        budget,
        power_w=None,
        time_s=budget.time_s and 20 * steps * budget.time_s,
        energy_j=budget.energy_j and 20 * steps * budget.energy_j,
    )
    choice = best_epochs(epoch, budget)
    assume(choice is not None)
    less = without_reserve(budget)
    others = range(1, 3 * choice.epochs, max(1, choice.epochs // 50))
    mixes = [best_mix(replace(epoch, steps=number * steps), less) for number in others]
    chosen = best_mix(replace(epoch, steps=choice.epochs * steps), budget)
    assert chosen.token_blocks >= 0.98 * max(mix.token_blocks for mix in mixes if mix)


@given(st.integers(1, 100_000), st.integers(0, 100_000), st.integers(1, 9), st.integers(1, 9))
def test_the_grid_gets_finer_around_the_best_number(peak, more, rise, fall) -> None:
    low, high = bracket_maximum(
        lambda n: rise * n if n <= peak else rise * peak - fall * (n - peak), peak + more
    )
    assert low <= peak <= high <= low + POINTS


def test_a_budget_that_gives_a_million_epochs_is_quick(monkeypatch) -> None:
    tried = []

    def counted(workload, budget):
        tried.append(workload.steps)
        return best_mix(workload, budget)

    monkeypatch.setattr("edge_runtime.planning.epochs.best_mix", counted)
    choice = best_epochs(epoch_of(LADDER, OVERHEAD), Budget(time_s=2e5, energy_j=1.98e6))
    assert choice.epochs > 900_000
    assert len(tried) < 500


def test_fewer_rungs_are_preferred_if_they_keep_nearly_as_much() -> None:
    # Three epochs of 50 steps, with 52 on k100, would keep 1 % more.
    costs = [rung_cost("k100", 100, 1.0, 1.0), rung_cost("k050", 50, 0.52, 1.0)]
    choice = best_epochs(epoch_of(costs, steps=50), Budget(time_s=103 / (1 - RESERVE)))
    assert choice == (2, "3 would keep hardly more token-blocks, on 2 rungs")


def test_more_epochs_on_lower_rungs_can_keep_less() -> None:
    costs = [rung_cost("k100", 100, 1.0, 1.0), rung_cost("k050", 50, 0.6, 1.0)]
    choice = best_epochs(epoch_of(costs, steps=50), Budget(time_s=101 / (1 - RESERVE)))
    assert choice == (2, "3 would keep fewer token-blocks")


def test_lower_rungs_are_used_if_they_keep_more() -> None:
    # In 149 s, one epoch of 100 steps on k100 takes 100 s; two fit with most steps on k050.
    costs = [rung_cost("k100", 100, 1.0, 1.0), rung_cost("k050", 90, 0.6, 1.0)]
    choice = best_epochs(epoch_of(costs, steps=100), Budget(time_s=149 / (1 - RESERVE)))
    assert choice == (2, "3 do not fit")


@pytest.mark.parametrize("budget", [Budget(), Budget(memory_bytes=1 << 30, power_w=8.0)])
def test_without_an_end_there_is_no_number(budget) -> None:
    message = r"^--epochs auto needs --time or --energy: .* Give a limit, or --epochs N\.$"
    with pytest.raises(ConfigError, match=message):
        auto_epochs(epoch_of(LADDER), budget)
    with pytest.raises(ConfigError, match=message):
        epochs_on("k100", epoch_of(LADDER), budget)


@settings(max_examples=50, deadline=None)
@given(ladders(), ends, overheads(), st.integers(1, 9))
def test_the_choice_can_be_planned(costs, budget, overhead, steps) -> None:
    epoch = epoch_of(costs, overhead, steps)
    if best_epochs(epoch, budget) is None:
        with pytest.raises(BudgetError, match=rf"no plan of 1 epoch \({steps} steps\) fits"):
            auto_epochs(epoch, budget)
        assert best_mix(epoch, budget) is None
        return
    choice = auto_epochs(epoch, budget)
    assert choice == auto_epochs(epoch, budget)
    plan = make_plan(costs, budget, steps=choice.epochs * steps, overhead=overhead)
    assert plan.steps == choice.epochs * steps


def test_the_reserve_is_used_rather_than_no_epoch() -> None:
    epoch = epoch_of([rung_cost("k100", 1, 1.0, 1.0)], steps=10)
    assert auto_epochs(epoch, Budget(time_s=10)).epochs == 1
    assert epochs_on("k100", epoch, Budget(time_s=10)) == 1
    assert auto_epochs(epoch, Budget(time_s=20)).epochs == 1
    assert auto_epochs(epoch, Budget(time_s=20 / (1 - RESERVE))).epochs == 2


def test_less_than_an_epoch_is_refused_with_the_nearest_budget() -> None:
    epoch = epoch_of([rung_cost("k100", 1, 1.0, 1.0)], steps=10)
    message = (
        r"^no plan of 1 epoch \(10 steps\) fits --time 7s: --time is too little\. The nearest "
        r"budget that works is --time 10\S*s\. This one allows 7 steps, less than an epoch of "
        r"10: shorten it with --images\.$"
    )
    with pytest.raises(BudgetError, match=message):
        auto_epochs(epoch, Budget(time_s=7))


def test_a_rung_that_cannot_be_used_gives_no_epoch() -> None:
    epoch = epoch_of([*LADDER, replace(LADDER[0], rung="new", source="unmeasured")])
    assert epochs_on("new", epoch, Budget(time_s=100)) == 0
    assert epochs_on("k100", epoch, Budget(time_s=100, memory_bytes=1 << 20)) == 0
    dark = epoch_of([*LADDER, replace(LADDER[0], rung="dark", step_j=None)])
    assert epochs_on("dark", dark, Budget(energy_j=100)) == 0
    assert epochs_on("dark", dark, Budget(time_s=100)) == epochs_on(
        "k100", dark, Budget(time_s=100)
    )


def test_numbers_that_fit_between_others_are_found_under_a_power_limit() -> None:
    """The start-up's power forbids short runs, the time forbids long ones: 111 to 114 fit."""
    cost = rung_cost("k100", 400, 1.0, 10.0)
    overhead = replace(
        OVERHEAD, startup_s=4.0, startup_j=500.0, switch_s=0.0, switch_j=0.0, idle_w=None
    )
    budget, epoch = Budget(time_s=120.0, power_w=14.0), epoch_of([cost], overhead)
    less = without_reserve(budget)
    fitting = [number for number in range(1, 200) if fits([number], [cost], less, overhead)]
    assert 1 < len(fitting) < 10
    assert epochs_on("k100", epoch, budget) == fitting[-1]


def test_a_start_up_above_the_power_limit_needs_some_epochs() -> None:
    costs = [rung_cost("k100", 1, 1.0, 5.0)]
    overhead = replace(FREE, startup_s=2.0, startup_j=20.0)
    budget = Budget(time_s=100, power_w=7.0)
    assert best_mix(epoch_of(costs, overhead), budget) is None
    assert best_epochs(epoch_of(costs, overhead), budget).epochs == 97
