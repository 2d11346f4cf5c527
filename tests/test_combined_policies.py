"""`a+b`: token policies in one step, against the same choices as masks; refusals."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from encoded import encoded  # noqa: E402
from test_policies import (  # noqa: E402
    assert_close,
    gradients,
    inputs_of,
    mask_of,
    masked_gradients,
    parameters_of,
    program,
    rung_of,
    tokens_of,
)

from edge_export.declaration import Declaration  # noqa: E402
from edge_export.policies import POLICIES, RandomPolicy, TokenPolicy  # noqa: E402
from edge_export.policies.base import Tokens  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.names import LOSS  # noqa: E402

COMBINED = "random+simprune"


def test_rates_multiply():
    """16 patches: half are embedded, and three stages keep half of the rest: 8, 4, 2, 1."""
    assert tokens_of(program("simclr", COMBINED), 0.5) == (9, 9, 5, 5, 3, 2)
    assert tokens_of(program("simclr", "random"), 0.5) == (9,) * 6
    assert tokens_of(program("simclr", "simprune"), 0.5) == (17, 17, 9, 9, 5, 3)


def test_gathering_is_masking_for_a_combination():
    bound = program("simclr", COMBINED)
    inputs = inputs_of(bound, 0.7)
    actual, outputs = gradients(bound, 0.7, inputs)
    left = inputs["keep.global"].flatten(0, 1)  # (6, 12), the patch of each token
    masks = []
    for block in range(6):
        masks.append(mask_of(left, 16))
        if f"kept.online.global.{block}" in outputs.selected:
            kept = [
                outputs.selected[f"kept.{side}.global.{block}"]
                for side in ("online", "target")
            ]
            left = left.gather(1, torch.cat(kept))
    assert left.shape[1] < 12
    wanted, loss = masked_gradients(bound, inputs, masks, [])
    np.testing.assert_allclose(outputs.metrics[LOSS], loss, rtol=1e-12)
    assert_close(actual, wanted)


def test_an_encoding_says_which_patches_its_tokens_are():
    bound = program("simclr", COMBINED)
    inputs, rung = inputs_of(bound, 0.7), rung_of(bound, 0.7)
    found = encoded(rung, parameters_of(bound, inputs), inputs)
    left = inputs["keep.global"].flatten(0, 1)
    for block in range(6):
        if f"kept.online.global.{block}" in found.selected:
            sides = ("online", "target")
            kept = [found.selected[f"kept.{side}.global.{block}"] for side in sides]
            left = left.gather(1, torch.cat(kept))
    assert torch.equal(found.student.kept.flatten(0, 1), left)
    assert found.student_tokens[-1] == left.shape[1] + 1


def test_draws_and_curves_are_those_of_both():
    bound = program("simclr", COMBINED)
    (draw,) = rung_of(bound, 0.5).draws
    assert (draw.input, draw.kept, draw.population) == ("keep.global", 8, 16)
    assert "progress" in bound.hyper_parameters


def test_options_go_to_the_policy_that_knows_them():
    bound = program("simclr", COMBINED, placement="after-block")
    assert bound.recipe.tokens.options == {
        "placement": "after-block",
        "direction": "least-to-most",
        "paired": True,
    }
    assert tokens_of(bound, 0.5) == (9, 9, 5, 5, 3, 3)


def test_options_that_neither_knows_are_refused():
    with pytest.raises(ConfigError, match="key colour; known are placement, direction, pai"):
        program("simclr", COMBINED, colour="red")


@pytest.mark.parametrize("name", [COMBINED, "simprune+random"])
def test_pairs_of_branches_of_different_lengths_are_refused(name):
    message = (
        "tokens.name: simprune pairs the tokens of student and teacher, and random shortens "
        r"only the student\. Use one of the two\."
    )
    with pytest.raises(ConfigError, match=message):
        program("mocov3", name)


@pytest.mark.parametrize(
    ("name", "after", "instead"),
    [
        ("simprune+evit", "simprune", ", or evit+simprune"),
        ("random+simprune+tome", "simprune", ", or tome+simprune"),
        ("evit+tome", "evit", ""),
        ("tome+evit", "tome", ""),
    ],
)
def test_attention_of_other_tokens_is_not_read(name, after, instead):
    last = name.rpartition("+")[2]
    message = (
        f"tokens.name: {last} reads the attention of a block after {after} has changed its "
        f"tokens. Use one of the two{instead}."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        program("simclr", name)


@pytest.mark.parametrize("placement", ["before-block", "after-block"])
def test_attention_is_read_after_tokens_were_pruned_between_blocks(placement):
    """16 patches: pruned before blocks 2, 4 and 5, or 3, 5 and 6; and in 2, 4 and 5."""
    tokens = tokens_of(program("mocov3", "simprune+evit", placement=placement), 0.5)
    assert (
        tokens
        == {
            "before-block": (17, 9, 5, 3, 2, 2),
            "after-block": (17, 17, 5, 5, 2, 2),
        }[placement]
    )


@pytest.mark.parametrize("method", ["simclr", "mocov3"])
def test_attention_is_read_before_another_policy_changes_the_tokens(method):
    """Each stage keeps a quarter of its tokens, at least one: 16, 4, 1."""
    assert tokens_of(program(method, "evit+simprune"), 0.5) == (17, 17, 5, 5, 2, 2)


def test_a_fused_token_has_size_one_and_no_patch():
    generator = torch.Generator().manual_seed(0)
    x, token = (torch.randn(2, n, 3, generator=generator) for n in (4, 1))
    tokens = Tokens(x, torch.arange(3).expand(2, 3), torch.full((2, 4), 2.0))
    tokens.append(token)
    assert torch.equal(tokens.x, torch.cat([x, token], dim=1))
    assert tokens.kept.tolist() == [[0, 1, 2, -1]] * 2
    assert tokens.sizes.tolist() == [[2, 2, 2, 2, 1]] * 2
    assert tokens.embedded == 3


def test_two_that_choose_the_patches_are_refused(monkeypatch):
    class OtherRandom(RandomPolicy):
        name = "other"

        @property
        def declaration(self):
            return Declaration()

    monkeypatch.setitem(POLICIES, "other", OtherRandom)
    with pytest.raises(ConfigError, match="random and other both choose the patches"):
        program("simclr", "random+other")


def test_two_that_use_one_name_are_refused(monkeypatch):
    class Same(TokenPolicy):
        name = "same"
        declaration = POLICIES["simprune"].declaration

    monkeypatch.setitem(POLICIES, "same", Same)
    message = "hyper-parameter 'progress' is declared 2 times: the method, the token policy"
    with pytest.raises(ConfigError, match=message):
        program("simclr", "simprune+same")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random+random", r"token policy 'random\+random': each policy at most once\."),
        (
            "random+evits",
            "unknown token policy 'evits'; known are none, random, simprune, evit",
        ),
        ("random+", "unknown token policy ''; known are none"),
    ],
)
def test_names_that_cannot_be_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        program("simclr", name)


def test_none_in_a_combination_changes_nothing():
    alone, with_none = program("simclr", "random"), program("simclr", "none+random")
    inputs = inputs_of(alone, 0.5)
    actual, expected = gradients(with_none, 0.5, inputs), gradients(alone, 0.5, inputs)
    assert actual[1].metrics[LOSS] == expected[1].metrics[LOSS]
    assert_close(actual[0], expected[0])


def test_a_recipe_of_a_combination_is_the_same_recipe_again():
    made = program("simclr", COMBINED, direction="most-to-least").recipe
    assert make_recipe(made.table(), where="manifest") == made
    assert Program(make_recipe(made.table(), where="manifest")).hyper_parameters
