"""The objective gradient-error: its values, its paths, and the governor that follows them."""

import itertools
import math

import numpy as np
import pytest
from calibrations import calibration_of, rising, stage
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_board import FREE, LADDER, OVERHEAD, Board, Total, rung_cost, simulate
from test_planner import budgets, fits, overheads

from edge_runtime.facts import Budget
from edge_runtime.planning import Governor, GradientErrorObjective, Reading, make_plan
from edge_runtime.planning.mix import Workload
from edge_runtime.planning.path import best_path

RUNGS = ("k025", "k050", "k075", "k100")


@st.composite
def calibrations(draw, rungs=RUNGS):
    """Any errors, at one to four stages, the first and last not always at the ends."""
    squares = st.integers(0, 30).map(lambda n: n / 10)
    tenths = draw(st.lists(st.integers(0, 10), min_size=1, max_size=4, unique=True))
    stages = [
        stage(
            tenth / 10,
            **{rung: (draw(squares), draw(squares)) for rung in rungs[:-1]},
            **{rungs[-1]: (0.0, draw(st.integers(1, 30)) / 10)},
        )
        for tenth in sorted(tenths)
    ]
    costs = {rung: draw(st.integers(1, 20)) / 10 for rung in rungs}
    return calibration_of(*stages, costs=costs, dense=rungs[-1])


def error_slowly(calibration, rung, progress) -> float:
    """Cost-adjusted error relative to the dense rung's: linear between stages."""

    def at(known):
        own, dense = known.of(rung), known.of(calibration.dense)
        cost = calibration.costs[rung] / calibration.costs[calibration.dense]
        return (own.squared_bias + cost * own.variance) / dense.variance

    stages = calibration.stages
    if progress <= stages[0].progress:
        return at(stages[0])
    for low, high in itertools.pairwise(stages):
        if progress <= high.progress:
            share = (progress - low.progress) / (high.progress - low.progress)
            return at(low) + share * (at(high) - at(low))
    return at(stages[-1])


@given(calibrations(), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=60)
def test_a_value_is_the_sum_of_the_errors(calibration, total, data) -> None:
    first = data.draw(st.integers(0, total - 1))
    end = data.draw(st.integers(first, total))
    rung = data.draw(st.sampled_from(RUNGS))
    points = (np.arange(4000) + 0.5) / 4000
    progress = [(first + (end - first) * point) / total for point in points]
    mean = math.fsum(error_slowly(calibration, rung, each) for each in progress) / 4000
    cost = rung_cost(rung, 1, 1.0, None)
    value = GradientErrorObjective(calibration).value(cost, first, end, total)
    assert value == pytest.approx(-mean * (end - first), rel=1e-4, abs=1e-9)


four_times = st.lists(st.integers(1, 40), min_size=4, max_size=4, unique=True)


@given(calibrations(), budgets, overheads(), st.integers(1, 7), st.data())
@settings(deadline=None, max_examples=150)
def test_it_is_the_best_of_all_rising_paths(calibration, budget, overhead, steps, data):
    costs = [
        rung_cost(
            rung,
            data.draw(st.integers(1, 4)),
            tenths / 10,
            data.draw(st.integers(4, 12)),
            peak_bytes=data.draw(st.integers(1, 5)) * 1000,
        )
        for rung, tenths in zip(RUNGS, data.draw(four_times), strict=True)
    ]
    costs.sort(key=lambda cost: (cost.token_blocks, -cost.step_s))
    order = [cost.rung for cost in costs]
    done, loaded = data.draw(st.integers(0, 5)), data.draw(st.sampled_from((None, *RUNGS)))
    objective = GradientErrorObjective(calibration)
    total = done + steps

    def of_step(cost, step):
        return float(objective.value(cost, step, step + 1, total))

    best = None
    for path in itertools.combinations_with_replacement(range(4), steps):
        counts = [path.count(index) for index in range(4)]
        if len(set(path)) <= 3 and fits(counts, costs, budget, overhead, loaded=loaded):
            value = sum(of_step(costs[i], done + step) for step, i in enumerate(path))
            best = value if best is None else max(best, value)
    workload = Workload(
        costs=tuple(reversed(costs)),
        steps=steps,
        overhead=overhead,
        loaded=loaded,
        objective=objective,
        done=done,
    )
    path = best_path(workload, budget)
    assert (path is None) == (best is None)
    if path is not None:
        assert path.value == pytest.approx(best, rel=1e-9, abs=1e-9)
        heights = [order.index(rung) for rung in path.counts]
        assert heights == sorted(heights)
        counts = [path.counts.get(rung, 0) for rung in order]
        assert fits(counts, costs, budget, overhead, loaded=loaded)


