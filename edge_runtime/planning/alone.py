"""A run on each rung alone: what it takes, whether it fits, and how many epochs would.

Pure arithmetic, for people who compare rungs with each other and with a plan.
"""

from dataclasses import replace

from edge_runtime.facts import Budget, RungCost, SingleRungCost
from edge_runtime.planning.epochs import epochs_on
from edge_runtime.planning.mix import Mix, Workload, best_mix, why_unusable


def single_rung_costs(
    workload: Workload, budget: Budget, *, steps_per_epoch: int
) -> tuple[SingleRungCost, ...]:
    """All steps of a run on one rung, for every rung, in the order of the costs.

    Args:
        workload: the whole run, start-up and last checkpoint included.
        budget: its limits.
        steps_per_epoch: of the run.
    """
    return tuple(_alone(cost, workload, budget, steps_per_epoch) for cost in workload.costs)


def _alone(
    cost: RungCost, workload: Workload, budget: Budget, steps_per_epoch: int
) -> SingleRungCost:
    alone = replace(workload, costs=(cost,))
    is_usable = why_unusable(cost, budget, workload.room_bytes) is None
    epoch = replace(workload, steps=steps_per_epoch)
    mix = _without_limits(cost, alone, budget)
    return SingleRungCost(
        rung=cost.rung,
        time_s=None if mix is None else mix.time_s,
        energy_j=None if mix is None else mix.energy_j,
        peak_bytes=cost.likely_peak_bytes,
        fits=is_usable and best_mix(alone, budget) is not None,
        epochs=epochs_on(cost.rung, epoch, budget) if budget.is_bounded else None,
    )


def _without_limits(cost: RungCost, alone: Workload, budget: Budget) -> Mix | None:
    """What the run takes if time, energy and memory were enough; `None`: not measured.

    The idle time that keeps the mean power is part of it, where idling can.
    """
    alone = replace(alone, room_bytes=None)
    waiting = None
    if budget.power_w is not None and cost.step_j is not None:
        waiting = best_mix(alone, Budget(power_w=budget.power_w))
    return waiting or best_mix(alone, Budget())
