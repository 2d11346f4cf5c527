"""What a self-supervised method is to a step: a declaration and a loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from edge_export.declaration import LossResult, ObjectiveDeclaration
from edge_export.step.context import StepContext
from edge_runtime.package.manifest import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the method's authors train with; a recipe may say otherwise.

    `lr_at_256` is for batches of 256 images and goes with the square root of the batch size,
    as Adam's step does with the gradient's noise. Higher than the papers', whose models are
    larger and see a hundred times as many images.
    """

    lr_at_256: float
    weight_decay: float
    warmup_epochs: float
    ema_momentum: float | None = None


class Objective(ABC):
    """One method, bound to a model and to its own options."""

    name: ClassVar[str]  # as recipes call it
    defaults: ClassVar[Defaults]  # hyper-parameters where a recipe gives none
    options: ClassVar[type[Any]]  # a frozen dataclass of what `[method]` may set

    # Views, parameters, teacher, buffers, draws and hyper-parameters; set by `__init__`
    declaration: ObjectiveDeclaration

    @abstractmethod
    def __init__(self, model: ModelFacts, options: Any) -> None:
        """Declare what the method needs for this model."""

    @abstractmethod
    def loss(self, step: StepContext) -> LossResult:
        """Scalar loss of one batch: a pure function of the step."""