@given(calibrations(rungs=("k025", "k100")), st.integers(101, 5000))
@settings(deadline=None, max_examples=30)
def test_beyond_the_exact_grid_a_switch_is_a_percent_off(calibration, steps) -> None:
    costs = (rung_cost("k025", 1, 1.0, 1.0), rung_cost("k100", 2, 2.0, 1.0))
    objective = GradientErrorObjective(calibration)
    workload = Workload(costs=costs, steps=steps, overhead=FREE, objective=objective)
    path = best_path(workload, Budget())
    ends = np.arange(steps + 1)
    low, high = (objective.value(cost, 0, ends, steps) for cost in costs)
    values = low + high[-1] - high
    off = math.ceil(0.01 * steps)
    around = np.abs(np.diff(low - high)).max() if steps else 0.0
    assert path.value >= values.max() - off * around - 1e-9


def test_the_plan_switches_where_the_errors_cross() -> None:
    """At first 0.6 of the dense rung's error, at the end 2.6: both are 1 after a fifth."""
    costs = (rung_cost("k100", 400, 0.2, 10.0), rung_cost("k050", 200, 0.1, 10.0))
    plan = make_plan(
        costs,
        Budget(),
        steps=100,
        overhead=OVERHEAD,
        objective=GradientErrorObjective(rising()),
    )
    assert [(part.rung, part.steps) for part in plan.segments] == [("k050", 20), ("k100", 80)]
    # 20 steps from 0.6 to 1.0, then 1 each
    assert plan.gradient_error == pytest.approx((20 * 0.8 + 80) / 100)
    assert plan.binding == ()
    assert {verdict.reason for verdict in plan.verdicts} == {
        "20% of the steps: the smallest cost-adjusted error",
        "80% of the steps: the smallest cost-adjusted error",
    }


def test_a_budget_moves_the_switch_and_is_named() -> None:
    costs = (rung_cost("k100", 400, 0.2, 10.0), rung_cost("k050", 200, 0.1, 10.0))
    plan = make_plan(
        costs,
        Budget(time_s=15.0),
        steps=100,
        overhead=FREE,
        objective=GradientErrorObjective(rising()),
    )
    assert [(part.rung, part.steps) for part in plan.segments] == [("k050", 50), ("k100", 50)]
    assert plan.binding == ("time",)
    assert plan.verdicts[0].reason == "50% of the steps: the smallest error that --time allows"


def test_a_rung_that_is_never_best_is_explained() -> None:
    known = calibration_of(stage(0.5, k100=(0.0, 1.0), k050=(9.0, 1.0)))
    costs = (rung_cost("k100", 400, 0.2, 10.0), rung_cost("k050", 200, 0.1, 10.0))
    plan = make_plan(
        costs, Budget(), steps=10, overhead=FREE, objective=GradientErrorObjective(known)
    )
    assert plan.verdicts[1].steps == 0
    assert plan.verdicts[1].reason == (
        "over the whole run its cost-adjusted error is larger than the plan's"
    )


ERRORS = calibration_of(
    stage(0.0, k100=(0.0, 1.0), k075=(0.01, 1.0), k050=(0.02, 1.0), k025=(0.03, 1.0)),
    stage(1.0, k100=(0.0, 1.0), k075=(1.0, 1.0), k050=(2.0, 1.0), k025=(4.0, 1.0)),
    costs={cost.rung: cost.step_s for cost in LADDER},
)


