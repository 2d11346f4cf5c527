"""Token policies against their definitions."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from combinations import (  # noqa: E402
    METHODS_AND_POLICIES,
    METHODS_ON_ALL_TOKENS,
    keep_ratios,
)
from torch import Tensor  # noqa: E402

from edge_export import vit  # noqa: E402
from edge_export.context import Encoding, StepContext  # noqa: E402
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.package.graphs import tokens_per_block  # noqa: E402
from edge_export.policies import POLICIES  # noqa: E402
from edge_export.policies.base import kept_count, stage_blocks, take_rows  # noqa: E402
from edge_export.policies.simprune import select_pairs  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.example import example_draws, example_images  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_export.step.rung import RungProgram, StepOutputs  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.names import (  # noqa: E402
    EMA,
    LOSS,
    PARAM,
)
from edge_runtime.state import Array  # noqa: E402

DROPPED = -1e30


def test_every_method_and_policy_is_in_a_pair() -> None:
    """Those that exclude each other are left out, and nothing else."""
    alone = {"distillation"}  # it needs a teacher file: test_distillation.py
    assert {method for method, _ in METHODS_AND_POLICIES} == OBJECTIVES.keys() - alone
    assert {policy for _, policy in METHODS_AND_POLICIES} == POLICIES.keys()
    assert METHODS_ON_ALL_TOKENS[:2] == ["simclr", "mocov3"]
    assert keep_ratios("simclr", "random") == [1.0, 0.5]


def program(method: str, policy: str, **tokens: Any) -> Program:
    table = {
        "model": {"name": "vit_tiny", "image_size": 16, "patch_size": 4, "depth": 6,
                  "width": 24, "heads": 2},
        "batch_size": 3,
        "method": {"name": method},
        "tokens": {"name": policy, **tokens},
        "keep_ratios": [1.0],
    }  # fmt: skip
    return Program(make_recipe(table, where="test"))


def rung_of(program: Program, keep_ratio: float) -> RungProgram:
    """A rung of that keep-ratio, whether or not it is on the program's ladder."""
    return program.bind(replace(program.settings[0], keep_ratio=keep_ratio))


def inputs_of(program: Program, keep_ratio: float, progress: float = 0.4) -> dict[str, Tensor]:
    """Double precision: only the order of additions differs between two ways to compute."""
    state = {name: value.double() for name, value in program.initial_state().items()}
    generator = torch.Generator().manual_seed(1)
    for name in program.teacher_names:  # a teacher that differs from the student
        noise = torch.randn(state[EMA + name].shape, generator=generator, dtype=torch.float64)
        state[EMA + name] += 0.02 * noise
    rung = rung_of(program, keep_ratio)
    batch = {**example_images(rung, seed=3), **example_draws(rung, seed=3)}
    hyper = {
        name: torch.tensor(curve.at(1, steps_per_epoch=1, total_steps=1), dtype=torch.float64)
        for name, curve in program.hyper_parameters.items()
    }
    return {**state, **batch, **hyper, "progress": torch.tensor(progress)}


