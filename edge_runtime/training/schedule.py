"""The hyper-parameters of a step: pure functions of (step, steps per epoch, total steps).

Steps count from 1. Learning rate: linear warm-up that reaches its peak with the last warm-up
step, then half a cosine. Weight decay and EMA momentum: half a cosine over the whole run.
The values of a half cosine start at the first value and come close to the final one.
"""

import math

from edge_runtime.package.manifest import Schedule


def half_cosine(first: float, final: float, progress: float) -> float:
    """From `first` at progress 0 to `final` at progress 1."""
    return final + (first - final) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(
    schedule: Schedule, step: int, *, steps_per_epoch: int, total_steps: int
) -> float:
    """The learning rate of a step."""
    warmup_steps = min(round(schedule.warmup_epochs * steps_per_epoch), total_steps)
    if step <= warmup_steps:
        return schedule.lr * step / warmup_steps
    progress = (step - 1 - warmup_steps) / (total_steps - warmup_steps)
    return half_cosine(schedule.lr, schedule.final_lr, progress)


def hyper_parameters(
    schedule: Schedule, step: int, *, steps_per_epoch: int, total_steps: int
) -> dict[str, float]:
    """Everything that the graphs of a step may ask for.

    Returns:
        lr, weight_decay, beta1, beta2, eps, step (from 1), progress (in [0, 1)), and
        ema_momentum where the method has a teacher.
    """
    progress = (step - 1) / total_steps
    hyper = {
        "lr": learning_rate(
            schedule, step, steps_per_epoch=steps_per_epoch, total_steps=total_steps
        ),
        "weight_decay": half_cosine(
            schedule.weight_decay, schedule.final_weight_decay, progress
        ),
        "beta1": schedule.beta1,
        "beta2": schedule.beta2,
        "eps": schedule.eps,
        "step": float(step),
        "progress": progress,
    }
    if schedule.ema_momentum is not None:
        final = schedule.final_ema_momentum
        hyper["ema_momentum"] = half_cosine(
            schedule.ema_momentum, schedule.ema_momentum if final is None else final, progress
        )
    return hyper
