"""Token policy `evit` against its definition."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from combinations import keep_ratios  # noqa: E402
from encoded import encoded  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from lowered import lowered, run  # noqa: E402
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

from edge_export import vit  # noqa: E402
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.policies.base import Tokens, topk_indices  # noqa: E402
from edge_export.policies.evit import EvitPolicy, Options, fused  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.names import LOSS  # noqa: E402

STAGES = (1, 3, 4)  # of six blocks


def masks(selected, branch):
    """Which of the first 16 patches are keys in each of 6 blocks."""
    left = torch.arange(16).expand(6, 16)
    found = []
    for block in range(6):
        found.append(mask_of(left, 16))
        if block in STAGES:
            left = left.gather(1, selected[f"kept.{branch}.global.{block}"])
    assert left.shape[1] < 16
    return found


@pytest.mark.parametrize("method", [m for m in OBJECTIVES if keep_ratios(m, "evit")])
def test_gathering_equals_masking(method):
    bound = program(method, "evit")
    inputs = inputs_of(bound, 0.7)
    actual, outputs = gradients(bound, 0.7, inputs)
    branches = ["student", "teacher"] if bound.teacher_names else ["student"]
    assert list(outputs.selected) == [
        f"kept.{branch}.global.{block}" for block in STAGES for branch in branches
    ]
    student, *teacher = (masks(outputs.selected, branch) for branch in branches)
    wanted, loss = masked_gradients(bound, inputs, student, *(teacher or [[]]))
    np.testing.assert_allclose(outputs.metrics[LOSS], loss, rtol=1e-12)
    assert_close(actual, wanted)


def encode_slowly(bound, weights, images, keep_ratio, *, fuse):
    """One picture through the encoder: its class token, and the patches that stay. Slow on
    purpose; with `fuse`, the joined token is patch None.
    """
    model, grid = bound.model, bound.grid(bound.views[0], bound.settings[0])
    x = grid.embed(weights, grid.cut(images[None]), grid.positions(weights))
    patches = list(range(16))
    for block in range(model.depth):
        name = vit.block_name(block)
        after = vit.attend(weights, name, model.heads, x)
        rows = list(after.tokens[0])
        if block in STAGES:
            scores = [
                sum(float(head[0, 1 + i]) for head in after.probabilities[0]) / model.heads
                for i in range(len(patches))
            ]
            by_score = sorted(range(len(patches)), key=lambda i: (-scores[i], i))
            kept = sorted(by_score[: math.ceil(keep_ratio * len(patches))])
            dropped = [i for i in range(len(patches)) if i not in kept]
            new = [rows[0], *(rows[1 + i] for i in kept)]
            patches = [patches[i] for i in kept]
            if fuse:
                new.append(sum(scores[i] * rows[1 + i] for i in dropped))
                patches.append(None)
            rows = new
        x = vit.feed_forward(weights, name, torch.stack(rows)[None])
    return vit.layer_norm(weights, f"{vit.ENCODER}norm", x)[0, 0], patches


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("keep_ratio", [0.75, 0.4])
def test_features_are_those_of_the_definition(keep_ratio, fuse):
    bound = program("simclr", "evit", fuse=fuse)
    inputs = inputs_of(bound, keep_ratio)
    weights = parameters_of(bound, inputs)
    student = encoded(rung_of(bound, keep_ratio), weights, inputs).student
    for view in range(2):
        for row in range(3):
            features, patches = encode_slowly(
                bound, weights, inputs["images.global"][view, row], keep_ratio, fuse=fuse
            )
            np.testing.assert_allclose(student.features[view, row], features, rtol=1e-9)
            named = [-1 if patch is None else patch for patch in patches]
            assert student.kept[view, row].tolist() == named


def test_fusing_adds_a_token_at_each_stage():
    """16 patches at 0.5: 8 and one that is fused, of these 9 again 5 and one, 3 and one."""
    assert tokens_of(program("simclr", "evit"), 0.5) == (17, 17, 9, 9, 5, 3)
    assert tokens_of(program("simclr", "evit", fuse=True), 0.5) == (17, 17, 10, 10, 7, 5)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_the_largest_stay_in_order_and_of_equal_ones_the_first(values, data):
    kept = data.draw(st.integers(1, len(values)))
    attention = torch.tensor([values, values[::-1]], dtype=torch.float32)
    for row, numbers in zip(topk_indices(attention, kept), attention.tolist(), strict=True):
        by_value = sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))
        assert row.tolist() == sorted(by_value[:kept])


def test_equal_attention_is_decided_the_same_in_a_graph():
    attention = torch.tensor([[1.0, 2, 1, 2, 1, 2], [0, 0, 0, 0, 0, 0]])
    (found,) = run(lowered(lambda x: topk_indices(x, 4), attention), attention)
    assert found.tolist() == [[0, 1, 3, 5], [0, 1, 2, 3]]


def sequences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    attention = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    return x, attention, torch.tensor([[0, 2, 3], [1, 2, 4]])


def test_the_fused_token_is_a_sum_with_the_attention_as_weights():
    x, attention, kept = sequences()
    actual = fused(Tokens(x, torch.arange(5).expand(2, 5)), attention, kept)
    for row, dropped in enumerate(([1, 4], [0, 3])):
        wanted = sum(attention[row, i] * x[row, 1 + i] for i in dropped)
        np.testing.assert_allclose(actual[row, 0], wanted, rtol=1e-12)


def test_gradients_reach_the_fused_tokens_and_their_attention():
    x, attention, kept = sequences()

    def joined(x, attention):
        return fused(Tokens(x, kept), attention, kept)

    x, attention = x.requires_grad_(), attention.requires_grad_()
    assert torch.autograd.gradcheck(joined, (x, attention))
    joined(x, attention).sum().backward()
    assert not x.grad[0, [0, 1, 3, 4]].any()  # the class token and the kept ones
    assert x.grad[0, [2, 5]].all()
    assert (attention.grad[0] != 0).tolist() == [False, True, False, False, True]


def test_a_method_that_reads_single_patches_cannot_have_them_fused():
    setting = rung_of(program("simclr", "evit", fuse=True), 0.5).policy.setting
    (group,) = setting.groups
    views = (replace(group, patch_tokens=True),)
    setting = replace(setting, method=replace(setting.method, views=views))
    message = "reads the tokens of single patches of view group 'global', and evit with tokens"
    with pytest.raises(ConfigError, match=message):
        EvitPolicy(setting)
    EvitPolicy(replace(setting, options=Options(fuse=False)))
