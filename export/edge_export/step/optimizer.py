"""AdamW and the EMA teacher as functions of named tensors.

AdamW is PyTorch's (Loshchilov and Hutter 2019, decoupled weight decay). Only the parameters
that a rung trains change, with their moments and their teacher.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from edge_export.parameters import Parameter
from edge_runtime.package.names import (
    BETA1,
    EMA,
    EMA_MOMENTUM,
    EXP_AVG,
    EXP_AVG_SQ,
    LEARNING_RATE,
    PARAM,
    STEP_COUNT,
    UPDATES,
    WEIGHT_DECAY,
)

ADAMW = (LEARNING_RATE, WEIGHT_DECAY, BETA1, "beta2", "eps")  # hyper-parameters

Tensors = Mapping[str, Tensor]


def update_groups(
    parameters: Collection[str],
    trained: Mapping[str, Collection[str]],
    *,
    may_skip: bool = False,
) -> dict[str, str | None]:
    """The update counter of each parameter; `None`: it is the run's step.

    AdamW corrects its moments by their number of updates. If rungs train different parameters,
    that number differs between parameters, and each group of parameters that is trained by the
    same rungs has a counter in the state. So it does where a step may skip its update.

    Args:
        parameters: all names.
        trained: the trained names, by the `trained` field of the rungs.
        may_skip: whether there are steps without an update.
    """
    if not may_skip and len({frozenset(names) for names in trained.values()}) <= 1:
        return dict.fromkeys(parameters)
    return {
        name: "+".join(label for label, names in trained.items() if name in names) or None
        for name in parameters
    }


def adamw(
    parameters: Sequence[Parameter],
    gradients: Tensors,
    inputs: Tensors,
    *,
    groups: Mapping[str, str | None],
    exempt_vectors: bool,
) -> dict[str, Tensor]:
    """New parameters, moments and counters by state name.

    Rearranged for few passes over memory: with c1, c2 the bias corrections,
    m/c1 / (sqrt(v/c2) + eps) = sqrt(c2)/c1 * m / (sqrt(v) + eps sqrt(c2)).

    Args:
        parameters: those to update.
        gradients: of each, by parameter name.
        inputs: state and hyper-parameters by input name.
        groups: see `update_groups`.
        exempt_vectors: whether only matrices decay.
    """
    lr, weight_decay, beta1, beta2, eps = (inputs[name] for name in ADAMW)
    one_minus_beta1, one_minus_beta2 = 1 - beta1, 1 - beta2
    decay = 1 - lr * weight_decay
    new: dict[str, Tensor] = {}
    scales: dict[str | None, tuple[Tensor, Tensor]] = {}
    for group in dict.fromkeys(groups[parameter.name] for parameter in parameters):
        count = inputs[STEP_COUNT]
        if group is not None:
            count = new[UPDATES + group] = inputs[UPDATES + group] + 1
        sqrt_bias2 = torch.sqrt(1 - torch.pow(beta2, count))
        rate = lr * sqrt_bias2 / (1 - torch.pow(beta1, count))
        scales[group] = rate, eps * sqrt_bias2
    for parameter in parameters:
        name, (rate, scaled_eps) = parameter.name, scales[groups[parameter.name]]
        value, gradient = inputs[PARAM + name], gradients[name]
        m = inputs[EXP_AVG + name] * beta1 + gradient * one_minus_beta1
        v = inputs[EXP_AVG_SQ + name] * beta2 + gradient * gradient * one_minus_beta2
        decayed = value * decay if parameter.is_matrix or not exempt_vectors else value
        new[PARAM + name] = decayed - m / (torch.sqrt(v) + scaled_eps) * rate
        new[EXP_AVG + name] = m
        new[EXP_AVG_SQ + name] = v
    return new


def ema(names: Collection[str], inputs: Tensors) -> dict[str, Tensor]:
    """The EMA teacher after an update of its parameters, by state name."""
    if not names:
        return {}
    momentum = inputs[EMA_MOMENTUM]
    return {
        EMA + name: inputs[EMA + name] * momentum + inputs[PARAM + name] * (1 - momentum)
        for name in names
    }
