"""Golden rankings against leaving patches out one by one, and the ranker that learns them."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="rankings are computed on the torch side")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from teacher_file import write_teacher  # noqa: E402
from torch.nn.functional import cosine_similarity, layer_norm, normalize  # noqa: E402

from edge_export import ranking, vit  # noqa: E402
from edge_export.parameters import initial_values  # noqa: E402
from edge_export.policies.ranked import importance  # noqa: E402
from edge_export.ranking import (  # noqa: E402
    ROUNDS,
    SplitEncoder,
    fit_ranker,
    golden_ranking,
    leave_one_out,
    overlap,
    ranking_bytes,
    ranking_loss,
    split_encoder,
    train_ranker,
    view_group,
)
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402

DROPPED = -1e30
TABLE = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 3, "width": 12, "heads": 2},
    "tokens": {"name": "ranked"},
    "batch_size": 4,
}


def recipe_of(**changes):
    return make_recipe({**TABLE, **changes}, where="test")


@pytest.fixture(scope="module")
def toy():
    """A ViT of 16 patches in float64, whose weights are far from those of a fresh one."""
    model, generator = recipe_of().facts(), torch.Generator().manual_seed(2)
    values = initial_values(vit.encoder_parameters(model), seed=1)
    weights = {
        name: (value + 0.2 * torch.randn(value.shape, generator=generator)).double()
        for name, value in values.items()
    }
    return SplitEncoder(model=model, weights=weights, after=1)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=generator)


def test_both_parts_are_the_encoder_that_is_evaluated(toy, images):
    wanted = Program(recipe_of()).embed(toy.weights, images)
    found = toy.features(toy.tokens(images))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def features_without(toy, x, patch):
    """Features (D,) of one picture whose patch nobody attends to. Slow on purpose."""
    bias = torch.zeros(x.shape[0], dtype=torch.float64)
    bias[1 + patch] = DROPPED
    x = x[None]
    for block in range(toy.after, toy.model.depth):
        name = vit.block_name(block)
        after = vit.attend(toy.weights, name, toy.model.heads, x, bias=bias[None, None, None])
        x = vit.feed_forward(toy.weights, name, after.tokens)
    return vit.layer_norm(toy.weights, "encoder.norm", x)[0, 0]


def test_leaving_out_in_one_batch_is_leaving_out_one_by_one(toy, images):
    x = toy.tokens(images)
    whole = normalize(toy.features(x), dim=1)
    found = leave_one_out(toy.features, x, whole)
    assert found.shape == (3, 16)
    for picture in range(3):
        for patch in range(16):
            rest = [t for t in range(17) if t != 1 + patch]
            gone = toy.features(x[picture : picture + 1, rest])[0]
            hidden = features_without(toy, x[picture], patch)
            for features in (gone, hidden):
                change = 1 - cosine_similarity(features, whole[picture], dim=0)
                assert float(found[picture, patch]) == pytest.approx(float(change), abs=1e-12)
    assert found.min() > 1e-8  # far above the rounding


def mean_of_patches(x):
    return x[:, 1:].mean(dim=1)


def test_a_mean_has_a_closed_form():
    """Without x_i, the mean has the direction of the sum less x_i."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 8, 4, generator=generator, dtype=torch.float64)
    whole = normalize(mean_of_patches(x), dim=1)
    found = leave_one_out(mean_of_patches, x, whole)
    total = x[:, 1:].sum(dim=1, keepdim=True)
    wanted = 1 - cosine_similarity(total - x[:, 1:], total, dim=2)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def ranking_slowly(features, x):
    """The golden ranking of one picture (1, 1 + N, D), a list. Slow on purpose."""
    whole, patches = features(x)[0], x.shape[1] - 1
    left, order = list(range(patches)), []
    while len(left) > 1:
        changes = {}
        for patch in left:
            tokens = [0, *(1 + other for other in left if other != patch)]
            near = features(x[:, tokens])[0]
            changes[patch] = 1 - float(cosine_similarity(near, whole, dim=0))
        by_change = sorted(left, key=lambda patch: (changes[patch], patch))
        order += by_change[: math.ceil(patches / ROUNDS)]
        left = [patch for patch in left if patch not in order]
    return order + left


def test_the_ranking_of_a_vit_is_that_of_the_definition(toy, images):
    x = toy.tokens(images)
    found = golden_ranking(toy.features, x)
    for picture in range(3):
        assert found[picture].tolist() == ranking_slowly(toy.features, x[picture][None])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 45), st.integers(0, 1000))
