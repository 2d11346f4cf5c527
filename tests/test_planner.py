"""The plan: against brute force, against its limits, and against larger budgets."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from facts_examples import budget_of_flags
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simulated_board import FREE, OVERHEAD, rung_cost

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget
from edge_runtime.facts.budget import LIMITS, MEMORY
from edge_runtime.planning import make_plan
from edge_runtime.planning.mix import Workload, best_mix, steady_mix, why_unusable
from edge_runtime.planning.planner import nearest_budgets

TOLERANCE = 1 + 1e-8

# Small whole numbers: limits are then often met exactly.
tenths = st.integers(1, 40).map(lambda n: n / 10)


@st.composite
def ladders(draw, most=4):
    return [
        rung_cost(
            f"r{index}",
            draw(st.integers(1, 9)),
            draw(tenths),
            draw(st.integers(4, 12)),
            peak_bytes=draw(st.integers(1, 5)) * 1000,
        )
        for index in range(draw(st.integers(1, most)))
    ]


@st.composite
def overheads(draw):
    startup_s, switch_s = draw(tenths), draw(st.sampled_from([0.0, 0.5, 2.0]))
    return replace(
        OVERHEAD,
        startup_s=startup_s,
        startup_j=10 * startup_s,
        switch_s=switch_s,
        switch_j=12 * switch_s,
        checkpoint_j=2.0,
        idle_w=draw(st.sampled_from([None, 3.0])),
    )


budgets = st.builds(
    Budget,
    memory_bytes=st.none() | st.integers(1, 6).map(lambda n: n * 1000),
    energy_j=st.none() | st.integers(20, 400).map(float),
    time_s=st.none() | st.integers(2, 60).map(float),
    power_w=st.none() | st.integers(4, 12).map(float),
    temperature_c=st.none() | st.just(80.0),
)


def totals(counts, costs, overhead, power_w, loaded=None):
    """Time and energy of a schedule, from the definitions: with the wait for mean power."""
    pairs = zip(counts, costs, strict=True)
    used = sum(count > 0 and cost.rung != loaded for count, cost in pairs)
    time_s = overhead.startup_s + overhead.checkpoint_s + used * overhead.switch_s
    energy_j = overhead.startup_j + overhead.checkpoint_j + used * overhead.switch_j
    for count, cost in zip(counts, costs, strict=True):
        time_s += count * cost.step_s
        energy_j += count * cost.step_j
    idle_w = overhead.idle_w
    if power_w and energy_j > power_w * time_s and idle_w is not None and idle_w < power_w:
        wait_s = (energy_j - power_w * time_s) / (power_w - idle_w)
        time_s, energy_j = time_s + wait_s, energy_j + idle_w * wait_s
    return time_s, energy_j


def fits(counts, costs, budget, overhead, tolerance=TOLERANCE, loaded=None):
    needs = [cost.need_bytes for count, cost in zip(counts, costs, strict=True) if count]
    time_s, energy_j = totals(counts, costs, overhead, budget.power_w, loaded)
    return (
        (budget.memory_bytes is None or max(needs) <= budget.memory_bytes)
        and (budget.time_s is None or time_s <= budget.time_s * tolerance)
        and (budget.energy_j is None or energy_j <= budget.energy_j * tolerance)
        and (budget.power_w is None or energy_j <= budget.power_w * time_s * tolerance)
    )


def brute_force(costs, budget, overhead, steps, rungs):
    """Most token-blocks over all schedules of at most that many rungs; None if infeasible."""
    best = None
    for counts in itertools.product(range(steps + 1), repeat=len(costs)):
        if sum(counts) != steps or sum(count > 0 for count in counts) > rungs:
            continue
        if fits(counts, costs, budget, overhead):
            kept = sum(n * cost.token_blocks for n, cost in zip(counts, costs, strict=True))
            best = kept if best is None else max(best, kept)
    return best


def planned(costs, budget, overhead, steps):
    mix = best_mix(Workload(costs=tuple(costs), steps=steps, overhead=overhead), budget)
    return mix and mix.token_blocks


@settings(max_examples=200, deadline=None)
@given(ladders(), budgets, overheads(), st.integers(1, 7))
def test_it_is_the_best_of_all_plans_of_three_rungs(costs, budget, overhead, steps) -> None:
    # A switch draws 12 W here, no less than any limit of power: less would not be credited.
    assert planned(costs, budget, overhead, steps) == brute_force(
        costs, budget, overhead, steps, rungs=3
    )


@settings(max_examples=60, deadline=None)
@given(ladders(most=5), budgets, st.integers(1, 8))
def test_more_than_three_rungs_would_hardly_keep_more(costs, budget, steps) -> None:
    plan = planned(costs, budget, FREE, steps)
    best = brute_force(costs, budget, FREE, steps, rungs=len(costs))
    assert (plan is None) == (best is None)
    if best is not None:
        kept = [cost.token_blocks for cost in costs]
        assert plan >= best - (max(kept) - min(kept))


def best_of_all_pairs(costs, budget, steps):
    """Most token-blocks of three rungs, by trying every pair of the first two counts."""
    first, second = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
    counts = np.stack([first, second, steps - first - second], axis=-1)
    time_s = counts @ np.array([cost.step_s for cost in costs])
    energy_j = counts @ np.array([cost.step_j for cost in costs])
    ok = (counts[..., 2] >= 0) & (time_s <= budget.time_s) & (energy_j <= budget.energy_j)
    return (counts @ np.array([cost.token_blocks for cost in costs]))[ok].max(initial=0)


@pytest.mark.parametrize("seed", range(12))
def test_beyond_a_thousand_steps_a_coarse_grid_is_enough(seed) -> None:
    rng, steps = np.random.default_rng(seed), 1300
    costs = [
        rung_cost(f"r{n}", int(kept), float(step_s), float(power_w))
        for n, (kept, step_s, power_w) in enumerate(
            zip(
                rng.permutation([100, 230, 400]),
                rng.random(3),
                5 + 5 * rng.random(3),
                strict=True,
            )
        )
    ]
    time_s, energy_j = (sum(getattr(c, f) for c in costs) / 3 for f in ("step_s", "step_j"))
    budget = Budget(time_s=steps * time_s, energy_j=steps * energy_j)
    best = best_of_all_pairs(costs, budget, steps)
    assert best > 0
    assert planned(costs, budget, FREE, steps) >= best - 300  # one step


def test_two_limits_can_leave_no_whole_number_between_them() -> None:
    costs = [rung_cost("hot", 1, 1.0, 3.0), rung_cost("slow", 2, 3.0, 1 / 3)]
    # Time allows 1.5 steps of the slow one at most, energy asks for 1.2 at least.
    assert planned(costs, Budget(time_s=5.0, energy_j=3.6), FREE, 2) is None
    assert planned(costs, Budget(time_s=5.0, energy_j=4.0), FREE, 2) == 3


@settings(max_examples=100, deadline=None)
@given(ladders(most=6), budgets, overheads(), st.sampled_from([1, 9, 700, 2500]))
def test_no_limit_is_exceeded(costs, budget, overhead, steps) -> None:
    scale = steps / 5
    budget = replace(
        budget,
        energy_j=budget.energy_j and budget.energy_j * scale,
        time_s=budget.time_s and budget.time_s * scale,
    )
    try:
        plan = make_plan(costs, budget, steps=steps, overhead=overhead)
    except BudgetError:
        return
    counts = {segment.rung: segment.steps for segment in plan.segments}
    assert sum(counts.values()) == steps
    assert len(counts) <= 3
    assert all(counts.values())
    in_order = [counts.get(cost.rung, 0) for cost in costs]
    assert fits(in_order, costs, budget, overhead)
    time_s, energy_j = totals(in_order, costs, overhead, budget.power_w)
    assert (plan.time_s, plan.energy_j) == pytest.approx((time_s, energy_j))
    assert plan.power_w == pytest.approx(energy_j / time_s)
    kept = {cost.rung: cost.token_blocks for cost in costs}
    assert plan.token_blocks == sum(kept[rung] * n for rung, n in counts.items())
    order = [kept[segment.rung] for segment in plan.segments]
    assert order == sorted(order)


@settings(max_examples=100, deadline=None)
@given(
    ladders(most=6),
    budgets,
    overheads(),
    st.sampled_from([5, 40, 2500]),
    st.sampled_from(LIMITS),
    st.sampled_from([1.01, 1.5, 10.0, None]),
)
def test_a_larger_budget_never_gives_a_worse_plan(
    costs, budget, overhead, steps, limit, factor
) -> None:
    scale = steps / 5
    budget = replace(
        budget,
        energy_j=budget.energy_j and budget.energy_j * scale,
        time_s=budget.time_s and budget.time_s * scale,
    )
    value = budget.value(limit)
    larger = budget.with_limit(limit, value and factor and value * factor)
    small = planned(costs, budget, overhead, steps) or 0
    assert small <= (planned(costs, larger, overhead, steps) or 0)


@settings(max_examples=200, deadline=None)
@given(ladders(most=6), budgets, overheads(), st.sampled_from([5, 40, 2500]))
def test_no_mix_of_nearer_rungs_keeps_as_much_as_a_steady_one(
    costs, budget, overhead, steps
) -> None:
    scale = steps / 5
    budget = replace(
        budget,
        energy_j=budget.energy_j and budget.energy_j * scale,
        time_s=budget.time_s and budget.time_s * scale,
    )
    workload = Workload(costs=tuple(costs), steps=steps, overhead=overhead)
    best, steady = best_mix(workload, budget), steady_mix(workload, budget)
    if best is None or steady is None:
        assert best is steady
        return
    assert 0.99 * best.token_blocks <= steady.token_blocks <= best.token_blocks
    usable = [cost for cost in costs if why_unusable(cost, budget, None) is None]
    levels = sorted({cost.token_blocks for cost in usable})
    kept = {cost.rung: cost.token_blocks for cost in costs}
    used = [levels.index(kept[rung]) for rung in steady.counts]
    for low, high in itertools.combinations(levels, 2):
        if levels.index(high) - levels.index(low) < max(used) - min(used):
            pair = [cost for cost in usable if cost.token_blocks in (low, high)]
            nearer = best_mix(replace(workload, costs=tuple(pair)), budget)
            assert nearer is None or nearer.token_blocks < 0.99 * best.token_blocks


def test_a_steady_mix_is_preferred_where_costs_are_a_straight_line() -> None:
    """All mixes keep the same then: this one costs about the same from step to step."""
    costs = [rung_cost(f"k{n}", n, 0.02 + n * 0.001, 10.0) for n in (100, 80, 60, 40)]
    workload = Workload(costs=tuple(costs), steps=1000, overhead=FREE)
    steady = steady_mix(workload, Budget(time_s=90.0))
    assert list(steady.counts) == ["k60", "k80"]
    assert steady.time_s <= 90.0


@settings(max_examples=50, deadline=None)
@given(ladders(), budgets, overheads(), st.integers(1, 50))
def test_the_same_input_gives_the_same_plan(costs, budget, overhead, steps) -> None:
    def answer():
        try:
            return make_plan(costs, budget, steps=steps, overhead=overhead)
        except BudgetError as error:
            return str(error)

    assert answer() == answer()


@settings(max_examples=50, deadline=None)
@given(ladders(), budgets, overheads(), st.integers(1, 30))
def test_the_nearest_budget_works_and_is_near(costs, budget, overhead, steps) -> None:
    workload = Workload(costs=tuple(costs), steps=steps, overhead=overhead)
    assume(best_mix(workload, budget) is None)
    with pytest.raises(BudgetError) as caught:
        make_plan(costs, budget, steps=steps, overhead=overhead)
    for near in nearest_budgets(workload, budget):
        assert near.flags(budget) in str(caught.value)
        make_plan(costs, budget_of_flags(near.flags(budget)), steps=steps, overhead=overhead)
        raised = [lim for lim in budget.limited() if near.value(lim) != budget.value(lim)]
        assert raised
        assert all(limit.flag in str(caught.value).partition(":")[2] for limit in raised)
        for limit in raised:
            less = near.with_limit(limit, 0.995 * near.value(limit) - (limit is MEMORY))
            assert best_mix(workload, less) is None


def test_a_large_plan_is_quick() -> None:
    costs = [
        rung_cost(f"k{n}", 100 + 50 * n, 0.1 + 0.05 * n + n % 3 / 100, 10 + n % 5 / 10)
        for n in range(12)
    ]
    budget = Budget(energy_j=3e5, time_s=3e4, power_w=11)
    workload = Workload(costs=tuple(costs), steps=100_000, overhead=OVERHEAD)
    spent_s = []
    for _ in range(5):
        begin_s = time.process_time()
        assert best_mix(workload, budget)
        spent_s.append(time.process_time() - begin_s)
    assert min(spent_s) < 0.05
