"""The tables of a recipe as frozen dataclasses; docs/recipe.md explains every key."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated, Any

from edge_export.axes import ALL, RungSettings, rung_id
from edge_export.declaration import ObjectiveDeclaration, ViewGroup
from edge_export.models import model_facts
from edge_export.objectives import objective_named
from edge_export.objectives.base import TermWeight
from edge_export.parametrizations import parametrization_named
from edge_export.policies import (
    CombinedPolicy,
    PolicySetting,
    TokenPolicy,
    policies_named,
)
from edge_export.vit import CLASS_TOKEN
from edge_runtime.errors import ConfigError
from edge_runtime.package.curves import COUNT, Curve, Epochs, constant, cosine
from edge_runtime.package.manifest import (
    AugmentationSpec,
    Batch,
    Depth,
    Hue,
    ModelFacts,
    Pixels,
    PixelStd,
    Strength,
    TeacherDelay,
    Width,
)
from edge_runtime.package.names import EMA_MOMENTUM, FP32, LEARNING_RATE, STEP_COUNT
from edge_runtime.schema import (
    NonNegativeInt,
    Probability,
    Range,
    Share,
    structure,
    unstructure,
)

Beta = Annotated[float, Range(ge=0, lt=1)]
Rate = Annotated[float, Range(ge=0, le=10_000)]  # of learning, of decay
Epsilon = Annotated[float, Range(ge=1e-30, le=1)]  # smaller ones are 0 in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """`[model]`: a timm name, or a family with sizes."""

    name: str = "vit_tiny"
    image_size: Pixels | None = None
    patch_size: Pixels | None = None
    width: Width | None = None
    depth: Depth | None = None
    heads: Width | None = None
    features: str = CLASS_TOKEN
    mean: tuple[Probability, ...] | None = None  # of red, green, blue, in [0, 1]
    std: tuple[PixelStd, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`[method]`, `[tokens]` and `[parametrization]`: a name and its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodChoice(Choice):
    """`[method]`: also where the EMA teacher of any method runs."""

    teacher_delay: TeacherDelay | None = None  # None: inside the step graph


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfDistillationTable:
    """`[self_distillation]`: a term of the loss beside the method's."""

    weight: TermWeight = 0.0  # 0: no such term


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationTable:
    """`[distillation]`: a term of the loss beside the method's, or all of it."""

    weight: TermWeight = 0.0  # 0: no such term
    # The frozen encoder; its image size is the model's, and so is its patch size by default
    teacher: ModelTable = field(default_factory=ModelTable)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerTable:
    """`[optimizer]`: AdamW. Missing values are the method's defaults."""

    lr: Rate | None = None
    final_lr: Rate = 0.0
    warmup_epochs: Epochs | None = None
    weight_decay: Rate | None = None
    final_weight_decay: Rate | None = None
    # No decay of biases, norms, class token, positions and repair tokens
    exempt_vectors: bool = False
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: Epsilon = 1e-8
    ema_momentum: Probability | None = None
    final_ema_momentum: Probability | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationTable:
    """`[augmentation]`: for pictures that the method's views do not fit.

    A given value replaces that key in every view; `AugmentationSpec` explains the keys.
    """

    min_area: Share | None = None
    max_area: Share | None = None
    flip: Probability | None = None
    jitter: Probability | None = None
    brightness: Strength | None = None
    contrast: Strength | None = None
    saturation: Strength | None = None
    hue: Hue | None = None
    grayscale: Probability | None = None
    blur: Probability | None = None
    solarize: Probability | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that determines the content of a package."""

    model: ModelTable = field(default_factory=ModelTable)
    method: MethodChoice = field(default_factory=lambda: MethodChoice(name="simclr"))
    tokens: Choice = field(default_factory=lambda: Choice(name="random"))
    parametrization: Choice = field(default_factory=lambda: Choice(name="none"))
    self_distillation: SelfDistillationTable = field(default_factory=SelfDistillationTable)
    distillation: DistillationTable = field(default_factory=DistillationTable)
    optimizer: OptimizerTable = field(default_factory=OptimizerTable)
    augmentation: AugmentationTable = field(default_factory=AugmentationTable)
    # The axes of the ladder: it has a rung for every combination
    keep_ratios: tuple[Share, ...] = (1.0, 0.75, 0.5)
    patch_sizes: tuple[Pixels, ...] = ()  # px; empty: only the model's
    trained: tuple[str, ...] = (ALL,)
    micro_batches: tuple[Batch, ...] = ()  # images; each adds a variant of every rung
    batch_size: Annotated[int, Range(ge=2, le=1_000_000)] = 64
    precision: str = FP32  # of the matrix products of a step
    seed: NonNegativeInt = 0

    def facts(self) -> ModelFacts:
        """Sizes of the model."""
        return _facts(self.model)

    def frozen_facts(self) -> ModelFacts | None:
        """Sizes of the frozen encoder whose features are learned; `None`: there is none.

        Raises:
            ConfigError: they are invalid, or its images are not those of the model.
        """
        if not self.distillation.weight:
            return None
        model, table = self.facts(), self.distillation.teacher
        if table.image_size not in (None, model.image_size_px):
            raise ConfigError(
                f"distillation.teacher.image_size: it sees the views of {model.image_size_px} "
                f"px, got {table.image_size}; leave it out"
            )
        patch_size = table.patch_size
        if patch_size is None and "_patch" not in table.name:
            patch_size = model.patch_size_px
        table = dataclasses.replace(
            table, image_size=model.image_size_px, patch_size=patch_size
        )
        try:
            return _facts(table)
        except ConfigError as error:
            raise ConfigError(f"distillation.teacher: {error}") from error

    def rungs(self) -> tuple[RungSettings, ...]:
        """The ladder; rungs with micro-batches come after the one without."""
        base = self.facts().patch_size_px
        axes = product(self.keep_ratios, self.patch_sizes or (base,), self.trained)
        return tuple(
            RungSettings(
                id=rung_id(ratio, patch if patch != base else None, trained, micro_batch),
                keep_ratio=ratio,
                patch_size_px=patch,
                trained=trained,
                micro_batch=micro_batch,
            )
            for ratio, patch, trained in axes
            for micro_batch in (None, *self.micro_batches)
        )

    def method_options(self) -> Any:
        """The method's options."""
        kind = objective_named(self.method.name).options
        return structure(kind, self.method.options, where="[method]", error=ConfigError)

    def parametrization_options(self) -> Any:
        """The parametrization's options."""
        choice = self.parametrization
        kind = parametrization_named(choice.name).options
        return structure(kind, choice.options, where="[parametrization]", error=ConfigError)

    def token_options(self, policy: type[TokenPolicy]) -> Any:
        """The options in `[tokens]` of one of the recipe's token policies.

        Raises:
            ConfigError: an option is wrong, or belongs to none of the policies.
        """
        kinds = [each.options for each in policies_named(self.tokens.name)]
        known = {each: {item.name for item in dataclasses.fields(each)} for each in kinds}
        others = set().union(*known.values()) - known[policy.options]
        own = {key: value for key, value in self.tokens.options.items() if key not in others}
        if others and not known[policy.options]:  # an unknown key is reported by the others
            own = {}
        return structure(policy.options, own, where="[tokens]", error=ConfigError)

    def token_policy(self, method: ObjectiveDeclaration, rung: RungSettings) -> TokenPolicy:
        """The token policy of a rung.

        Raises:
            ConfigError: it does not work with the method, or with another policy.
        """
        sides = {g.name: g.size_px // rung.patch_size_px for g in method.views if g.pruned}
        policies = tuple(
            kind(
                PolicySetting(
                    model=self.facts(),
                    keep_ratio=rung.keep_ratio,
                    method=method,
                    patches={name: side * side for name, side in sides.items()},
                    options=self.token_options(kind),
                )
            )
            for kind in policies_named(self.tokens.name)
        )
        if len(policies) == 1:
            return policies[0]
        return CombinedPolicy(policies[0].setting, policies)

    def augmented(self, groups: tuple[ViewGroup, ...]) -> tuple[ViewGroup, ...]:
        """The method's view groups with the augmentation table's keys replaced.

        Raises:
            ConfigError: the smallest area of a crop is above the largest.
        """
        given = {k: v for k, v in unstructure(self.augmentation).items() if v is not None}
        return tuple(
            dataclasses.replace(
                group, views=tuple(_replaced(view, given) for view in group.views)
            )
            for group in groups
        )

    def optimizer_curves(self, *, has_teacher: bool) -> dict[str, Curve]:
        """The optimizer's hyper-parameters, with the method's defaults filled in."""
        table, defaults = self.optimizer, objective_named(self.method.name).defaults
        decay = _first(table.weight_decay, defaults.weight_decay)
        curves = {
            LEARNING_RATE: Curve(
                shape="cosine",
                first=_first(table.lr, defaults.lr_at_256 * math.sqrt(self.batch_size / 256)),
                final=table.final_lr,
                warmup_epochs=_first(table.warmup_epochs, defaults.warmup_epochs),
            ),
            "weight_decay": cosine(decay, _first(table.final_weight_decay, decay)),
            "beta1": constant(table.beta1),
            "beta2": constant(table.beta2),
            "eps": constant(table.eps),
            STEP_COUNT: Curve(shape=COUNT),
        }
        if has_teacher:
            momentum = _first(table.ema_momentum, defaults.ema_momentum)
            final = _first(table.final_ema_momentum, 1.0)
            curves[EMA_MOMENTUM] = cosine(momentum, final)
        return curves

    def table(self) -> dict[str, Any]:
        """The recipe as plain data, defaults filled in."""
        table: dict[str, Any] = unstructure(self)
        for key in CHOICES:
            table[key] = {"name": table[key]["name"], **table[key]["options"]}
        if self.method.teacher_delay is not None:
            table["method"]["teacher_delay"] = self.method.teacher_delay
        return table


def _facts(table: ModelTable) -> ModelFacts:
    return model_facts(
        table.name,
        image_size_px=table.image_size,
        patch_size_px=table.patch_size,
        width=table.width,
        depth=table.depth,
        heads=table.heads,
        features=table.features,
        mean=table.mean,
        std=table.std,
    )


CHOICES = ("method", "tokens", "parametrization")


def _replaced(view: AugmentationSpec, given: Mapping[str, Any]) -> AugmentationSpec:
    view = dataclasses.replace(view, **given)
    if view.min_area > view.max_area:
        raise ConfigError(
            f"[augmentation]: min_area {view.min_area:g} is above max_area "
            f"{view.max_area:g}. Give both."
        )
    return view


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given
