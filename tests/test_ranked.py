"""Token policy `ranked` against its definition."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from combinations import keep_ratios  # noqa: E402
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

from edge_export import vit  # noqa: E402
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.policies.ranked import (  # noqa: E402
    REPAIR_TOKENS,
    Options,
    RankedPolicy,
    blocks_before,
    importance,
    initial_ranker_weights,
    ranker_parameters,
)
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.manifest import ModelFacts  # noqa: E402
from edge_runtime.package.names import BUFFER, EMA, LOSS, PARAM  # noqa: E402

SCORE = f"{BUFFER}ranker.score.weight"


def kept_name(branch, after=1):
    return f"kept.ranked.{branch}.global.{after}"


def gelu(value):
    return value * (1 + math.erf(value / math.sqrt(2))) / 2


def layer_slowly(weights, name, row):
    matrix, bias = weights[f"{name}.weight"].tolist(), weights[f"{name}.bias"].tolist()
    return [
        bias[j] + sum(row[i] * matrix[i][j] for i in range(len(row))) for j in range(len(bias))
    ]


def importance_slowly(weights, tokens):
    """Scores of the patch tokens of one picture, number by number: lists of floats."""
    local = []
    for row in tokens[1:]:
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-6)
        scale, shift = (weights[f"ranker.norm.{name}"].tolist() for name in ("weight", "bias"))
        rows = [(x - mean) / deviation * scale[i] + shift[i] for i, x in enumerate(row)]
        local.append([gelu(x) for x in layer_slowly(weights, "ranker.pool", rows)])
    shared = [sum(column) / len(local) for column in zip(*local, strict=True)]
    score = weights["ranker.score.weight"].tolist()
    return [
        sum(
            score[i] * gelu(x)
            for i, x in enumerate(layer_slowly(weights, "ranker.mix", row + shared))
        )
        for row in local
    ]


def some_ranker(width=6):
    """Weights of which none is zero or one."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: (value + 0.2 * torch.randn(value.shape, generator=generator)).double()
        for name, value in initial_ranker_weights(width).items()
    }


def test_scores_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    ranker = some_ranker()
    for found, tokens in zip(importance(ranker, x), x.tolist(), strict=True):
        np.testing.assert_allclose(found, importance_slowly(ranker, tokens), rtol=1e-9)


def test_the_order_of_patches_does_not_matter_and_the_class_token_has_no_part():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
    order, ranker = torch.randperm(8, generator=generator), some_ranker()
    turned = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:][:, order]], dim=1)
    wanted = importance(ranker, x)[:, order]
    np.testing.assert_allclose(importance(ranker, turned), wanted, rtol=1e-9)


@pytest.mark.parametrize("method", [m for m in OBJECTIVES if keep_ratios(m, "ranked")])
def test_gathering_equals_masking(method):
    bound = program(method, "ranked")
    inputs = inputs_of(bound, 0.7)
    actual, outputs = gradients(bound, 0.7, inputs)
    branches = ["student", "teacher"] if bound.teacher_names else ["student"]
    assert list(outputs.selected) == [kept_name(branch) for branch in branches]
    student, *teacher = (
        [mask_of(torch.arange(16).expand(6, 16), 16)]
        + [mask_of(outputs.selected[kept_name(branch)], 16)] * 5
        for branch in branches
    )
    assert student[1].sum() == 6 * 12  # of 16 at 0.7
    wanted, loss = masked_gradients(bound, inputs, student, *(teacher or [[]]))
    np.testing.assert_allclose(outputs.metrics[LOSS], loss, rtol=1e-12)
    assert_close(actual, wanted)  # of the encoder and heads alone: the ranker is not trained


def encode_slowly(bound, inputs, weights, images, keep_ratio, repair):
    """One picture through the encoder: its class token, and the patches that stay."""
    model, grid = bound.model, bound.grid(bound.views[0], bound.settings[0])
    ranker = {p.name: inputs[BUFFER + p.name] for p in ranker_parameters(model.width)}
    x = grid.embed(weights, grid.cut(images[None]), grid.positions(weights))
    patches = list(range(16))
    for block in range(model.depth):
        if block == 1:
            scores = importance_slowly(ranker, x[0].tolist())
            by_score = sorted(patches, key=lambda i: (-scores[i], i))
            patches = sorted(by_score[: math.ceil(keep_ratio * 16)])
            rows = [x[0, 0], *(x[0, 1 + i] for i in patches)]
            if repair:
                rows += [weights[REPAIR_TOKENS][0, i] for i in range(repair)]
                patches += [-1] * repair
            x = torch.stack(rows)[None]
        x = vit.block(weights, vit.block_name(block), model.heads, x)
    return vit.layer_norm(weights, f"{vit.ENCODER}norm", x)[0, 0], patches


