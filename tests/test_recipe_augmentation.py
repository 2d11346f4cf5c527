"""`[augmentation]` of a recipe: keys of the method's views, replaced."""

from dataclasses import fields, replace

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import AugmentationSpec

pytest.importorskip("torch", reason="reads recipes")

from export.objectives import objective_named
from export.program import Program
from export.recipe import AugmentationTable, make_recipe

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


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"flip": 1.5}, r"augmentation\.flip: want a probability in \[0, 1\], got 1\.5"),
        ({"min_area": 0}, r"augmentation\.min_area: want a number in \(0, 1\], got 0"),
        ({"contrast": -1}, r"augmentation\.contrast: want a number >= 0, got -1"),
        ({"hue": 0.6}, r"augmentation\.hue: want a number in \[0, 0\.5\], got 0\.6"),
        ({"blur": float("nan")}, r"augmentation\.blur: want a probability .* got nan"),
        ({"max_area": 0.01}, r"min_area 0\.08 is above max_area 0\.01\. Give both\."),
        ({"flap": 0.5}, "augmentation: unknown key flap; known are min_area, .*flip"),
        ({"flip": "never"}, r"augmentation\.flip: want a number, got 'never'"),
    ],
)
def test_wrong_values_are_named(augmentation: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**augmentation)
