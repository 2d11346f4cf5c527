"""A recipe: what to train. A TOML file, flags, or both; docs/recipe.md explains every key."""

from edge_export.axes import RungSettings, rung_id
from edge_export.recipe.reading import make_recipe, read_recipe
from edge_export.recipe.tables import (
    AugmentationTable,
    Choice,
    DistillationTable,
    MethodChoice,
    ModelTable,
    OptimizerTable,
    Recipe,
    SelfDistillationTable,
)

__all__ = [
    "AugmentationTable",
    "Choice",
    "DistillationTable",
    "MethodChoice",
    "ModelTable",
    "OptimizerTable",
    "Recipe",
    "RungSettings",
    "SelfDistillationTable",
    "make_recipe",
    "read_recipe",
    "rung_id",
]
