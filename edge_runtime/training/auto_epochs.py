"""The number of epochs of a new run, from its budget and the costs of its rungs.

Clock: monotonic seconds.
"""

import time
from collections.abc import Callable

from edge_runtime.device import memory_now
from edge_runtime.facts import CostProfile
from edge_runtime.planning import Workload, auto_epochs, overhead_of
from edge_runtime.training.job import TrainingJob
from edge_runtime.training.metering import Metering


def with_auto_epochs(
    job: TrainingJob,
    costs: CostProfile,
    metering: Metering,
    report: Callable[[str], None],
) -> TrainingJob:
    """A job with as many epochs as its budget gives; docs/planning.md has the rules.

    Args:
        job: of a new run.
        costs: of the rungs that may be trained, unmeasured ones estimated.
        metering: of the run.
        report: called with a line of text: the number, and why.

    Raises:
        ConfigError: neither time nor energy is limited.
        BudgetError: not even one epoch fits.
        DeviceError: energy or power is limited and unknown.
    """
    # A part of a usual start is over: counted twice, so that a slow one breaks no plan.
    spent = metering.spent(time.monotonic())
    epoch = Workload(
        costs=costs.rungs,
        steps=job.steps_per_epoch,
        overhead=overhead_of(costs, late_s=spent.time_s, late_j=spent.energy_j),
        room_bytes=memory_now().room_bytes,
    )
    choice = auto_epochs(epoch, job.options.budget)
    report(
        f"--epochs auto: {choice.epochs} epochs of {epoch.steps} steps within "
        f"{job.options.budget}; {choice.reason}"
    )
    return job.with_epochs(choice.epochs)
