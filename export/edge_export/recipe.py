"""A recipe: what to train. A TOML file, flags, or both; docs/recipe.md explains every key."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_export.models import model_facts
from edge_export.objectives import OBJECTIVES, objective_named
from edge_export.policies import policy_named
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import AugmentationSpec, ModelFacts, Schedule
from edge_runtime.schema import structure, unstructure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """`[model]`: a timm name, or a family with sizes."""

    name: str = "vit_tiny"
    image_size: int | None = None
    patch_size: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`[method]` and `[tokens]`: a name and that one's own options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerTable:
    """`[optimizer]`: AdamW. What is not given is the method's default."""

    lr: float | None = None
    final_lr: float = 0.0
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    final_weight_decay: float | None = None
    exempt_vectors: bool = False  # no decay of biases, norms, class token and positions
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    ema_momentum: float | None = None
    final_ema_momentum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationTable:
    """`[augmentation]`: for pictures that the method's own views do not fit.

    What is given replaces that key in every view; `AugmentationSpec` says what each means.
    """

    min_area: float | None = None
    max_area: float | None = None
    flip: float | None = None
    jitter: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    grayscale: float | None = None
    blur: float | None = None
    solarize: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a package trains."""

    model: ModelTable = field(default_factory=ModelTable)
    method: Choice = field(default_factory=lambda: Choice(name="simclr"))
    tokens: Choice = field(default_factory=lambda: Choice(name="random"))
    optimizer: OptimizerTable = field(default_factory=OptimizerTable)
    augmentation: AugmentationTable = field(default_factory=AugmentationTable)
    keep_ratios: tuple[float, ...] = (1.0, 0.75, 0.5)
    micro_batches: tuple[int, ...] = ()  # pictures; of each a rung more per keep-ratio
    batch_size: int = 64
    seed: int = 0

    def facts(self) -> ModelFacts:
        """Sizes of the model."""
        table = self.model
        return model_facts(
            table.name,
            image_size_px=table.image_size,
            patch_size_px=table.patch_size,
            width=table.width,
            depth=table.depth,
            heads=table.heads,
        )

    def method_options(self) -> Any:
        """The method's own options."""
        kind = objective_named(self.method.name).options
        return structure(kind, self.method.options, where="[method]", error=ConfigError)

    def token_options(self) -> Any:
        """The token policy's own options."""
        kind = policy_named(self.tokens.name).options
        return structure(kind, self.tokens.options, where="[tokens]", error=ConfigError)

    def views(self) -> tuple[AugmentationSpec, ...]:
        """The method's views with the augmentation table's keys replaced.

        Raises:
            ConfigError: the least area of a crop is above the most.
        """
        usual = objective_named(self.method.name).views(self.facts().image_size_px)
        given = {k: v for k, v in unstructure(self.augmentation).items() if v is not None}
        views = tuple(dataclasses.replace(view, **given) for view in usual)
        for view in views:
            if view.min_area > view.max_area:
                raise ConfigError(
                    f"[augmentation]: min_area {view.min_area:g} is above max_area "
                    f"{view.max_area:g}. Give both."
                )
        return views

    def schedule(self) -> Schedule:
        """The optimizer's table with the method's defaults filled in."""
        table, defaults = self.optimizer, objective_named(self.method.name).defaults
        decay = _first(table.weight_decay, defaults.weight_decay)
        has_teacher = defaults.ema_momentum is not None
        return Schedule(
            lr=_first(table.lr, defaults.lr_at_256 * math.sqrt(self.batch_size / 256)),
            final_lr=table.final_lr,
            warmup_epochs=_first(table.warmup_epochs, defaults.warmup_epochs),
            weight_decay=decay,
            final_weight_decay=_first(table.final_weight_decay, decay),
            ema_momentum=_first(table.ema_momentum, defaults.ema_momentum)
            if has_teacher
            else None,
            final_ema_momentum=_first(table.final_ema_momentum, 1.0) if has_teacher else None,
            beta1=table.beta1,
            beta2=table.beta2,
            eps=table.eps,
        )

    def official_refusal(self) -> str | None:
        """Why the official optimizer cannot follow this recipe, if it cannot.

        It has one group and knows weight decay as a constant.
        """
        schedule = self.schedule()
        if self.optimizer.exempt_vectors:
            return "optimizer.exempt_vectors: the official optimizer decays every parameter"
        if schedule.weight_decay != schedule.final_weight_decay:
            return (
                f"weight decay goes from {schedule.weight_decay:g} to "
                f"{schedule.final_weight_decay:g}: the official optimizer's is constant"
            )
        return None

    def table(self) -> dict[str, Any]:
        """The recipe as plain data, defaults filled in."""
        table: dict[str, Any] = unstructure(self)
        for key, options in (
            ("method", self.method_options()),
            ("tokens", self.token_options()),
        ):
            table[key] = {"name": table[key]["name"], **unstructure(options)}
        return table


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given


