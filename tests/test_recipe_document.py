"""docs/recipe.md has every key of a recipe, with its type, default and flag."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("torch", reason="recipes are read on the torch side")

from edge_export.models import FAMILIES, model_facts
from edge_export.objectives import OBJECTIVES
from edge_export.ort_training import artifacts
from edge_export.parametrizations import PARAMETRIZATIONS
from edge_export.policies import POLICIES
from edge_export.recipe import (
    AugmentationTable,
    DistillationTable,
    ModelTable,
    OptimizerTable,
    Recipe,
    SelfDistillationTable,
    make_recipe,
    read_recipe,
)
from edge_export.step.program import Program
from edge_runtime.cli.export import _FLAGS

TABLES = (
    "model",
    "method",
    "tokens",
    "parametrization",
    "self_distillation",
    "distillation",
    "optimizer",
    "augmentation",
)
OTHER_CHOICE_KEYS = {"method": ["method.teacher_delay"]}  # beside name and options
DOCUMENT = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text()


def rows(heading):
    """The cells of the table after a heading, without backquotes; [] without a table."""
    (section,) = re.findall(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", DOCUMENT, re.M | re.S
    )
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "true or false",
    tuple[float, ...]: "list of numbers",
    tuple[int, ...]: "list of integers",
    tuple[str, ...]: "list of strings",
}


def type_names(kind):
    """The documented type of each field; ranges and `None` are left out."""
    names = {}
    for key, hint in get_type_hints(kind).items():
        plain = [part for part in (hint, *get_args(hint)) if part in TYPES]
        names[key] = TYPES[plain[0]] if plain else None
    return names


def default_text(item):
    value = item.default if item.default is not MISSING else item.default_factory()
    if isinstance(value, str):
        return f'"{value}"'
    return json.dumps(value)


def assert_documented(heading, prefix, kind, *, skip=()):
    documented = {row[0]: row for row in rows(heading)}
    declared = {prefix + item.name: item for item in fields(kind) if item.name not in skip}
    assert documented.keys() == declared.keys()
    types = type_names(kind)
    for key, item in declared.items():
        assert documented[key][1] == types[item.name]
        if item.default is not None:
            assert documented[key][2] == default_text(item)


def test_the_document_has_every_key_with_its_type_and_default():
    assert_documented("Keys", "", Recipe, skip=TABLES)
    assert_documented("`[model]`", "model.", ModelTable)
    assert_documented("`[self_distillation]`", "self_distillation.", SelfDistillationTable)
    table = "distillation"
    assert_documented(f"`[{table}]`", f"{table}.", DistillationTable, skip=("teacher",))
    assert_documented("`[optimizer]`", "optimizer.", OptimizerTable)
    assert_documented("`[augmentation]`", "augmentation.", AugmentationTable)
    for table in ("method", "tokens", "parametrization"):
        (key, kind, default, *_), *others = rows(f"`[{table}]`")
        assert [row[0] for row in others] == OTHER_CHOICE_KEYS.get(table, [])
        assert (key, kind) == (f"{table}.name", "string")
        assert default == f'"{getattr(Recipe(), table).name}"'


@pytest.mark.parametrize(
    ("table", "name", "options"),
    [
        *(("method", name, objective.options) for name, objective in OBJECTIVES.items()),
        *(("tokens", name, policy.options) for name, policy in POLICIES.items()),
        *(
            ("parametrization", name, parametrization.options)
            for name, parametrization in PARAMETRIZATIONS.items()
            if name not in POLICIES  # `none` has no options in either
        ),
    ],
)
def test_the_document_has_every_option(table, name, options):
    assert_documented(f"Options of `{name}`", f"{table}.", options)


def test_the_document_names_all_methods_and_policies():
    assert [row[0] for row in rows("Methods")] == list(OBJECTIVES)
    known = {"method": OBJECTIVES, "tokens": POLICIES, "parametrization": PARAMETRIZATIONS}
    for table, names in known.items():
        (*_, meaning), *_ = rows(f"`[{table}]`")
        listed = meaning.partition(";")[0]
        assert re.findall(r"[\w-]+", listed.replace(" or ", " ")) == list(names)


def test_the_document_has_the_methods_defaults():
    for name, *cells in rows("Methods"):
        defaults = OBJECTIVES[name].defaults
        momentum = "no teacher" if defaults.ema_momentum is None else defaults.ema_momentum
        wanted = [
            defaults.lr_at_256,
            defaults.weight_decay,
            defaults.warmup_epochs,
            momentum,
        ]
        assert cells == [str(value) for value in wanted]


def test_the_document_has_the_methods_views():
    (table,) = re.findall(
        r"^\| method \| image size \|.*\n\|.*\n((?:\|.*\n)+)", DOCUMENT, re.M
    )
    one_view = ["mae", "distillation"]
    (sentence,) = re.findall(r"^All but `mae` and `\w+` take two views .*", DOCUMENT, re.M)
    shared = {"max_area": 1, "flip": 0.5, "jitter": 0.8, "brightness": 0.4, "contrast": 0.4}
    shared |= {"hue": 0.1, "grayscale": 0.2}
    assert re.findall(r"`(\w+)`", sentence) == [*one_view, *shared]
    places = {"both": (0, 1), "first": (0,), "second": (1,)}
    seen = set()
    for line in table.splitlines():
        name, size, place, *numbers = [cell.strip(" `") for cell in line.strip("|").split("|")]
        for index in places[place]:
            side = 63 if size == "below 64 px" else 64
            model = model_facts("vit_tiny", image_size_px=side, patch_size_px=1)
            objective = OBJECTIVES[name](model, OBJECTIVES[name].options())
            (group,) = objective.declaration.views
            view = group.views[index]
            seen.add((name, size, index))
            keys = ("min_area", "saturation", "blur", "solarize")
            values = dict(zip(keys, map(float, numbers), strict=True))
            assert {key: getattr(view, key) for key in shared | values} == shared | values
    assert {name for name, *_ in seen} == OBJECTIVES.keys() - {*one_view}
    assert len(seen) == 4 * (len(OBJECTIVES) - 2)


def test_the_document_has_the_view_of_mae():
    (sentence,) = re.findall(r"^The one view of `mae` has (.*)\.$", DOCUMENT, re.M)
    values = {key: float(value) for key, value in re.findall(r"`(\w+)` ([\d.]+)", sentence)}
    model = model_facts("vit_tiny", image_size_px=64, patch_size_px=1)
    (group,) = OBJECTIVES["mae"](model, OBJECTIVES["mae"].options()).declaration.views
    assert len(values) == 7
    assert {key: getattr(group.views[0], key) for key in values} == values


def test_the_document_has_the_default_ladder_of_mae():
    ((*_, meaning),) = [row for row in rows("Keys") if row[0] == "keep_ratios"]
    ladder = json.dumps(list(OBJECTIVES["mae"].defaults.keep_ratios))
    assert f"`{ladder}` for method `mae" in meaning


def test_the_document_has_the_families():
    families = {name: tuple(map(int, sizes)) for name, *sizes in rows("Models")}
    assert families == FAMILIES


def test_the_document_has_the_flags():
    sections = ("Keys", *(f"`[{table}]`" for table in TABLES))
    documented = {row[0]: row[3] for heading in sections for row in rows(heading) if row[3]}
    flags = {path: "--" + flag.replace("_", "-") for flag, path in _FLAGS.items()}
    assert documented == flags


def test_the_documents_examples_are_recipes(tmp_path):
    examples = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.S)
    assert len(examples) == 4
    for example in examples:
        path = tmp_path / "recipe.toml"
        path.write_text(example)
        make_recipe(read_recipe(path), where=str(path))
    last = Program(make_recipe(read_recipe(path), where="last"))
    assert "exempt_vectors" in str(artifacts.refusal(last))  # as the page says of it
