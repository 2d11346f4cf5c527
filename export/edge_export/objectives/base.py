"""The interface of a self-supervised method: a declaration and a loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from edge_export.context import StepContext
from edge_export.declaration import LossResult, ObjectiveDeclaration
from edge_runtime.package.manifest import ModelFacts
from edge_runtime.schema import Range

TermWeight = Annotated[float, Range(ge=0, le=10_000)]  # of a term of a loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Default hyper-parameters of the method; a recipe may override them.

    `lr_at_256` is for batches of 256 images and scales with the square root of the batch size,
    as Adam's step does with the gradient's noise. It is higher than in the papers, whose
    models are larger and see a hundred times as many images.
    """

    lr_at_256: float
    weight_decay: float
    warmup_epochs: float
    ema_momentum: float | None = None
    keep_ratios: tuple[float, ...] | None = None  # None: the recipe's default


class Objective(ABC):
    """One method, bound to a model and its options."""

    name: ClassVar[str]  # in recipes
    defaults: ClassVar[Defaults]  # hyper-parameters that a recipe does not give
    options: ClassVar[type[Any]]  # a frozen dataclass of the options in `[method]`

    # Views, parameters, teacher, buffers, draws and hyper-parameters; set by `__init__`
    declaration: ObjectiveDeclaration

    @abstractmethod
    def __init__(self, model: ModelFacts, options: Any) -> None:
        """Declare what the method needs for this model."""

    @abstractmethod
    def loss(self, step: StepContext) -> LossResult:
        """Scalar loss of one batch: a pure function of the step."""