def read_recipe(path: Path) -> dict[str, Any]:
    """The plain table of a TOML file.

    Raises:
        ConfigError: it cannot be read or is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # also what is no UTF-8
        raise ConfigError(f"recipe {path} is not TOML: {error}.") from error


def make_recipe(table: Mapping[str, Any], *, where: str) -> Recipe:
    """A checked recipe; the options of its method and token policy are all filled in.

    Args:
        table: as in docs/recipe.md.
        where: what to call it in messages.

    Raises:
        ConfigError: all problems of the table; first those of names and types.
    """
    table = dict(table)
    for key in ("method", "tokens"):
        if isinstance(choice := table.get(key), Mapping):
            options = {k: v for k, v in choice.items() if k != "name"}
            default = getattr(Recipe(), key).name
            table[key] = {"name": choice.get("name", default), "options": options}
    for key, example in (("keep_ratios", "[1.0, 0.5]"), ("micro_batches", "[16, 8]")):
        if isinstance(found := table.get(key), str):
            raise ConfigError(f"{where}: {key}: want a list such as {example}, got {found!r}.")
    recipe = structure(Recipe, table, where=where, error=ConfigError)
    if recipe.tokens.name == "none" and "keep_ratios" not in table:
        recipe = dataclasses.replace(recipe, keep_ratios=(1.0,))
    if problems := _problems(recipe):
        lines = [f"{where}: {len(problems)} problem(s)", *problems]
        raise ConfigError("\n  ".join(line.replace("\n", "\n  ") for line in lines))
    recipe.views()  # its areas may not fit the method's
    return dataclasses.replace(
        recipe,
        method=Choice(name=recipe.method.name, options=unstructure(recipe.method_options())),
        tokens=Choice(name=recipe.tokens.name, options=unstructure(recipe.token_options())),
    )


def _problems(recipe: Recipe) -> list[str]:
    problems = [
        *_ladder_problems(recipe),
        *_micro_batch_problems(recipe),
        *_optimizer_problems(recipe),
        *_out_of_range("augmentation", recipe.augmentation, _AUGMENTATION_RANGES),
    ]
    if recipe.batch_size < 2:
        problems.append(f"batch_size: want at least 2, got {recipe.batch_size}")
    if not 0 <= recipe.seed < 2**63:
        problems.append(f"seed: want 0 to 2**63 - 1, got {recipe.seed}")
    for check in (recipe.facts, recipe.method_options, recipe.token_options):
        try:
            check()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _ladder_problems(recipe: Recipe) -> list[str]:
    ratios = recipe.keep_ratios
    problems = [
        f"keep_ratios: {ratio:g} is outside (0, 1]" for ratio in ratios if not 0 < ratio <= 1
    ]
    if not ratios:
        problems.append("keep_ratios: want at least one")
    if len({f"{ratio:g}" for ratio in ratios}) < len(ratios):  # as rungs are named
        problems.append("keep_ratios: each at most once, and different in six digits")
    if recipe.tokens.name == "none" and ratios != (1.0,):
        problems.append("keep_ratios: token policy 'none' keeps all tokens; give 1.0 alone")
    return problems


def _micro_batch_problems(recipe: Recipe) -> list[str]:
    sizes, batch_size = recipe.micro_batches, recipe.batch_size
    problems = [
        f"micro_batches: {size} does not divide the batch size {batch_size}"
        for size in sizes
        if size < 1 or batch_size % size
    ]
    if len(set(sizes)) < len(sizes):
        problems.append("micro_batches: each at most once")
    objective = OBJECTIVES.get(recipe.method.name)
    refusal = objective.micro_batch_refusal if objective is not None else None
    if refusal is not None and any(size < batch_size for size in sizes):
        problems.append(
            f"micro_batches: method {recipe.method.name} needs its batch whole: {refusal}"
        )
    return problems


# Keys of a table, what to say when a value is not allowed, and what is.
_Ranges = tuple[tuple[str, str, Callable[[float], bool]], ...]

_OPTIMIZER_RANGES: _Ranges = (
    (
        "lr final_lr warmup_epochs weight_decay final_weight_decay",
        "a number >= 0",
        lambda value: 0 <= value < math.inf,
    ),
    ("beta1 beta2", "a number in [0, 1)", lambda value: 0 <= value < 1),
    ("eps", "a number > 0", lambda value: 0 < value < math.inf),
    ("ema_momentum final_ema_momentum", "a number in [0, 1]", lambda value: 0 <= value <= 1),
)
_AUGMENTATION_RANGES: _Ranges = (
    ("min_area max_area", "a number in (0, 1]", lambda value: 0 < value <= 1),
    (
        "flip jitter grayscale blur solarize",
        "a probability in [0, 1]",
        lambda value: 0 <= value <= 1,
    ),
    ("brightness contrast saturation", "a number >= 0", lambda value: 0 <= value < math.inf),
    ("hue", "a number in [0, 0.5]", lambda value: 0 <= value <= 0.5),
)


def _out_of_range(name: str, table: Any, ranges: _Ranges) -> list[str]:
    return [
        f"{name}.{key}: want {want}, got {value:g}"
        for keys, want, allowed in ranges
        for key in keys.split()
        if (value := getattr(table, key)) is not None and not allowed(value)
    ]


def _optimizer_problems(recipe: Recipe) -> list[str]:
    table = recipe.optimizer
    problems = _out_of_range("optimizer", table, _OPTIMIZER_RANGES)
    objective = OBJECTIVES.get(recipe.method.name)
    if objective is not None and objective.defaults.ema_momentum is None:
        problems += [
            f"optimizer.{key}: method {objective.name} has no EMA teacher"
            for key in ("ema_momentum", "final_ema_momentum")
            if getattr(table, key) is not None
        ]
    return problems
