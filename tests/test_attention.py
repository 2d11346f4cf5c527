"""The interface of attention for token policies: bias, token sizes, probabilities, keys."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="attention is a torch function")

from encoded import encoded  # noqa: E402
from test_policies import gradients, inputs_of, parameters_of, program, rung_of  # noqa: E402

from edge_export import vit  # noqa: E402
from edge_export.declaration import Declaration, LossResult  # noqa: E402
from edge_export.parameters import Parameter, initial_values  # noqa: E402
from edge_export.policies import POLICIES, TokenPolicy  # noqa: E402
from edge_runtime.package.names import LOSS, PARAM  # noqa: E402

WIDTH, HEADS = 8, 2


def weights_of():
    declared = vit.block_parameters("layer", WIDTH)
    generator = torch.Generator().manual_seed(0)
    return {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator).double()
        for name, value in initial_values(declared, seed=1).items()
    }


def tokens_of(count=5):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, count, WIDTH, generator=generator, dtype=torch.float64)


def attend_slowly(weights, x):
    """One sequence, token by token and head by head."""
    size = WIDTH // HEADS
    y = vit.layer_norm(weights, "layer.norm1", x)
    qkv = y @ weights["layer.attn.qkv.weight"] + weights["layer.attn.qkv.bias"]
    probabilities, mixed = [], torch.zeros_like(x)
    for head in range(HEADS):
        q, k, v = (qkv[:, i * WIDTH + head * size :][:, :size] for i in range(3))
        rows = []
        for token in range(len(x)):
            scores = [float(q[token] @ key) / math.sqrt(size) for key in k]
            exponentials = [math.exp(score) for score in scores]
            rows.append([e / sum(exponentials) for e in exponentials])
            for weight, value in zip(rows[-1], v, strict=True):
                mixed[token, head * size : (head + 1) * size] += weight * value
        probabilities.append(rows)
    out = mixed @ weights["layer.attn.proj.weight"] + weights["layer.attn.proj.bias"]
    return x + out, probabilities


def test_attention_is_its_definition():
    weights, x = weights_of(), tokens_of()
    actual = vit.attend(weights, "layer", HEADS, x)
    assert actual.keys.shape == (3, HEADS, 5, WIDTH // HEADS)
    for row in range(3):
        tokens, probabilities = attend_slowly(weights, x[row])
        np.testing.assert_allclose(actual.tokens[row], tokens, rtol=1e-12)
        np.testing.assert_allclose(actual.probabilities[row], probabilities, rtol=1e-12)


def test_fewer_queries_are_the_first_rows():
    weights, x = weights_of(), tokens_of()
    whole = vit.attend(weights, "layer", HEADS, x)
    some = vit.attend(weights, "layer", HEADS, x, queries=2)
    np.testing.assert_allclose(some.tokens, whole.tokens[:, :2], rtol=1e-12)
    np.testing.assert_allclose(some.probabilities, whole.probabilities[:, :, :2], rtol=1e-12)
    assert some.keys.shape == whole.keys.shape


def test_a_token_of_size_two_counts_as_two():
    """The logarithm of the sizes as a bias, as in ToMe (Bolya et al. 2023, equation 1)."""
    weights, x = weights_of(), tokens_of()
    twice = torch.cat([x, x[:, 3:4]], dim=1)  # token 3 again
    sizes = torch.ones(3, 5, dtype=torch.float64)
    sizes[:, 3] = 2
    bias = sizes.log()[:, None, None, :]
    actual = vit.attend(weights, "layer", HEADS, x, bias=bias).tokens
    expected = vit.attend(weights, "layer", HEADS, twice).tokens[:, :5]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


class Sized(TokenPolicy):
    """Gives each patch token the size of three patches, and records attention's results."""

    name = "sized"

    def before_block(self, block, branches):
        student = branches.student
        patches = student.x.shape[1] - 1
        sizes = [1.0] + [3.0] * patches
        student.sizes = torch.tensor(sizes, dtype=torch.float64).expand(len(student.x), -1)

    def before_mlp(self, block, branches, attention):
        branches.recorded[f"mass.{block}"] = attention["student"].probabilities[:, :, 0, 0]


