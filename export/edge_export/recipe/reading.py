"""From a plain table to a checked recipe."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edge_export.axes import rank_of
from edge_export.objectives import OBJECTIVES
from edge_export.parametrizations import Lora, LoraOptions
from edge_export.policies import policies_named, uses_keep_ratio
from edge_export.recipe.problems import problems_of
from edge_export.recipe.tables import CHOICES, Choice, Recipe
from edge_runtime.errors import ConfigError
from edge_runtime.schema import read_toml, structure, unstructure

AnyChoice = TypeVar("AnyChoice", bound=Choice)


def read_recipe(path: Path) -> dict[str, Any]:
    """The plain table of a TOML file.

    Raises:
        ConfigError: it cannot be read or is not valid TOML.
    """
    return read_toml(path, where=f"recipe {path}", error=ConfigError)


def make_recipe(table: Mapping[str, Any], *, where: str) -> Recipe:
    """A checked recipe; all options of its method and token policy are filled in.

    Args:
        table: as in docs/recipe.md.
        where: its name in messages.

    Raises:
        ConfigError: all problems of the table; first those of names and types.
    """
    table = dict(table)
    for key in CHOICES:
        if isinstance(choice := table.get(key), Mapping):
            default = getattr(Recipe(), key)
            # Keys of every choice of this kind; the others are options of the chosen one
            own = {each.name for each in dataclasses.fields(default)} - {"options"}
            options = {k: v for k, v in choice.items() if k not in own}
            given = {k: v for k, v in choice.items() if k in own}
            table[key] = {"name": default.name, **given, "options": options}
    for key, example in (
        ("keep_ratios", "[1.0, 0.5]"),
        ("patch_sizes", "[16, 24]"),
        ("trained", '["all", "last-2"]'),
        ("micro_batches", "[16, 8]"),
    ):
        if isinstance(text := table.get(key), str):
            raise ConfigError(
                f"{where}: {key}: expected a list such as {example}, got {text!r}."
            )
    recipe = structure(Recipe, table, where=where, error=ConfigError)
    if "keep_ratios" not in table:
        recipe = dataclasses.replace(recipe, keep_ratios=_default_ratios(recipe))
    if "parametrization" not in table:
        recipe = dataclasses.replace(recipe, parametrization=_default_parametrization(recipe))
    if problems := problems_of(recipe):
        lines = [f"{where}: {len(problems)} problem(s)", *problems]
        raise ConfigError("\n  ".join(line.replace("\n", "\n  ") for line in lines))
    policies = policies_named(recipe.tokens.name)
    return dataclasses.replace(
        recipe,
        method=_filled(recipe.method, recipe.method_options()),
        tokens=_filled(recipe.tokens, *map(recipe.token_options, policies)),
        parametrization=_filled(recipe.parametrization, recipe.parametrization_options()),
    )


def _default_ratios(recipe: Recipe) -> tuple[float, ...]:
    """The ladder of a recipe that gives none; names in it may be unknown."""
    method = OBJECTIVES.get(recipe.method.name)
    if method is not None and method.defaults.keep_ratios is not None:
        return method.defaults.keep_ratios
    return recipe.keep_ratios if uses_keep_ratio(recipe.tokens.name) else (1.0,)


def _default_parametrization(recipe: Recipe) -> Choice:
    """Low-rank factors where a rung trains them."""
    for trained in recipe.trained:
        if rank := rank_of(trained):
            return Choice(name=Lora.name, options=unstructure(LoraOptions(rank=rank)))
    return recipe.parametrization


def _filled(choice: AnyChoice, *options: Any) -> AnyChoice:
    """The choice with all of its options, defaults included."""
    tables = [unstructure(each) for each in options]
    together = {k: v for table in tables for k, v in table.items()}
    return dataclasses.replace(choice, options=together)
