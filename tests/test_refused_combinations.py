"""Combinations of a recipe's parts: refused when it is read, as documented, or they run."""

import re
from dataclasses import fields, replace
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="recipes are read on the torch side")

from combinations import MODEL  # noqa: E402
from paired_objective import Paired  # noqa: E402

from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.policies import POLICIES  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.example import example_draws, example_images, example_targets  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.names import PARAM  # noqa: E402

DOCUMENT = (Path(__file__).parents[1] / "docs/methods.md").read_text()
SHORTENING = [name for name in POLICIES if name != "none"]
ONE_OR_TWO = [*POLICIES, *("+".join(pair) for pair in permutations(SHORTENING, 2))]
LOCAL = {"local_views": 1}

# Rows about other keys than `tokens.name`: what is added to a recipe of the row's methods
OTHER_KEYS = {
    "`keep_ratios` that keep all patches": {"keep_ratios": [1.0]},
    "`keep_ratios` below 1.0 with token policy `none`": {"tokens": {"name": "none"}},
    "`patch_sizes` other than the model's": {"patch_sizes": [8]},
    "`micro_batches` smaller than the batch": {"micro_batches": [2]},
    "`optimizer.ema_momentum`": {"optimizer": {"ema_momentum": 0.9}},
    "`lora-R` of two ranks in `trained`": {"trained": ["lora-2", "lora-4"]},
    '`lora-R` in `trained` with `parametrization.name = "none"`': {
        "trained": ["lora-2"],
        "parametrization": {"name": "none"},
    },
    "a `parametrization.rank` that no rung trains": {
        "parametrization": {"name": "lora", "rank": 4}
    },
    "`tokens.repair` without `all` in `trained`": {
        "tokens": {"name": "ranked", "repair": 1},
        "trained": ["last-1", "biases"],
    },
}


TEACHER_DELAY = "`method.teacher_delay`"


def table_of(method, tokens="random", options=None, **others):
    return {
        "model": {**MODEL, "width": 16},
        "batch_size": 4,
        "method": {"name": method, **(options or {})},
        "tokens": {"name": tokens},
        "keep_ratios": [1.0] if tokens == "none" else [0.5],
        "distillation": {"weight": float(method == "distillation")},
        **others,
    }


def is_refused(table) -> bool:
    try:
        make_recipe(table, where="test")
    except ConfigError:
        return True
    return False


@cache
def refused(method, tokens) -> bool:
    return is_refused(table_of(method, tokens))


def rows():
    """The cells of the document's table."""
    section = DOCUMENT.partition("\n## Combinations that are refused\n")[2]
    section = section.partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def methods_in(cell):
    named = re.findall(r"`(\w+)`", cell)
    return list(OBJECTIVES) if cell.startswith("any") else named


def policies_in(cell):
    """Policies and combinations that a cell names."""
    names = re.findall(r"`([a-z+]+)`", cell)
    named = [name for name in names if set(name.split("+")) <= POLICIES.keys()]
    if "combinations" in cell:
        named += [c for c in ONE_OR_TWO if set(c.split("+")) & set(named)]
    return named


def rows_about_policies():
    return [row for row in rows() if row[1] not in OTHER_KEYS]


def test_the_document_has_every_policy_that_a_method_refuses():
    documented = {
        (method, tokens)
        for methods, wanted, *_ in rows_about_policies()
        if "`method." not in methods
        for method in methods_in(methods)
        for tokens in policies_in(wanted)
    }
    pairs = {(m, tokens) for m in OBJECTIVES for tokens in ONE_OR_TWO}
    assert documented == {pair for pair in pairs if refused(*pair)}


def test_an_option_of_the_method_may_exclude_a_policy():
    ((methods, tokens, *_),) = [r for r in rows_about_policies() if "`method." in r[0]]
    assert (methods, tokens) == ("`dino` with `method.local_views`", "`aps`")
    for name in ONE_OR_TWO:
        has_aps = "aps" in name.split("+")
        assert is_refused(table_of("dino", name, LOCAL)) == (has_aps or refused("dino", name))


