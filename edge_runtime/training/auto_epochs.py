"""The number of epochs of a new run, from its budget and the costs of its rungs.

Clock: monotonic seconds.
"""

import time
from collections.abc import Callable

from edge_runtime.device import memory_now
from edge_runtime.facts import CostProfile, Spent
from edge_runtime.facts.plan import steps_text
from edge_runtime.planning import Workload, auto_epochs, interpolate, overhead_of
from edge_runtime.training.job import TrainingJob
from edge_runtime.training.metering import Metering


def with_auto_epochs(
    job: TrainingJob,
    costs: CostProfile,
    metering: Metering,
    *,
    begun: Spent,
    report: Callable[[str], None],
) -> TrainingJob:
    """A job with as many epochs as its budget gives; docs/planning.md has the rules.

    Args:
        job: of a new run.
        costs: of the rungs that may be trained.
        metering: of the run.
        begun: what it had spent before the costs were looked up. Measuring them delays the
            start.
        report: called with a line of text: the number, and why.

    Raises:
        ConfigError: neither time nor energy is limited.
        BudgetError: not even one epoch fits.
        DeviceError: energy or power is limited and unknown.
    """
    now, late_j = metering.spent(time.monotonic()), None
    if now.energy_j is not None and begun.energy_j is not None:
        late_j = now.energy_j - begun.energy_j
    epoch = Workload(
        costs=interpolate(costs.rungs),
        steps=job.steps_per_epoch,
        overhead=overhead_of(costs, late_s=now.time_s - begun.time_s, late_j=late_j),
        room_bytes=memory_now().room_bytes,
    )
    choice = auto_epochs(epoch, job.options.budget)
    planned = steps_text(choice.mix.counts.items())
    report(
        f"--epochs auto: {choice.epochs} epochs of {epoch.steps} steps within "
        f"{job.options.budget}: {planned}; {choice.reason}"
    )
    return job.lasting(choice.epochs)
