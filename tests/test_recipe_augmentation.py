"""`[augmentation]` of a recipe reaches every view; test_recipe.py has what is refused."""

from dataclasses import fields, replace

import pytest

from edge_runtime.package.manifest import AugmentationSpec

pytest.importorskip("torch", reason="reads recipes")

from edge_export.objectives import objective_named
from edge_export.recipe import AugmentationTable, make_recipe
from edge_export.step.program import Program

MODEL = {"image_size": 128, "patch_size": 16, "depth": 1, "width": 32, "heads": 2}


def recipe(method: str = "mocov3", **augmentation: object):
    table = {"model": MODEL, "method": {"name": method}, "augmentation": augmentation}
    return make_recipe(table, where="test.toml")


def test_the_table_has_every_key_of_a_view() -> None:
    keys = [field.name for field in fields(AugmentationSpec)]
    assert sorted(field.name for field in fields(AugmentationTable)) == sorted(keys)


def test_without_it_views_are_the_methods() -> None:
    assert recipe().views() == objective_named("mocov3").views(128)


def test_given_keys_replace_those_of_every_view() -> None:
    first, second = objective_named("mocov3").views(128)
    assert first != second  # what is not given stays different
    views = recipe(flip=0.0, min_area=0.6).views()
    assert views == (
        replace(first, flip=0.0, min_area=0.6),
        replace(second, flip=0.0, min_area=0.6),
    )


def test_the_package_asks_for_them() -> None:
    program = Program(recipe("simclr", solarize=0.25))
    assert {view.solarize for view in program.views.views} == {0.25}
    assert program.recipe.table()["augmentation"]["solarize"] == 0.25
