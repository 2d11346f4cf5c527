"""Token policy `tome` against its definition."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from encoded import encoded  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from lowered import assert_same, lowered, run  # noqa: E402
from test_policies import inputs_of, parameters_of, program, rung_of, tokens_of  # noqa: E402

from edge_export import vit  # noqa: E402
from edge_export.policies.base import Tokens  # noqa: E402
from edge_export.policies.tome import TomePolicy, matched, merge  # noqa: E402
from edge_export.step.encoder import pooled  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402


def merge_slowly(rows, keys, count):
    """One sequence as in the authors' code: even and odd places, class token at place 0.

    A row is (vector, size, its patches); `keys` has one for each. Never optimise this.
    """
    sources, targets = range(0, len(rows), 2), range(1, len(rows), 2)
    cosine = {}
    for i in sources:
        for j in targets:
            a, b = np.array(keys[i]), np.array(keys[j])
            similarity = float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)) if i else -math.inf
            cosine[i, j] = similarity
    best = {i: max(cosine[i, j] for j in targets) for i in sources}
    merged = sorted(best, key=lambda i: (-best[i], i))[:count]
    groups = {j: [j] for j in targets}
    for i in merged:
        groups[next(j for j in targets if cosine[i, j] == best[i])].append(i)
    left = [rows[i] for i in sources if i not in merged]
    return left + [mean_of([rows[i] for i in members]) for members in groups.values()]


def mean_of(rows):
    size = sum(row[1] for row in rows)
    vector = sum(row[0] * row[1] for row in rows) / size
    return vector, size, [patch for row in rows for patch in row[2]]


def sequences(seed, tokens, width=4):
    generator = torch.Generator().manual_seed(seed)

    def normal(count):
        return torch.randn(2, count, width, generator=generator, dtype=torch.float64)

    return normal(1 + tokens), normal(tokens)


@given(st.integers(2, 13), st.integers(0, 5), st.data())
@settings(max_examples=50, deadline=None)
def test_merging_is_its_definition(tokens, seed, data):
    """And what it keeps: the number of patches, and the sum of tokens times their sizes."""
    count = data.draw(st.integers(1, tokens // 2))
    x, keys = sequences(seed, tokens)
    sizes = torch.ones(2, 1 + tokens, dtype=torch.float64)
    if data.draw(st.booleans()):
        sizes[:, 1:] += torch.arange(tokens) % 3
    actual = Tokens(x, torch.arange(tokens).expand(2, -1), sizes)
    merge(actual, matched(keys, count), tokens - count)
    for row in range(2):
        patches = [[], *([i] for i in range(tokens))]
        rows = list(zip(x[row], sizes[row].tolist(), patches, strict=True))
        wanted = merge_slowly(rows, [[0.0], *keys[row].tolist()], count)
        np.testing.assert_allclose(actual.x[row], torch.stack([w[0] for w in wanted]), 1e-12)
        assert actual.sizes[row].tolist() == [w[1] for w in wanted]
        single = [w[2][0] if len(w[2]) == 1 else -1 for w in wanted[1:]]
        assert actual.kept[row].tolist() == single
    assert torch.equal(actual.sizes.sum(dim=1), sizes.sum(dim=1))
    before, after = (sizes[..., None] * x).sum(1), (actual.sizes[..., None] * actual.x).sum(1)
    np.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-12)
    assert torch.equal(actual.x[:, 0], x[:, 0])  # the class token, bit for bit


def test_equal_similarities_are_decided_the_same_in_a_graph():
    """All keys are equal: the first sources go into the first target."""
    keys = torch.ones(2, 7, 4)
    (slot,) = run(lowered(lambda k: matched(k, 2), keys), keys)
    assert slot.tolist() == [[1, 1, 2, 1, 3, 0, 4]] * 2


def test_a_graph_merges_like_pytorch():
    x, keys = (each.float() for each in sequences(3, 9))

    def merged(x, keys):
        tokens = Tokens(x, torch.arange(9).expand(2, 9))
        merge(tokens, matched(keys, 3), 6)
        return tokens.x, tokens.sizes, tokens.kept

    assert_same(run(lowered(merged, x, keys), x, keys), merged(x, keys))


def test_gradients_are_shared_by_size():
    x, keys = sequences(1, 8)
    sizes = torch.ones(2, 9, dtype=torch.float64)
    sizes[:, 3] = 3
    slot = matched(keys, 3)

    def merged(x):
        tokens = Tokens(x, torch.arange(8).expand(2, 8), sizes)
        merge(tokens, slot, 5)
        return tokens.x

    assert torch.autograd.gradcheck(merged, (x.requires_grad_(),))
    merged(x).sum().backward()
    for row in range(2):
        slots = [-1, *slot[row].tolist()]
        for i, here in enumerate(slots):
            whole = sum(sizes[row, j] for j, other in enumerate(slots) if other == here)
            np.testing.assert_allclose(x.grad[row, i], sizes[row, i] / whole, rtol=1e-12)


def encode_slowly(bound, weights, image, merged_in):
    """The class token of one picture through the encoder; `merged_in[block]` tokens merge."""
    model, grid = bound.model, bound.grid(bound.views[0], bound.settings[0])
    x = grid.embed(weights, grid.cut(image[None]), grid.positions(weights))
    rows = [(vector, 1.0, [i - 1]) for i, vector in enumerate(x[0])]
    for block in range(model.depth):
        name = vit.block_name(block)
        x = torch.stack([row[0] for row in rows])[None]
        bias = torch.tensor([math.log(row[1]) for row in rows], dtype=x.dtype)
        after = vit.attend(weights, name, model.heads, x, bias=bias[None, None, None])
        rows = [(v, *row[1:]) for v, row in zip(after.tokens[0], rows, strict=True)]
        if merged_in[block]:
            keys = (sum(head) / model.heads for head in zip(*after.keys[0], strict=True))
            rows = merge_slowly(rows, [key.tolist() for key in keys], merged_in[block])
        x = vit.feed_forward(weights, name, torch.stack([row[0] for row in rows])[None])
        rows = [(v, *row[1:]) for v, row in zip(x[0], rows, strict=True)]
    return vit.layer_norm(weights, f"{vit.ENCODER}norm", rows[0][0])


@pytest.mark.parametrize(
    ("keep_ratio", "merged_in"),
    [(0.75, [0, 1, 1, 0, 1, 0]), (0.3, [1, 2, 2, 2, 2, 0])],
)
def test_features_are_those_of_the_definition(keep_ratio, merged_in):
    """16 patches, of which 4 and 11 are to go; nothing merges in the last block, whose tokens
    nobody reads.
    """
    bound = program("simclr", "tome")
    inputs = inputs_of(bound, keep_ratio)
    weights = parameters_of(bound, inputs)
    found = encoded(rung_of(bound, keep_ratio), weights, inputs)
    attended = np.array(found.student_tokens)
    assert (attended[:-1] - attended[1:]).tolist() == merged_in[:-1]
    for view in range(2):
        for row in range(3):
            image = inputs["images.global"][view, row]
            features = encode_slowly(bound, weights, image, merged_in)
            np.testing.assert_allclose(found.student.features[view, row], features, rtol=1e-9)


def test_the_keep_ratio_is_that_after_the_last_block():
    """Every block merges the same, and at most half of its tokens."""
    assert tokens_of(program("simclr", "tome"), 0.25) == (17, 15, 13, 11, 9, 7)
    assert tokens_of(program("simclr", "tome"), 0.0625) == (17, 15, 12, 10, 7, 5)
    shallow = rung_of(program("simclr", "tome"), 0.0625).policy
    model = replace(shallow.setting.model, depth=1)
    tokens = Tokens(torch.zeros(2, 17, 4), torch.zeros(2, 16, dtype=torch.int64))
    assert TomePolicy(replace(shallow.setting, model=model))._merged_in(0, tokens) == 8


def test_after_another_policy_the_keep_ratio_is_of_its_tokens():
    """Of 16 patches half are embedded, of which half stay."""
    assert tokens_of(program("simclr", "random+tome"), 0.5) == (9, 9, 8, 7, 7, 6)


def test_the_mean_over_patch_tokens_is_one_over_patches():
    tokens = torch.arange(24, dtype=torch.float64).reshape(2, 4, 3)
    sizes = torch.tensor([[1.0, 1, 4, 3], [1, 2, 5, 1]], dtype=torch.float64)
    actual = pooled(tokens, vit.MEAN_PATCHES, sizes)
    for row in range(2):
        patches = [tokens[row, i] for i in (1, 2, 3) for _ in range(int(sizes[row, i]))]
        np.testing.assert_allclose(actual[row], sum(patches) / 8, rtol=1e-12)
    assert torch.equal(pooled(tokens, vit.CLASS_TOKEN, sizes), tokens[:, 0])


def test_a_method_that_reads_single_patches_is_refused():
    setting = rung_of(program("simclr", "tome"), 0.5).policy.setting
    (group,) = setting.groups
    views = (replace(group, patch_tokens=True),)
    setting = replace(setting, method=replace(setting.method, views=views))
    message = "single patches of view group 'global', and tome joins several in one token"
    with pytest.raises(ConfigError, match=message):
        TomePolicy(setting)