def parameters_of(program: Program, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's parameters among the inputs of a step."""
    return {name: inputs[PARAM + name] for name in program.parameters}


def gradients(
    program: Program, keep_ratio: float, inputs: dict[str, Tensor]
) -> tuple[Any, StepOutputs]:
    return rung_of(program, keep_ratio).gradient(inputs)


def assert_close(actual: Any, wanted: Any) -> None:
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        near = 1e-12 * max(1.0, float(value.abs().max()))  # where large terms cancel
        np.testing.assert_allclose(actual[name], value, rtol=1e-9, atol=near, err_msg=name)


def tokens_of(program: Program, keep_ratio: float) -> tuple[int, ...]:
    """Student tokens in the attention of each block, class token included."""
    kept = tokens_per_block(rung_of(program, keep_ratio), program.initial_state())
    assert kept.keys() == {"global"}
    return kept["global"]


@pytest.mark.parametrize(
    ("method", "policy"),
    [pair for pair in METHODS_AND_POLICIES if pair[0] in METHODS_ON_ALL_TOKENS],
)
def test_keeping_everything_is_the_same_as_no_policy(method: str, policy: str) -> None:
    plain, other = program(method, "none"), program(method, policy)
    inputs = inputs_of(plain, 1.0)
    wanted, outputs = gradients(plain, 1.0, inputs)
    actual, actual_outputs = gradients(other, 1.0, inputs)
    assert actual_outputs.metrics[LOSS] == outputs.metrics[LOSS]
    assert_close(actual, wanted)
    assert tokens_of(other, 1.0) == tokens_of(plain, 1.0) == (17,) * 6


def masked_features(
    program: Program, weights: dict[str, Tensor], patches: Tensor, masks: list[Tensor]
) -> Tensor:
    """Features with every token kept and the dropped ones at -1e30 as keys. Slow on purpose.

    `masks[block]`: (S, N) bool, True where a patch is still there in that block's attention.
    """
    kernel, positions = f"{vit.ENCODER}patch_embed.proj", weights[f"{vit.ENCODER}pos_embed"]
    x = vit.affine(weights, kernel, vit.normalise(program.model, patches, positions.dtype))
    class_tokens = weights[f"{vit.ENCODER}cls_token"].expand(len(x), -1, -1)
    x = torch.cat([class_tokens, x], dim=1) + positions
    for block, mask in enumerate(masks):
        class_token = torch.ones(len(mask), 1, dtype=torch.bool)
        seen = torch.cat([class_token, mask], dim=1)[:, None, None, :]
        bias = torch.where(seen, 0.0, DROPPED)
        name = vit.block_name(block)
        x = vit.attend(weights, name, program.model.heads, x, bias=bias).tokens
        x = vit.feed_forward(weights, name, x)
    return vit.layer_norm(weights, f"{vit.ENCODER}norm", x)[:, 0]


def masked_gradients(
    program: Program, inputs: dict[str, Tensor], student: list[Tensor], teacher: list[Tensor]
) -> tuple[Any, Tensor]:
    images = inputs["images.global"]
    patches = vit.cut_patches(images.flatten(0, 1), program.model.patch_size_px)
    taught = {name: inputs[EMA + name] for name in program.teacher_names}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        shape = (*images.shape[:2], -1)
        features = masked_features(program, weights, patches, student).reshape(shape)
        others = None
        if taught:
            others = masked_features(program, taught, patches, teacher).reshape(shape)
        step = StepContext(
            weights=weights,
            teacher_weights=taught,
            student={"global": encoding(features)},
            teacher={} if others is None else {"global": encoding(others)},
            patches={},
            draws={},
            hyper={name: inputs[name] for name in program.hyper_parameters},
            buffers=program.buffers_of(inputs),
            recorded={},
        )
        return program.objective.loss(step).loss

    weights = {name: inputs[PARAM + name] for name in program.parameters}
    return torch.func.grad_and_value(loss)(weights)


def encoding(features: Tensor) -> Encoding:
    """A branch as seen by an objective that reads only features."""
    kept = torch.zeros(*features.shape[:2], 0, dtype=torch.int64)
    return Encoding(features=features, kept=kept, tokens=None)


def mask_of(kept: Tensor, count: int) -> Tensor:
    return torch.zeros(len(kept), count, dtype=torch.bool).scatter(1, kept, True)


@pytest.mark.parametrize("method", METHODS_ON_ALL_TOKENS)
def test_gathering_equals_masking_for_random(method: str) -> None:
    bound = program(method, "random")
    inputs = inputs_of(bound, 0.5)
    actual, outputs = gradients(bound, 0.5, inputs)
    mask = mask_of(inputs["keep.global"].flatten(0, 1), 16)
    everything = torch.ones_like(mask)
    wanted, loss = masked_gradients(bound, inputs, [mask] * 6, [everything] * 6)
    np.testing.assert_allclose(outputs.metrics[LOSS], loss, rtol=1e-12)
    assert_close(actual, wanted)


@pytest.mark.parametrize(
    ("placement", "paired"),
    [
        ("before-mlp", True),
        ("before-block", True),
        ("after-block", True),
        ("before-mlp", False),
    ],
)
@pytest.mark.parametrize("method", METHODS_ON_ALL_TOKENS)
def test_gathering_equals_masking_for_simprune(
    method: str, placement: str, paired: bool
) -> None:
    bound = program(method, "simprune", placement=placement, paired=paired)
    inputs = inputs_of(bound, 0.7)
    actual, outputs = gradients(bound, 0.7, inputs)
    student, teacher = masks_of_simprune(
        outputs.selected, placement, shared=not bound.teacher_names
    )
    wanted, loss = masked_gradients(bound, inputs, student, teacher)
    np.testing.assert_allclose(outputs.metrics[LOSS], loss, rtol=1e-12)
    assert_close(actual, wanted)


def masks_of_simprune(
    selected: dict[str, Tensor], placement: str, *, shared: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Which of the first 16 patches are keys in each of 6 blocks, for student and teacher."""
    rows = 3 if shared else 6  # pairs of sequences
    left = [torch.arange(16).expand(rows, 16) for _ in "ot"]  # original indices, both sides
    masks: list[list[Tensor]] = [[], []]
    for block in range(6):
        kept = [selected.get(f"kept.{side}.global.{block}") for side in ("online", "target")]
        before = placement != "before-mlp"
        for side in (0, 1):
            if before and kept[side] is not None:
                left[side] = left[side].gather(1, kept[side])
            masks[side].append(mask_of(left[side], 16))
            if not before and kept[side] is not None:
                left[side] = left[side].gather(1, kept[side])
    assert len(left[0][0]) < 16
    if shared:
        return [torch.cat(pair) for pair in zip(*masks, strict=True)], []
    swapped = [torch.cat([mask[3:], mask[:3]]) for mask in masks[1]]  # target rows: other view
    return masks[0], swapped


def select_slowly(
    online: Array, target: Array, kept: int, progress: float
) -> tuple[list[int], list[int], set[int]]:
    """The selection of one pair, from facts/definition: token by token. Never optimise this.

    Returns both keep sets and the targets of the pruned online tokens.
    """
    count = len(online)
    unit = [x / np.linalg.norm(x) for x in online], [x / np.linalg.norm(x) for x in target]
    similarity = np.array([[a @ b for b in unit[1]] for a in unit[0]])
    partner = [int(np.argmax(row)) for row in similarity]
    best = [float(np.max(row)) for row in similarity]
    order = sorted(range(count), key=lambda i: (best[i], i))
    pruned_count = count - kept
    offset = math.floor(progress * kept + 0.5)
    pruned = order[offset : offset + pruned_count]
    hit = {partner[i] for i in pruned}
    centre = np.mean([best[i] for i in pruned])
    unhit = sorted(
        (j for j in range(count) if j not in hit),
        key=lambda j: (abs(float(np.max(similarity[:, j])) - centre), j),
    )
    gone = hit | set(unhit[: pruned_count - len(hit)])
    return (
        sorted(set(range(count)) - set(pruned)),
        sorted(set(range(count)) - gone),
        hit,
    )


def features(kind: str, seed: int, count: int = 24) -> tuple[Tensor, Tensor]:
    """Two branches of 4 sequences; clustered ones have many tokens with the same partner."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, count, 8)
    noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    if kind == "random":
        return noise[0], noise[1]
    centres = torch.randn((4, 5, 8), generator=generator, dtype=torch.float64)
    cluster = torch.randint(0, 5, (4, count), generator=generator)
    spread = centres.gather(1, cluster[..., None].expand(shape))
    return spread + 0.05 * noise[0], spread.roll(3, 1) + 0.3 * noise[1]


@pytest.mark.parametrize("progress", [0.0, 0.31, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_selection_equals_its_definition(kind: str, progress: float) -> None:
    deficit = False
    for seed in range(5):
        online, target = features(kind, seed)
        actual = select_pairs(online, target, 17, torch.tensor(progress))
        for row in range(4):
            wanted = select_slowly(online[row].numpy(), target[row].numpy(), 17, progress)
            assert actual[0][row].tolist() == wanted[0]
            assert actual[1][row].tolist() == wanted[1]
            assert len(set(actual[1][row].tolist())) == 17
            assert not wanted[2] & set(actual[1][row].tolist())  # every hit target is pruned
            deficit |= len(wanted[2]) < 24 - 17
    assert deficit  # the many-to-one repair was needed


@pytest.mark.parametrize("progress", [0.0, 0.31, 1.0])
def test_without_pairs_each_branch_prunes_by_its_own_ranks(progress: float) -> None:
    for seed in range(5):
        sides = features("clustered", seed)
        actual = select_pairs(*sides, 17, torch.tensor(progress), False)
        for row in range(4):
            unit = [x[row].numpy() / np.linalg.norm(x[row], axis=1)[:, None] for x in sides]
            for found, mine, other in ((actual[0], *unit), (actual[1], *unit[::-1])):
                best = [max(float(a @ b) for b in other) for a in mine]
                order = sorted(range(24), key=lambda i: (best[i], i))
                offset = math.floor(progress * 17 + 0.5)
                pruned = order[offset : offset + 24 - 17]
                assert found[row].tolist() == sorted(set(range(24)) - set(pruned))


def test_identical_branches_pair_with_themselves() -> None:
    online, _ = features("random", 0)
    first, second = select_pairs(online, online, 15, torch.tensor(0.2))
    assert torch.equal(first, second)


def test_permuting_one_branch_permutes_only_its_selection() -> None:
    online, target = features("random", 1)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    before = select_pairs(online, target, 15, torch.tensor(0.5))
    after = select_pairs(online[:, order], target, 15, torch.tensor(0.5))
    assert torch.equal(after[1], before[1])
    assert torch.equal(order[after[0]].sort(dim=1)[0], before[0])


def test_the_window_slides_from_the_least_to_the_most_similar() -> None:
    online, target = features("random", 2)
    unit = [torch.nn.functional.normalize(x, dim=2) for x in (online, target)]
    best = (unit[0] @ unit[1].transpose(1, 2)).amax(dim=2)  # (4, 24)
    ascending = best.argsort(dim=1)
    for progress, pruned in ((0.0, ascending[:, :9]), (1.0, ascending[:, 15:])):
        kept, _ = select_pairs(online, target, 15, torch.tensor(progress))
        gone = ~mask_of(kept, 24)
        assert torch.equal(gone, mask_of(pruned, 24))


@pytest.mark.parametrize("method", METHODS_ON_ALL_TOKENS)
def test_the_other_direction_is_the_mirrored_window(method: str) -> None:
    forward = program(method, "simprune")
    backward = program(method, "simprune", direction="most-to-least")
    inputs = inputs_of(forward, 0.7, progress=0.25)
    mirrored = {**inputs, "progress": torch.tensor(0.75)}
    (actual, outputs), (wanted, expected) = (
        gradients(backward, 0.7, mirrored),
        gradients(forward, 0.7, inputs),
    )
    assert_close(outputs.metrics, expected.metrics)
    assert_close(outputs.selected, expected.selected)
    assert len(expected.selected) == 6  # both sides of three stages
    assert_close(actual, wanted)


def test_stages_keep_their_fractions_and_leave_out_the_last_block() -> None:
    assert stage_blocks(12, after=False) == (3, 6, 9)
    assert stage_blocks(12, after=True) == (4, 7, 10)
    assert stage_blocks(24, after=False) == (6, 12, 18)
    assert stage_blocks(6, after=False) == (1, 3, 4)
    assert stage_blocks(2, after=False) == (0,)
    assert stage_blocks(1, after=False) == ()


def test_token_counts_of_a_small_model() -> None:
    """64 tokens at 0.8 per stage: 64, 52, 42, 34 (papers' accounting)."""
    table = {
        "model": {"name": "vit_tiny", "image_size": 32, "patch_size": 4},
        "tokens": {"name": "simprune"},
        "keep_ratios": [0.8],
    }
    attention = tokens_of(Program(make_recipe(table, where="test")), 0.8)
    assert [n - 1 for n in attention] == [64] * 4 + [52] * 3 + [42] * 3 + [34] * 2


def test_kept_count_rounds_up_but_not_rounding_errors() -> None:
    assert [kept_count(r, 30) for r in (0.1, 0.11, 1.0, 0.001)] == [3, 4, 30, 1]


def test_take_rows_and_its_gradient_are_a_gather_and_a_scatter() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    index = torch.rand(3, 7, generator=generator).argsort(1)[:, :4]
    weight = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    actual = torch.func.grad(lambda y: (take_rows(y, index) * weight).sum())(x)
    wanted = torch.zeros_like(x)
    for s, k in np.ndindex(3, 4):
        wanted[s, index[s, k]] += weight[s, k]
        assert torch.equal(take_rows(x, index)[s, k], x[s, index[s, k]])
    assert torch.equal(actual, wanted)


def test_unknown_options_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown 'up'; known are least-to-most, most"):
        program("simclr", "simprune", direction="up")
    with pytest.raises(ConfigError, match="unknown token policy 'evits'; known are none, "):
        program("simclr", "evits")