@pytest.mark.parametrize(
    ("budget", "board"),
    [
        (Budget(time_s=200.0), Board()),
        (Budget(time_s=130.0), Board()),
        (Budget(energy_j=1500.0), Board(noise=0.05)),
        (Budget(time_s=200.0), Board(time_ratio=lambda step: 0.8)),
        (Budget(power_w=9.6, time_s=400.0), Board()),
    ],
)
def test_the_governor_only_rises_and_keeps_the_budget(budget, board) -> None:
    steps = 1000
    outcome = simulate(budget, steps, board=board, objective=GradientErrorObjective(ERRORS))
    assert outcome.steps == steps
    heights = [RUNGS.index(rung) for rung in outcome.rungs]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert heights[-1] > 0
    assert budget.time_s is None or outcome.time_s <= budget.time_s
    assert budget.energy_j is None or outcome.energy_j <= budget.energy_j


THERE = {"k100": (0.0, 1.0), "k075": (1.0, 1.0), "k050": (1.0, 1.0)}
# The smallest rung is the best at first and at the end.
BEST_TWICE = GradientErrorObjective(
    calibration_of(
        stage(0.0, **THERE, k025=(0.0, 1.0)),
        stage(0.5, **THERE, k025=(9.0, 1.0)),
        stage(1.0, **THERE, k025=(0.0, 1.0)),
        costs={cost.rung: cost.step_s for cost in LADDER},
    )
)


def test_the_governor_does_not_return_to_a_smaller_rung() -> None:
    """Not even where its error becomes the smallest again."""
    outcome = simulate(Budget(time_s=500.0), 1000, objective=BEST_TWICE)
    assert set(outcome.rungs) == {"k025", "k100"}
    assert outcome.switches == 1


RESUMED = [
    (500.0, "k100", "k100"),
    (500.0, None, "k025"),
    (500.0, "elsewhere", "k025"),
    (7.2, "k100", "k075"),  # 40 steps on k100 take 8 s: as little below it as is feasible
]


@pytest.mark.parametrize(("time_s", "reached", "first"), RESUMED)
def test_nor_does_a_governor_that_continues_a_run(time_s, reached, first) -> None:
    budget = Budget(time_s=time_s)
    governor = Governor(
        LADDER, budget, steps=1000, overhead=FREE, objective=BEST_TWICE, reached=reached
    )
    spent = Total(time_s=0.0, energy_j=None)
    assert governor.decide(960, 0.0, spent, Reading()).rung == first
    plan = make_plan(
        LADDER,
        budget,
        steps=40,
        overhead=FREE,
        objective=BEST_TWICE,
        done=960,
        reached=reached,
    )
    assert plan.segments[0].rung == first
    if reached == first:
        assert plan.verdicts[-1].reason == "the run has reached k100 and does not go back"


def test_a_limit_is_kept_before_the_order() -> None:
    """The board becomes twice as slow: the governor steps down rather than out of time."""
    board = Board(time_ratio=lambda step: 1.0 if step < 600 else 2.0)
    budget = Budget(time_s=160.0)
    outcome = simulate(budget, 1000, board=board, objective=GradientErrorObjective(ERRORS))
    assert outcome.steps == 1000
    assert outcome.time_s <= budget.time_s
    heights = [RUNGS.index(rung) for rung in outcome.rungs]
    assert heights != sorted(heights)
    reasons = " ".join(decision.reason for decision in outcome.decisions)
    assert "the budget allows less" in reasons
    assert "no plan fits" not in reasons


def drops(outcome) -> list[int]:
    """By how many rungs each step down went."""
    heights = [RUNGS.index(rung) for rung in outcome.rungs]
    return [a - b for a, b in itertools.pairwise(heights) if a > b]


def test_a_step_down_is_as_small_as_is_feasible() -> None:
    """Costs that vary by 10 % from step to step: the plan is once too expensive."""
    board = Board(noise=0.1)
    outcome = simulate(
        Budget(energy_j=1500.0), 1000, board=board, objective=GradientErrorObjective(ERRORS)
    )
    assert outcome.steps == 1000
    assert drops(outcome) == [1]


def test_pressure_on_memory_lowers_by_one_for_a_while() -> None:
    board = Board(pressure=lambda step: 50.0 if 700 < step < 720 else 0.0)
    outcome = simulate(
        Budget(time_s=300.0), 1000, board=board, objective=GradientErrorObjective(ERRORS)
    )
    assert drops(outcome) == [1]
    assert outcome.rungs[700] == outcome.rungs[-1] == "k100"
