"""Token policy `aps` in a step; its draws on the host are in test_data_draws.py."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from combinations import METHODS_ON_ALL_TOKENS, keep_ratios  # noqa: E402
from test_policies import (  # noqa: E402
    assert_close,
    gradients,
    inputs_of,
    mask_of,
    masked_gradients,
    program,
    rung_of,
    tokens_of,
)

from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.manifest import DrawSpec, NonOverlap  # noqa: E402
from edge_runtime.package.names import LOSS  # noqa: E402


@pytest.mark.parametrize("method", METHODS_ON_ALL_TOKENS)
def test_gathering_equals_masking_in_both_branches(method):
    """A teacher keeps the same patches of a view as the student."""
    bound = program(method, "aps")
    inputs = inputs_of(bound, 0.3)
    actual, outputs = gradients(bound, 0.3, inputs)
    kept = inputs["keep.global"]
    assert kept.shape == (2, 3, 5)
    masks = [mask_of(kept.flatten(0, 1), 16)] * 6
    wanted, loss = masked_gradients(bound, inputs, masks, masks)
    np.testing.assert_allclose(outputs.metrics[LOSS], loss, rtol=1e-12)
    assert_close(actual, wanted)


def test_the_draw_names_the_views_and_the_power():
    law = NonOverlap(group="global", power=3.0)
    draw = DrawSpec(input="keep.global", views=2, kept=8, population=16, non_overlap=law)
    assert rung_of(program("simclr", "aps"), 0.5).draws == (draw,)
    (other,) = rung_of(program("simclr", "aps", power=1), 0.5).draws
    assert other.non_overlap == NonOverlap(group="global", power=1.0)
    assert rung_of(program("simclr", "aps"), 1.0).draws == ()
    (random,) = rung_of(program("simclr", "random"), 0.5).draws
    assert random.non_overlap is None


@pytest.mark.parametrize("method", ["simclr", "mocov3"])
def test_pairs_can_be_pruned_of_what_is_left(method):
    """Both branches are equally long, so student and teacher can be paired."""
    assert tokens_of(program(method, "aps+simprune"), 0.5) == (9, 9, 5, 5, 3, 2)


def table(method="simclr", tokens="aps", **options):
    return {
        "model": {"name": "vit_tiny", "image_size": 16, "patch_size": 4, "depth": 2,
                  "width": 24, "heads": 2},
        "method": {"name": method, **options},
        "tokens": {"name": tokens},
        "keep_ratios": [0.5],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"method": "mae"},
            "tokens.name: aps needs two views of each picture, and view group 'global' has 1. "
            "Use token policy 'random'.",
        ),
        (
            {"method": "dino", "local_views": 2},
            "tokens.name: aps keeps the patches of two views apart, and the views of group "
            "'local', which no policy shortens, would overlap with both. Leave them out, or "
            "use token policy 'random'.",
        ),
        (
            {"tokens": "random+aps"},
            "tokens.name: random and aps both choose the patches that are embedded, so they "
            "cannot be combined. Use one of them.",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes, problem):
    with pytest.raises(ConfigError) as caught:
        make_recipe(table(**changes), where="mine.toml")
    assert str(caught.value).splitlines()[1:] == [f"  {problem}"]


def test_dino_works_without_local_views():
    assert keep_ratios("dino", "aps") == [1.0, 0.5]
    make_recipe(table("dino"), where="test")


def test_a_power_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"power: expected a number in \[0, 10\], got -1"):
        program("simclr", "aps", power=-1)
