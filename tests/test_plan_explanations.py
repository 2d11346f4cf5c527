"""Explanations of a plan: verdicts, binding limits, refusals."""

from dataclasses import replace

import pytest
from simulated_board import FREE, LADDER, OVERHEAD, rung_cost

from edge_runtime.errors import BudgetError, DeviceError
from edge_runtime.facts import Budget
from edge_runtime.planning import make_plan, require_state_fits


def test_without_limits_the_plan_is_the_rung_that_keeps_most() -> None:
    plan = make_plan(LADDER, Budget(temperature_c=80), steps=10, overhead=OVERHEAD)
    assert [(part.rung, part.steps) for part in plan.segments] == [("k100", 10)]
    assert plan.binding == ()
    assert [verdict.reason for verdict in plan.verdicts] == [
        "all steps: keeps the most token-blocks",
        *["keeps fewer token-blocks than the budget allows"] * 3,
    ]
    assert plan.time_s == pytest.approx(1.5 + 0.4 + 10 * 0.2 + 0.2)
    assert plan.energy_j == pytest.approx(9 + 4 + 10 * 2.0 + 1.2)
    assert plan.peak_bytes == 400_000_000


def test_of_equal_rungs_the_faster_one_is_chosen() -> None:
    slow = rung_cost("slow", 400, 0.5, 5.0)
    plan = make_plan([slow, *LADDER], Budget(), steps=10, overhead=FREE)
    assert [part.rung for part in plan.segments] == ["k100"]
    assert plan.verdicts[0].reason == "keeps no more token-blocks and is no faster"


def test_every_rung_has_a_verdict() -> None:
    costs = [
        *LADDER,
        rung_cost("k900", 900, 0.3, 10.0, peak_bytes=2 << 30),
        replace(LADDER[0], rung="killed", source="does_not_fit", step_s=None, step_j=None),
        replace(LADDER[0], rung="new", source="unmeasured", step_s=None, step_j=None),
        replace(LADDER[0], rung="dark", step_j=None),
        replace(LADDER[0], rung="vast", peak_bytes=None),
    ]
    budget = Budget(memory_bytes=1 << 30, energy_j=1400, time_s=3600)
    plan = make_plan(costs, budget, steps=1000, overhead=OVERHEAD)
    reasons = {verdict.rung: verdict.reason for verdict in plan.verdicts}
    assert plan.binding == ("memory", "energy")
    assert reasons == {
        "k100": "all steps on it take 2.0 kJ, over --energy 1.4kJ",
        "k075": "64% of the steps: the most that --memory and --energy allow",
        "k050": "36% of the steps: the most that --memory and --energy allow",
        "k025": "keeps fewer token-blocks than the budget allows",
        "k900": "needs 2.1 GiB, over --memory 1GiB",
        "killed": "does not fit this board: there is no memory for it",
        "new": "was not measured",
        "dark": "its energy was not measured",
        "vast": "its memory was not measured",
    }
    assert [verdict.steps for verdict in plan.verdicts] == [0, 643, 357, 0, 0, 0, 0, 0, 0]


def test_the_verdict_names_every_limit_that_is_passed() -> None:
    budget = Budget(energy_j=1200, time_s=120, power_w=9.9)
    plan = make_plan(LADDER, budget, steps=1000, overhead=OVERHEAD)
    assert plan.verdicts[0].reason == (
        "all steps on it take 3 min 24 s, over --time 2min and 2.0 kJ, over --energy 1.2kJ"
    )


def test_a_mean_power_is_kept_by_waiting() -> None:
    plan = make_plan(LADDER, Budget(power_w=8), steps=1000, overhead=OVERHEAD)
    assert [part.rung for part in plan.segments] == ["k100"]
    assert plan.power_w == pytest.approx(8)
    busy_s, busy_j = plan.time_s - plan.wait_s, plan.energy_j - 3.0 * plan.wait_s
    assert busy_j / busy_s > 9.5
    assert plan.binding == ()