@pytest.mark.parametrize("repair", [0, 3])
def test_features_are_those_of_the_definition(repair):
    bound = program("simclr", "ranked", repair=repair)
    inputs = inputs_of(bound, 0.4)
    weights = parameters_of(bound, inputs)
    student = encoded(rung_of(bound, 0.4), weights, inputs).student
    for view in range(2):
        for row in range(3):
            features, patches = encode_slowly(
                bound, inputs, weights, inputs["images.global"][view, row], 0.4, repair
            )
            np.testing.assert_allclose(student.features[view, row], features, rtol=1e-9)
            assert student.kept[view, row].tolist() == patches


def test_the_tokens_of_each_block():
    assert tokens_of(program("simclr", "ranked"), 0.5) == (17, 9, 9, 9, 9, 9)
    assert tokens_of(program("simclr", "ranked", after=3), 0.5) == (17, 17, 17, 9, 9, 9)
    assert tokens_of(program("simclr", "ranked", after=0), 0.5) == (9,) * 6
    assert tokens_of(program("mocov3", "ranked", repair=2), 0.5) == (17, 11, 11, 11, 11, 11)


def test_only_the_ranker_of_the_state_selects():
    """The opposite scores keep what was dropped; another initial ranker does not matter."""
    bound = program("mocov3", "ranked")
    inputs = inputs_of(bound, 0.5)
    _, outputs = gradients(bound, 0.5, inputs)
    _, others = gradients(bound, 0.5, {**inputs, SCORE: -inputs[SCORE]})
    for branch in ("student", "teacher"):
        kept, dropped = (each.selected[kept_name(branch)] for each in (outputs, others))
        assert torch.equal(
            torch.cat([kept, dropped], 1).sort(1)[0], torch.arange(16).expand(6, 16)
        )
    student, teacher = (outputs.selected[kept_name(b)] for b in ("student", "teacher"))
    assert not torch.equal(student, teacher)  # each by its own tokens


def test_repair_tokens_are_trained_and_the_teacher_has_its_own():
    bound = program("mocov3", "ranked", repair=2)
    assert REPAIR_TOKENS in bound.teacher_names
    assert REPAIR_TOKENS not in bound.encoder_names
    inputs = inputs_of(bound, 0.5)
    found, outputs = gradients(bound, 0.5, inputs)
    assert found[REPAIR_TOKENS].shape == (1, 2, 24)
    assert (found[REPAIR_TOKENS].norm(dim=2) > 0).all()
    other = torch.linspace(-1, 1, 24, dtype=torch.float64)  # LayerNorm would undo a constant
    for prefix in (PARAM, EMA):
        changed = {**inputs, prefix + REPAIR_TOKENS: inputs[prefix + REPAIR_TOKENS] + other}
        assert gradients(bound, 0.5, changed)[1].metrics[LOSS] != outputs.metrics[LOSS]


def test_where_nothing_is_dropped_nothing_is_repaired():
    bound, plain = program("mocov3", "ranked", repair=2), program("mocov3", "none")
    inputs = inputs_of(bound, 1.0)
    found, outputs = gradients(bound, 1.0, inputs)
    wanted, expected = gradients(plain, 1.0, inputs)
    assert outputs.metrics[LOSS] == expected.metrics[LOSS]
    assert not found.pop(REPAIR_TOKENS).any()
    assert_close(found, wanted)


def test_half_precision_scores_in_float32():
    ranker = {name: value.float() for name, value in some_ranker().items()}
    x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    assert importance(ranker, x.half()).dtype == torch.float32


def facts(depth) -> ModelFacts:
    return replace(program("simclr", "none").model, depth=depth)


def test_the_place_is_a_quarter_of_the_blocks():
    places = [blocks_before(facts(depth), Options()) for depth in (1, 2, 3, 4, 6, 8, 12, 24)]
    assert places == [0, 1, 1, 1, 1, 2, 3, 6]


def test_what_cannot_work_is_refused():
    message = r"tokens.after: expected 0 to 5, .* 6 block\(s\) .* got 6"
    with pytest.raises(ConfigError, match=message):
        program("simclr", "ranked", after=6)
    with pytest.raises(ConfigError, match="repair"):
        program("simclr", "ranked", repair=5)
    setting = rung_of(program("simclr", "ranked", repair=1), 0.5).policy.setting
    mean = replace(setting, model=replace(setting.model, features="mean-patches"))
    with pytest.raises(ConfigError, match=r"tokens.repair: with .* 'mean-patches'"):
        RankedPolicy(mean)
    (group,) = setting.groups
    views = (replace(group, patch_tokens=True),)
    single = replace(setting, method=replace(setting.method, views=views))
    with pytest.raises(ConfigError, match=r"ranked with tokens.repair adds tokens of none"):
        RankedPolicy(single)
    for refused in (mean, single):
        RankedPolicy(replace(refused, options=Options()))
