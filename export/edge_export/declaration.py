"""Declarations of a recipe's parts: tensors, numbers and views that a step needs, by name.

An objective, a token policy and a parametrization are written separately and meet in one
graph. Each declares what it needs; nothing is guessed from names or from a trace.
Letters: V views, B images, D encoder width.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor

from edge_export.parameters import Buffer, Parameter
from edge_runtime.errors import ConfigError
from edge_runtime.package.curves import Curve
from edge_runtime.package.manifest import AugmentationSpec, DrawSpec

STUDENT, TEACHER = "student", "teacher"  # branches


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a part that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewGroup:
    """Views of one size, and how the branches use them."""

    name: str
    size_px: int
    views: tuple[AugmentationSpec, ...]
    pruned: bool = True  # the token policy acts on them
    student: bool = True  # the student encodes them
    teacher: bool = True  # the EMA teacher, if any, encodes them
    patch_tokens: bool = False  # the loss reads more than the features


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicUpdate:
    """An update of buffers after every `every_steps` steps, separate from the steps.

    `update` takes the whole state by state name and the hyper-parameters by name, and returns
    new values by buffer name.
    """

    name: str
    every_steps: int
    update: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The contribution of a part to a step. Names are unique over all parts of a recipe."""

    parameters: tuple[Parameter, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    draws: tuple[DrawSpec, ...] = ()
    hyper_parameters: Mapping[str, Curve] = field(default_factory=dict)
    periodic: tuple[PeriodicUpdate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveDeclaration(Declaration):
    """The contribution of an objective to a step."""

    views: tuple[ViewGroup, ...]
    # Prefixes of the parameters that an EMA teacher copies; empty: no teacher
    teacher: tuple[str, ...] = ()
    # Why a batch must stay whole; None: the loss is a mean over its images
    micro_batch_refusal: str | None = None
    # Parameters of the encoder with `Parameter.zero_gradient`
    zero_gradient: tuple[str, ...] = ()
    # The loss predicts the pixels of patches that the student does not embed
    predicts_hidden: bool = False
    evaluated: str = STUDENT  # the branch whose encoder is evaluated and exported


@dataclass(frozen=True, slots=True, kw_only=True)
class LossResult:
    """The result of a loss: the scalar, metrics to record, new values of buffers."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)


def merged(*parts: Declaration) -> Declaration:
    """The union of several declarations.

    Raises:
        ConfigError: two of them use one name.
    """
    together = Declaration(
        parameters=tuple(chain.from_iterable(part.parameters for part in parts)),
        buffers=tuple(chain.from_iterable(part.buffers for part in parts)),
        draws=tuple(chain.from_iterable(part.draws for part in parts)),
        hyper_parameters=dict(
            chain.from_iterable(part.hyper_parameters.items() for part in parts)
        ),
        periodic=tuple(chain.from_iterable(part.periodic for part in parts)),
    )
    names = {
        "parameter": [item.name for item in together.parameters],
        "buffer": [item.name for item in together.buffers],
        "draw": [item.input for item in together.draws],
        "hyper-parameter": list(chain.from_iterable(part.hyper_parameters for part in parts)),
        "periodic update": [item.name for item in together.periodic],
    }
    for kind, of_kind in names.items():
        for name, count in Counter(of_kind).items():
            if count > 1:
                raise ConfigError(
                    f"{kind} {name!r} is declared {count} times: the method, the token "
                    "policy and the parametrization of a recipe need different names."
                )
    return together


def differences(first: Declaration, second: Declaration) -> list[str]:
    """What differs between two declarations, draws aside: kinds of names."""

    def declared(part: Declaration) -> dict[str, set[Any]]:
        return {
            "parameters": set(part.parameters),
            "buffers": {(b.name, b.initial.dtype, b.initial.shape) for b in part.buffers},
            "hyper-parameters": set(part.hyper_parameters.items()),
            "periodic updates": {(item.name, item.every_steps) for item in part.periodic},
        }

    others = declared(second)
    return [kind for kind, items in declared(first).items() if items != others[kind]]


def added(first: LossResult, second: LossResult) -> LossResult:
    """The sum of two losses, with the metrics and buffers of both.

    Raises:
        ConfigError: both return a metric or a buffer of one name.
    """
    return LossResult(
        loss=first.loss + second.loss,
        metrics=disjoint_union("metric", first.metrics, second.metrics),
        buffers=disjoint_union("buffer", first.buffers, second.buffers),
    )


def disjoint_union(kind: str, *parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All entries of several mappings.

    Raises:
        ConfigError: two of them use one name.
    """
    union: dict[str, Tensor] = {}
    for part in parts:
        if common := sorted(union.keys() & part.keys()):
            raise ConfigError(f"{kind} {common[0]!r} is given twice; it needs another name.")
        union |= part
    return union