def test_a_ranking_is_a_permutation_whatever_the_number_of_patches(patches, seed):
    """With more than 20, several go in a round."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 1 + patches, 3, generator=generator, dtype=torch.float64)
    found = golden_ranking(mean_of_patches, x)
    assert torch.equal(found.sort(dim=1)[0], torch.arange(patches).expand(2, -1))
    for picture in range(2):
        assert found[picture].tolist() == ranking_slowly(mean_of_patches, x[picture][None])


def test_the_loss_is_the_mean_over_pairs():
    scores = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]])
    ranks = torch.tensor([[0, 2, 1], [2, 1, 0]])
    terms = [
        math.log1p(math.exp(b - a))
        for row, order in zip(scores.tolist(), ranks.tolist(), strict=True)
        for a, more in zip(row, order, strict=True)
        for b, less in zip(row, order, strict=True)
        if more > less
    ]
    assert len(terms) == 6
    assert float(ranking_loss(scores, ranks)) == pytest.approx(sum(terms) / 6, rel=1e-6)


def test_the_overlap_is_the_share_of_the_first_in_common():
    first = torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]])
    second = torch.tensor([[1, 3, 2, 0], [3, 2, 1, 0]])
    assert overlap(first, second, 2) == 0.5  # all of the first picture, none of the second
    assert overlap(first, second, 3) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_a_ranker_learns_a_ranking_and_its_scores_rise_with_importance():
    """Importance is a direction of the normalised tokens; other pictures are judged."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 17, 8, generator=generator)
    golden = layer_norm(x, [8])[:, 1:, 0].argsort(dim=1)
    weights = fit_ranker(x[:64], golden[:64], seed=0)
    scores = importance(weights, x[64:])
    assert overlap(scores.argsort(dim=1), golden[64:], 4) > 0.8
    assert overlap(scores.argsort(dim=1, descending=True), golden[64:], 4) < 0.1
    again = fit_ranker(x[:64], golden[:64], seed=0)
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_a_trained_ranker_has_what_its_file_says(tmp_path):
    recipe = recipe_of(tokens={"name": "ranked", "after": 2})
    write_teacher(tmp_path / "encoder.safetensors", recipe.facts())
    generator, lines = np.random.default_rng(0), []
    pictures = generator.integers(0, 256, (40, 16, 16, 3), np.uint8)
    encoder = split_encoder(recipe, tmp_path / "encoder.safetensors")
    trained = train_ranker(encoder, pictures, seed=0, report=lines.append)
    assert trained.metadata["after"] == "2"
    assert trained.weights["ranker.norm.weight"].shape == (12,)
    assert trained.overlap.random == 0.25
    assert 0 <= trained.overlap.attention <= 1
    assert trained.overlap.ranker > 0.25
    assert lines[-2:] == [
        "golden rankings of 40 of 40 pictures",
        "training on 32 pictures",
    ]


def test_a_search_reports_each_percent(tmp_path, monkeypatch):
    recipe = recipe_of(model={**TABLE["model"], "image_size": 8})
    write_teacher(tmp_path / "encoder.safetensors", recipe.facts())
    encoder = split_encoder(recipe, tmp_path / "encoder.safetensors")
    monkeypatch.setattr(ranking, "VARIANTS", 1)  # a picture at a time
    monkeypatch.setattr(ranking, "EPOCHS", 1)
    pictures, lines = np.zeros((250, 8, 8, 3), np.uint8), []
    train_ranker(encoder, pictures, seed=0, report=lines.append)
    assert lines[0] == "golden rankings of 3 of 250 pictures"
    assert lines[-2:] == ["golden rankings of 250 of 250 pictures", "training on 200 pictures"]
    assert len(lines) == 101


def test_the_weights_of_the_encoder_count_twice():
    small, large = (
        recipe_of(model={**TABLE["model"], "width": 512, "heads": 8, "depth": depth})
        for depth in (2, 22)
    )
    more = ranking_bytes(large, 32) - ranking_bytes(small, 32)
    matrices = 20 * 12 * 512 * 512 * 4  # bytes in 20 blocks
    assert 2 * matrices < more < 2.1 * matrices


def test_a_recipe_without_the_policy_has_no_ranker():
    with pytest.raises(ConfigError, match=r"tokens.name: 'evit' has no ranker. Use 'ranked'"):
        view_group(recipe_of(tokens={"name": "evit"}))
    group = view_group(recipe_of(tokens={"name": "random+ranked"}))
    assert (group.name, group.size_px, len(group.views)) == ("global", 16, 1)