def test_if_waiting_does_not_help_a_rung_that_draws_less_is_chosen() -> None:
    overhead = replace(FREE, idle_w=None)
    plan = make_plan(LADDER, Budget(power_w=9.8), steps=10, overhead=overhead)
    assert [part.rung for part in plan.segments] == ["k050"]
    assert plan.verdicts[0].reason == "draws 10.00 W, over --power 9.8W"
    assert plan.binding == ("power",)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(energy_j=300),
            r"no plan of 1000 steps fits --energy 300J: --energy is too little\. The nearest "
            r"budget that works is --energy 63\d(\.\d)?J\. This one allows \d+ steps: "
            r"reduce them",
        ),
        (
            Budget(energy_j=300, time_s=10),
            r"--energy and --time are each too little\..* --energy 63\S+ --time 67\.\d+s\. ",
        ),
        (
            Budget(time_s=80, power_w=8),
            r"--time and --power are too little together, more of one is enough\. .* works is "
            r"--time 8\d\.\d+s --power 8W, or --time 80s --power 8\.\d+W\. This one allows",
        ),
        (
            Budget(memory_bytes=1 << 20, energy_j=5e4),
            r"--memory is too little\. .* works is --memory 100\.2MiB --energy 50kJ\.$",
        ),
        (
            Budget(energy_j=3),
            r"--energy 3J: --energy is too little\. .* is --energy 63\S+J\.$",
        ),
    ],
)
def test_a_refusal_names_a_feasible_budget(budget, message) -> None:
    with pytest.raises(BudgetError, match=message):
        make_plan(LADDER, budget, steps=1000, overhead=OVERHEAD)


def test_if_no_rung_fits_the_board_no_budget_is_named() -> None:
    killed = [replace(cost, source="does_not_fit", step_s=None) for cost in LADDER[:2]]
    message = (
        r"no rung can be planned: k100 does not fit this board: .*; k075 does not .*Export"
    )
    with pytest.raises(BudgetError, match=message):
        make_plan(killed, Budget(time_s=5), steps=10, overhead=OVERHEAD)


@pytest.mark.parametrize(
    ("budget", "flag"), [(Budget(energy_j=5), "--energy"), (Budget(power_w=5), "--power")]
)
def test_a_limit_on_an_unmeasured_quantity_is_refused(budget, flag) -> None:
    dark = [replace(cost, step_j=None, power_w=None) for cost in LADDER]
    with pytest.raises(DeviceError, match=f"{flag} cannot be planned: .* no power sensor"):
        make_plan(dark, budget, steps=10, overhead=OVERHEAD)
    unknown = replace(OVERHEAD, startup_j=None)
    with pytest.raises(DeviceError, match=f"{flag} cannot be planned"):
        make_plan(LADDER, budget, steps=10, overhead=unknown)


def test_unknown_energy_is_not_zero() -> None:
    dark = [replace(cost, step_j=None, power_w=None) for cost in LADDER]
    plan = make_plan(dark, Budget(time_s=500), steps=10, overhead=OVERHEAD)
    assert (plan.energy_j, plan.power_w) == (None, None)


def test_temperature_is_not_planned() -> None:
    hot = make_plan(LADDER, Budget(temperature_c=1), steps=10, overhead=OVERHEAD)
    assert hot == make_plan(LADDER, Budget(), steps=10, overhead=OVERHEAD)


def test_a_budget_below_the_state_needs_no_measurement() -> None:
    message = r"--memory 1MiB is below the package's state of 2\.0 MiB\. Training holds it"
    with pytest.raises(BudgetError, match=message):
        require_state_fits(Budget(memory_bytes=1 << 20), 2 << 20)
    require_state_fits(Budget(memory_bytes=2 << 20), 2 << 20)
    require_state_fits(Budget(energy_j=1), 2 << 20)


def test_free_memory_is_named_where_it_decides() -> None:
    """Not "limited by nothing": nobody has set it, and it decides all the same."""
    room = 320_000_000  # k075 needs 315 MB, k100 420
    plan = make_plan(LADDER, Budget(), steps=1000, overhead=OVERHEAD, room_bytes=room)
    assert plan.binding == ("free memory",)
    assert plan.verdicts[1].reason == "all steps: the most that the free memory allows"
    both = Budget(memory_bytes=220_000_000)
    plan = make_plan(LADDER, both, steps=1000, overhead=OVERHEAD, room_bytes=room)
    assert plan.binding == ("memory",)
    same = make_plan(
        LADDER, replace(both, memory_bytes=room), steps=9, overhead=OVERHEAD, room_bytes=room
    )
    assert same.binding == ("memory", "free memory")
    assert (
        same.verdicts[1].reason
        == "all steps: the most that --memory and the free memory allow"
    )