def test_sizes_that_a_policy_sets_weigh_in_every_block(monkeypatch):
    monkeypatch.setitem(POLICIES, Sized.name, Sized)
    plain, sized = program("simclr", "none"), program("simclr", "sized")
    inputs = inputs_of(plain, 1.0)
    weights = parameters_of(plain, inputs)
    recorded = encoded(rung_of(sized, 1.0), weights, inputs).recorded
    # Not in the last block, after which only the class token goes on
    assert recorded.keys() == {f"mass.{block}" for block in range(5)}
    # In the first block: e / (e + 3 rest) where it was e / (e + rest)
    grid = plain.grid(plain.views[0], plain.settings[0])
    x = grid.embed(
        weights, grid.cut(inputs["images.global"].flatten(0, 1)), grid.positions(weights)
    )
    mass = vit.attend(weights, vit.block_name(0), 2, x).probabilities[:, :, 0, 0]
    np.testing.assert_allclose(recorded["mass.0"], mass / (mass + 3 * (1 - mass)), rtol=1e-9)


class Scored(TokenPolicy):
    """Has a trained parameter and a loss term."""

    name = "scored"

    @property
    def declaration(self):
        return Declaration(parameters=(Parameter(name="score", shape=(3,), init="ones"),))

    def loss(self, step):
        term = (step.weights["score"] * step.weights["score"]).sum()
        return LossResult(loss=0.5 * term, metrics={"term": term})


@pytest.mark.parametrize("name", ["scored", "random+scored"])
def test_a_policys_loss_is_added_and_its_parameters_are_trained(monkeypatch, name):
    monkeypatch.setitem(POLICIES, Scored.name, Scored)
    plain = program("simclr", name.removesuffix("+scored") if "+" in name else "none")
    scored = program("simclr", name)
    inputs = inputs_of(scored, 0.5 if "+" in name else 1.0)
    keep_ratio = 0.5 if "+" in name else 1.0
    without, outputs = gradients(plain, keep_ratio, inputs)
    actual, more = gradients(scored, keep_ratio, inputs)
    assert set(actual) - set(without) == {"score"}
    assert torch.equal(actual["score"], inputs[PARAM + "score"])
    assert more.metrics["term"] == 3
    np.testing.assert_allclose(more.metrics[LOSS], outputs.metrics[LOSS] + 1.5, rtol=1e-12)
    for parameter, value in without.items():
        np.testing.assert_allclose(actual[parameter], value, rtol=1e-9, atol=1e-12)


class Watching(TokenPolicy):
    """Records the blocks in which it is called."""

    name = "watching"

    def before_block(self, block, branches):
        branches.recorded[f"block.{block}"] = branches.student.x

    def before_mlp(self, block, branches, attention):
        branches.recorded[f"mlp.{block}"] = attention["student"].probabilities


def blocks_seen(monkeypatch, *, features=vit.CLASS_TOKEN, patch_tokens=False):
    """The blocks before which, and in which, the policy is called; and the last attention."""
    monkeypatch.setitem(POLICIES, Watching.name, Watching)
    bound = program("simclr", Watching.name)
    bound.model = replace(bound.model, features=features)
    bound.views = tuple(replace(group, patch_tokens=patch_tokens) for group in bound.views)
    inputs = inputs_of(bound, 1.0)
    recorded = encoded(rung_of(bound, 1.0), parameters_of(bound, inputs), inputs).recorded
    seen = {
        kind: [int(name.partition(".")[2]) for name in recorded if name.startswith(kind)]
        for kind in ("block", "mlp")
    }
    return seen, recorded


def test_a_policy_is_not_called_where_only_the_class_token_goes_on(monkeypatch):
    seen, _ = blocks_seen(monkeypatch)
    assert seen == {"block": [0, 1, 2, 3, 4, 5], "mlp": [0, 1, 2, 3, 4]}


@pytest.mark.parametrize(
    "needed", [{"features": vit.MEAN_PATCHES}, {"patch_tokens": True}], ids=str
)
def test_a_policy_is_called_in_every_block_where_all_tokens_are_needed(monkeypatch, needed):
    seen, recorded = blocks_seen(monkeypatch, **needed)
    assert seen == {"block": [0, 1, 2, 3, 4, 5], "mlp": [0, 1, 2, 3, 4, 5]}
    assert recorded["mlp.5"].shape[-2:] == (17, 17)  # every token asks