def test_what_the_document_names_instead_works():
    for methods, _, _, instead in rows_about_policies():
        for tokens in policies_in(instead):
            assert not any(refused(method, tokens) for method in methods_in(methods))


def test_the_document_has_a_row_for_each_of_the_other_keys():
    rows_of = {row[1] for row in rows() if not policies_in(row[1])}
    assert rows_of - {TEACHER_DELAY} == OTHER_KEYS.keys() - {
        "`keep_ratios` below 1.0 with token policy `none`"
    }


def test_a_teacher_before_the_step_is_refused_where_there_is_none():
    (row,) = [row for row in rows() if row[1] == TEACHER_DELAY]
    for delay in (0, 1):
        tables = {m: table_of(m, options={"teacher_delay": delay}) for m in OBJECTIVES}
        assert {m for m in OBJECTIVES if is_refused(tables[m])} == set(methods_in(row[0]))


@pytest.mark.parametrize("about", OTHER_KEYS)
def test_other_keys_that_a_method_refuses_are_those_of_the_document(about):
    refusing = {m for m in OBJECTIVES if is_refused(table_of(m) | OTHER_KEYS[about])}
    named = [
        methods_in(methods)
        for methods, wanted, *_ in rows()
        if wanted == about and "`method." not in methods
    ]
    assert refusing == set().union(*named)


def test_batch_norm_refuses_micro_batches_in_every_method_that_has_it():
    (row,) = [row for row in rows() if "head_norm" in row[0]]
    assert row[0] == 'any with `method.head_norm = "batch"`'
    for method, objective in OBJECTIVES.items():
        if "head_norm" in {option.name for option in fields(objective.options)}:
            table = table_of(method, options={"head_norm": "batch"})
            assert not is_refused(table)
            assert is_refused(table | OTHER_KEYS[row[1]])


def test_three_policies_work_together_if_each_two_of_them_do():
    for method in OBJECTIVES:
        for three in permutations(SHORTENING, 3):
            parts = [*three, *("+".join(pair) for pair in combinations(three, 2))]
            wanted = any(refused(method, part) for part in parts)
            assert refused(method, "+".join(three)) == wanted


@pytest.mark.parametrize("method", OBJECTIVES)
def test_what_is_not_refused_runs(method):
    """No part finds out in a step that it does not work."""
    variants = [{}, {"fuse": True}, {"placement": "before-block"}, {"repair": 1}]
    for tokens in ONE_OR_TWO:
        for options in variants:
            table = table_of(method, tokens)
            table["tokens"] |= options
            try:
                recipe = make_recipe(table, where="test")
            except ConfigError:
                continue
            assert torch.isfinite(loss_of(Program(recipe)))


def loss_of(program: Program):
    (settings,) = program.settings
    rung = program.bind(settings)
    hyper = {
        name: torch.tensor(curve.at(1, steps_per_epoch=1, total_steps=1))
        for name, curve in program.hyper_parameters.items()
    }
    inputs = {
        **program.initial_state(),
        **example_images(rung),
        **example_draws(rung),
        **example_targets(rung),
        **hyper,
    }
    parameters = {name: inputs[PARAM + name] for name in program.parameters}
    with torch.no_grad():
        return rung.loss(parameters, inputs)[0]


def test_every_method_with_a_teacher_is_named(monkeypatch):
    """Whether or not it has a default for the momentum."""

    class Own(Paired):
        name = "own"
        defaults = replace(Paired.defaults, ema_momentum=None)

    monkeypatch.setitem(OBJECTIVES, "own", Own)
    method = {"name": "simclr", "teacher_delay": 1}
    with pytest.raises(ConfigError, match=r"or use mocov3 or .* or own"):
        make_recipe({"model": MODEL, "method": method}, where="test")
