"""`[augmentation]` of a recipe reaches every view; test_recipe.py has what is refused."""

from dataclasses import fields, replace

import pytest

from edge_runtime.package.manifest import AugmentationSpec

pytest.importorskip("torch", reason="reads recipes")

from edge_export.declaration import ViewGroup
from edge_export.objectives import objective_named
from edge_export.recipe import AugmentationTable, Recipe, make_recipe
from edge_export.step.program import Program

MODEL = {"image_size": 128, "patch_size": 16, "depth": 1, "width": 32, "heads": 2}


def recipe(method: str = "mocov3", **augmentation: object):
    table = {"model": MODEL, "method": {"name": method}, "augmentation": augmentation}
    return make_recipe(table, where="test.toml")


def test_the_table_has_every_key_of_a_view() -> None:
    keys = [field.name for field in fields(AugmentationSpec)]
    assert sorted(field.name for field in fields(AugmentationTable)) == sorted(keys)


def declared(method: str) -> tuple[ViewGroup, ...]:
    """The view groups of a method with its own options."""
    made = recipe(method)
    return objective_named(method)(made.facts(), made.method_options()).declaration.views


def views(made: Recipe) -> tuple[AugmentationSpec, ...]:
    (group,) = Program(made).views
    return group.views


def test_without_the_table_views_are_the_methods() -> None:
    assert Program(recipe()).views == declared("mocov3")


def test_given_keys_replace_those_of_every_view() -> None:
    ((first, second),) = (group.views for group in declared("mocov3"))
    assert first != second  # what is not given stays different
    assert views(recipe(flip=0.0, min_area=0.6)) == (
        replace(first, flip=0.0, min_area=0.6),
        replace(second, flip=0.0, min_area=0.6),
    )


def test_the_package_has_the_given_views() -> None:
    program = Program(recipe("simclr", solarize=0.25))
    assert {view.solarize for group in program.views for view in group.views} == {0.25}
    assert program.recipe.table()["augmentation"]["solarize"] == 0.25
