"""FLOPs of a step: PyTorch's count of the products that really run, and the papers' figure."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch", reason="its counter is the oracle")

from edge_export.analysis.cost import encoder_forward_flops  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edge_export.models import model_facts  # noqa: E402
from edge_export.package.build import rung_flops  # noqa: E402
from edge_export.policies import Setting, policy_named  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.example import example_inputs  # noqa: E402
from edge_export.step.program import Program  # noqa: E402

BATCH, PROJECTED = 4, 8
PLACEMENTS = ("before-mlp", "before-block", "after-block")


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are slower on more, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_program(method, tokens, depth):
    sizes = {"image_size": 16, "patch_size": 4, "depth": depth, "width": 48, "heads": 2}
    table = {
        "model": sizes,
        "batch_size": BATCH,
        "method": {"name": method, "projector_width": 24, "projector_out": PROJECTED},
        "tokens": tokens,
    }
    return Program(make_recipe(table, where="test"))


def counted_flops(program, policy):
    """What PyTorch counts while it computes loss and gradients."""
    inputs = {**program.initial_state(), **example_inputs(program, policy)}
    inputs |= {name: torch.tensor(0.5) for name in policy.hypers}
    with FlopCounterMode(display=False) as counter:
        program.gradient(policy, inputs)
    return counter.get_total_flops()


def comparison_flops(program, policy):
    """The products that `analysis.cost` leaves out: between pictures, and between tokens."""
    has_teacher = bool(program.teacher_names)
    if has_teacher:  # two losses; the teacher's keys have no gradient
        loss = 2 * 2 * (2 * BATCH * BATCH * PROJECTED)
    else:  # one factor twice, so both gradients
        loss = 3 * (2 * (2 * BATCH) ** 2 * PROJECTED)
    pairs = 2 * BATCH if has_teacher else BATCH
    left = [program.model.tokens - 1, *(fed - 1 for _, fed in policy.student_tokens)]
    stages = [before for before, after in pairwise(left) if after < before]
    if policy.name != "simprune":
        stages = []
    return loss + sum(pairs * 2 * tokens**2 * program.model.width for tokens in stages)


@pytest.mark.parametrize("method", ["simclr", "mocov3"])
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(
    ("tokens", "keep_ratio"),
    [
        ({"name": "none"}, 1.0),
        ({"name": "random"}, 0.4),
        *(({"name": "simprune", "placement": where}, 0.6) for where in PLACEMENTS),
    ],
    ids=["none", "random", *PLACEMENTS],
)
def test_a_steps_flops_are_those_that_pytorch_counts(method, tokens, depth, keep_ratio):
    program = make_program(method, tokens, depth)
    policy = program.policy(keep_ratio)
    compared = comparison_flops(program, policy)
    assert rung_flops(program, policy) == counted_flops(program, policy) - compared


def macs_slowly(tokens_per_block, width):
    """Multiply-adds of whole blocks by the textbook: (tokens in attention, in the MLP)."""
    macs = 0
    for attended, fed in tokens_per_block:
        macs += attended * width * width * 3  # queries, keys, values
        macs += attended * attended * width  # scores
        macs += attended * attended * width  # their mix of the values
        macs += attended * width * width  # projection
        macs += fed * width * 4 * width * 2  # MLP
    return macs


def deit_small(tokens, keep_ratio):
    model = model_facts("deit_small_patch16_224")
    kind = policy_named(tokens)
    options = kind.options()
    setting = Setting(
        model=model,
        keep_ratio=keep_ratio,
        views=2,
        batch_size=2,
        has_teacher=True,
        options=options,
    )
    return model, kind(setting).student_tokens


@pytest.mark.parametrize(
    ("tokens", "keep_ratio", "giga_macs"), [("none", 1.0, 4.599), ("simprune", 0.8, 3.444)]
)
def test_pruning_deit_small_saves_what_the_papers_say(tokens, keep_ratio, giga_macs):
    model, blocks = deit_small(tokens, keep_ratio)
    patches = (model.tokens - 1) * model.patch_size_px**2 * 3 * model.width
    whole = macs_slowly(blocks, model.width)
    classifier = model.width * 1000  # papers count ImageNet's
    assert (whole + patches + classifier) / 1e9 == pytest.approx(giga_macs, abs=5e-4)
    # Ours: in the last block only the class token asks, and goes on.
    attended, fed = blocks[-1]
    saved = macs_slowly([(attended, fed)], model.width)
    saved -= 3 * attended * model.width**2  # queries, keys and values of all tokens
    saved -= 2 * attended * model.width  # one row of scores, one mix
    saved -= model.width**2 + 2 * 4 * model.width**2  # projection and MLP of one token
    assert encoder_forward_flops(model, blocks) == 2 * (whole - saved)


def test_simprune_prunes_deit_small_in_three_stages():
    _, blocks = deit_small("simprune", 0.8)
    assert blocks == [
        *[(197, 197)] * 3,
        (197, 158),  # block 4 of 12
        *[(158, 158)] * 2,
        (158, 127),
        *[(127, 127)] * 2,
        (127, 102),
        *[(102, 102)] * 2,
    ]


def test_fewer_tokens_cost_less():
    program = make_program("mocov3", {"name": "random"}, 2)
    flops = [rung_flops(program, program.policy(ratio)) for ratio in (0.2, 0.5, 0.75, 1.0)]
    assert flops == sorted(set(flops))
