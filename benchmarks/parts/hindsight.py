"""The best schedule of a run in hindsight, with the costs of its steps known."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from edge_runtime.errors import BudgetError
from edge_runtime.facts import Budget, CostProfile, RungCost
from edge_runtime.planning import Overhead, make_plan
from edge_runtime.records.events import StepRecord

_KNOWN_S = 10.0  # of steps on a rung; less is noise of the machine
_NEXT = 5  # steps after a load give its step's time without it


def best_token_blocks(
    profile: CostProfile,
    budget: Budget,
    steps: Sequence[StepRecord],
    run_s: float,
    run_j: float,
    total_steps: int,
) -> int:
    """Token-blocks that the planner would reach with the actual costs.

    Args:
        profile: the rungs, and costs of unused ones (scaled like the others).
        budget: of the run.
        steps: of the run.
        run_s: from process start to exit.
        run_j: gross energy of that time.
        total_steps: requested.
    """
    mean_w = run_j / run_s
    steps, loads_s = without_loads(steps)
    costs = [as_it_was(cost, profile, steps, mean_w) for cost in profile.rungs]
    trained_s = sum(took_s(record) for record in steps)
    switch_s = sum(loads_s) / len(loads_s) if loads_s else profile.switch_s
    rest_s = run_s - trained_s - sum(loads_s)
    overhead = Overhead(
        startup_s=rest_s,
        startup_j=rest_s * mean_w,
        switch_s=switch_s,
        switch_j=switch_s * mean_w,
        checkpoint_s=0.0,
        checkpoint_j=0.0,
        idle_w=profile.idle_w,
    )
    # A run that its budget ends early trains fewer steps, of the cheapest rung.
    for count in (total_steps, *range(total_steps - 1, 0, -1)):
        try:
            return make_plan(costs, budget, steps=count, overhead=overhead).token_blocks
        except BudgetError:
            continue
    return 0


def took_s(record: StepRecord) -> float:
    """Waiting for its pictures included."""
    return record.measured.step_s + record.measured.wait_s


def without_loads(steps: Sequence[StepRecord]) -> tuple[list[StepRecord], list[float]]:
    """Steps as if no rung had been loaded in them, and seconds of each load."""
    plain, loads_s = [], []
    for index, record in enumerate(steps):
        if index and steps[index - 1].rung == record.rung:
            plain.append(record)
            continue
        same = [took_s(s) for s in steps[index + 1 :] if s.rung == record.rung][:_NEXT]
        usual_s = median(same) if same else took_s(record)
        loads_s.append(max(0.0, took_s(record) - usual_s))
        measured = replace(record.measured, step_s=usual_s, wait_s=0.0)
        plain.append(replace(record, measured=measured))
    return plain, loads_s


def as_it_was(
    cost: RungCost, profile: CostProfile, steps: Sequence[StepRecord], mean_w: float
) -> RungCost:
    """A rung's cost from the run's steps, or the profile's with the mean deviation of all."""
    expected = {other.rung: other.step_s or 0.0 for other in profile.rungs}
    seconds = [took_s(record) for record in steps]
    ratio = sum(seconds) / sum(expected[record.rung] for record in steps)
    own = [t for t, record in zip(seconds, steps, strict=True) if record.rung == cost.rung]
    is_known = sum(own) >= _KNOWN_S
    step_s = sum(own) / len(own) if is_known else (cost.step_s or 0.0) * ratio
    return replace(cost, step_s=step_s, step_j=step_s * mean_w, power_w=mean_w)
